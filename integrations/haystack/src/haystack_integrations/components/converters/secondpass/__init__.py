"""Corpora into pipelines: `corpus_reader.CorpusReader` gives the documents of BEIR folders and JSON Lines files."""

from haystack_integrations.components.converters.secondpass.corpus_reader import CorpusReader

__all__ = ["CorpusReader"]
