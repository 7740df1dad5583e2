"""An index of Elasticsearch as both passes ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secondpass_elasticsearch.engine import ELASTICSEARCH
from secondpass_elasticsearch.failures import spoken
from secondpass_searching.engine import Engine

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

# Elasticsearch looks at no more than this for each shard.
MOST_CANDIDATES = 10_000


class ElasticsearchIndex:
    """One index or alias; safe to share between threads, as its client is. `server` is an address."""

    def __init__(self, client: Elasticsearch, server: str, index: str) -> None:
        self._client = client
        self._server = server
        self._index = index

    @property
    def engine(self) -> Engine:
        """Elasticsearch."""
        return ELASTICSEARCH

    @property
    def name(self) -> str:
        """Engine, server and index, without credentials."""
        return ELASTICSEARCH.at(f"{self._server}/{self._index}")

    def hits(self, body: Mapping[str, Any], index: str | None = None) -> list[dict[str, Any]]:
        """Search this index or another; see `SearchedIndex.hits`.

        Raises:
            InvalidInput, SecondPassError: as `spoken`.
        """
        with spoken(self._server):
            answer = self._client.search(
                index=index or self._index, body=dict(body), allow_partial_search_results=False
            ).body
        found: list[dict[str, Any]] = answer["hits"]["hits"]
        return found

    def nearest(self, vector: Sequence[float], field: str, depth: int) -> dict[str, Any]:
        """The part of a body that finds the nearest documents."""
        most = min(10 * depth, MOST_CANDIDATES)
        return {"knn": {"field": field, "query_vector": list(vector), "k": depth, "num_candidates": most}}

    def known_fields(self, fields: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Types of those of `fields` that the index has."""
        with spoken(self._server):
            known = self._client.field_caps(index=self._index, fields=list(fields)).body["fields"]
        return {name: list(types) for name, types in known.items()}

    def field_mapping(self, field: str) -> Mapping[str, Any] | None:
        """The field's mapping in each index; None if this user may not ask."""
        from elasticsearch import AuthorizationException

        with spoken(self._server):
            try:
                found: dict[str, Any] = self._client.indices.get_field_mapping(index=self._index, fields=field).body
            except AuthorizationException:
                return None
        return found
