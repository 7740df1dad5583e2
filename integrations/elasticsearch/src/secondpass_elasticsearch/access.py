"""An index of the Elasticsearch that the environment names, for the length of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secondpass_elasticsearch.engine import ELASTICSEARCH
from secondpass_elasticsearch.session import session
from secondpass_searching.access import EmbeddingSink, EngineAccess
from secondpass_searching.searched_index import SearchedIndex


@contextmanager
def searched(url: str | None, timeout: float, index: str) -> Iterator[SearchedIndex]:
    """An index to search; its client is closed at the end.

    Raises:
        InvalidInput, MissingExtra: as `session`.
    """
    from secondpass_elasticsearch.elasticsearch_index import ElasticsearchIndex

    with session(url, timeout) as (client, server):
        yield ElasticsearchIndex(client, server, index)


@contextmanager
def sink(url: str | None, timeout: float, index: str) -> Iterator[EmbeddingSink]:
    """An index to write to; its client is closed at the end.

    Raises:
        InvalidInput, MissingExtra: as `session`.
    """
    from secondpass_elasticsearch.sink import ElasticsearchSink

    with session(url, timeout) as (client, server):
        yield ElasticsearchSink(client, server, index)


ACCESS = EngineAccess(ELASTICSEARCH, searched, sink)
