"""What requests to Elasticsearch have of their own; tests/searching asks real indexes of both engines."""

from __future__ import annotations

from elasticsearch import Elasticsearch

from secondpass_elasticsearch.elasticsearch_index import ElasticsearchIndex
from secondpass_searching.searched_index import SearchedIndex


def test_no_more_than_the_server_looks_at(client: Elasticsearch) -> None:
    """num_candidates has a ceiling that k may reach."""
    index: SearchedIndex = ElasticsearchIndex(client, "http://h:1", "docs")
    assert index.nearest([1.0], "embedding", 100)["knn"]["num_candidates"] == 1_000
    assert index.nearest([1.0], "embedding", 5_000)["knn"]["num_candidates"] == 10_000
    assert index.name == "Elasticsearch http://h:1/docs"
