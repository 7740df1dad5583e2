"""What requests to OpenSearch have of their own; tests/searching asks real indexes of both engines."""

from __future__ import annotations

from secondpass_opensearch.access import opened
from secondpass_opensearch.server import Server


def test_vectors_are_searched_by_the_plugins_query(server: Server) -> None:
    """As many neighbours as are wanted."""
    with opened(server, "docs") as index:
        assert index.nearest([1.0], "embedding", 7) == {"query": {"knn": {"embedding": {"vector": [1.0], "k": 7}}}}
        assert index.name == f"OpenSearch {server.address}/docs"
