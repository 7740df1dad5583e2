"""Elasticsearch as the first pass, and secondpass as its second."""
