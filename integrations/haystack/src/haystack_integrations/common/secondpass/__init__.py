"""What secondpass's Haystack components share: texts of documents, checked parameters, a model for many threads."""
