"""Answers taken from documents, for Haystack."""

from haystack_integrations.components.readers.secondpass.sentence_reader import SentenceReader

__all__ = ["SentenceReader"]
