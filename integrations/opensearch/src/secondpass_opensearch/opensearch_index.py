"""An index of OpenSearch as both passes ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secondpass_opensearch.engine import OPENSEARCH
from secondpass_opensearch.failures import named, speaking_to
from secondpass_opensearch.server import Server
from secondpass_searching.engine import Engine

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

WHOLE = {"allow_partial_search_results": "false"}


class OpenSearchIndex:
    """One index or alias; safe to share between threads, as its client is."""

    def __init__(self, client: OpenSearch, server: Server, index: str) -> None:
        self._client = client
        self._server = server
        self._index = index

    @property
    def engine(self) -> Engine:
        """OpenSearch."""
        return OPENSEARCH

    @property
    def name(self) -> str:
        """Engine, server and index, without credentials."""
        return f"{named(self._server)}/{self._index}"

    def hits(self, body: Mapping[str, Any], index: str | None = None) -> list[dict[str, Any]]:
        """Search this index or another; see `SearchedIndex.hits`.

        Raises:
            InvalidInput, SecondPassError: as `speaking_to`.
        """
        with speaking_to(self._server):
            answer = self._client.search(index=index or self._index, body=dict(body), params=dict(WHOLE))
        found: list[dict[str, Any]] = answer["hits"]["hits"]
        return found

    def nearest(self, vector: Sequence[float], field: str, depth: int) -> dict[str, Any]:
        """The part of a body that finds the nearest documents."""
        return {"query": {"knn": {field: {"vector": list(vector), "k": depth}}}}

    def known_fields(self, fields: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Types of those of `fields` that the index has."""
        with speaking_to(self._server):
            known = self._client.field_caps(index=self._index, fields=",".join(fields))["fields"]
        return {name: list(types) for name, types in known.items()}

    def field_mapping(self, field: str) -> Mapping[str, Any] | None:
        """The field's mapping in each index; None if this user may not ask."""
        from opensearchpy.exceptions import AuthorizationException

        with speaking_to(self._server):
            try:
                found: dict[str, Any] = self._client.indices.get_field_mapping(index=self._index, fields=field)
            except AuthorizationException:
                return None
        return found
