"""An index of the OpenSearch that the environment names, for the length of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from secondpass_opensearch.engine import OPENSEARCH
from secondpass_opensearch.server import Server
from secondpass_searching.access import EmbeddingSink, EngineAccess
from secondpass_searching.searched_index import SearchedIndex


@contextmanager
def opened(server: Server, index: str) -> Iterator[SearchedIndex]:
    """An index of a server to search; its client is closed at the end.

    Raises:
        MissingExtra: opensearch-py is not installed.
    """
    from secondpass_opensearch.opensearch_index import OpenSearchIndex

    with server.client() as client:
        yield OpenSearchIndex(client, server, index)


@contextmanager
def searched(url: str | None, timeout: float, index: str) -> Iterator[SearchedIndex]:
    """The same of the server that the environment names, or `url` instead.

    Raises:
        InvalidInput, MissingExtra: as `Server.from_environment` and `opened`.
    """
    with opened(Server.from_environment(url=url, timeout=timeout), index) as found:
        yield found


@contextmanager
def sink(url: str | None, timeout: float, index: str) -> Iterator[EmbeddingSink]:
    """An index to write to; its client is closed at the end.

    Raises:
        InvalidInput, MissingExtra: as `searched`.
    """
    from secondpass_opensearch.sink import OpenSearchSink

    with closing(OpenSearchSink(Server.from_environment(url=url, timeout=timeout), index)) as made:
        yield made


ACCESS = EngineAccess(OPENSEARCH, searched, sink)
