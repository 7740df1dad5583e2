"""An index of Elasticsearch: made, written and searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass_servers.answers import index_is_there, outcome_of, status_line, told
from secondpass_servers.contract import (
    BatchTooLarge,
    EmbeddingSink,
    EngineAccess,
    Entry,
    IndexingError,
    Outcome,
    SearchedIndex,
    SearchEngine,
    ServerAway,
    TooBusy,
)
from secondpass_servers.elasticsearch.client import (
    ELASTICSEARCH,
    OTHER_PRODUCT,
    described,
    kind,
    session,
    silence,
    spoken,
)
from secondpass_servers.index_layout import IndexLayout
from secondpass_servers.requests import ApiRequest

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch


THERE = "resource_already_exists_exception"
# Elasticsearch looks at no more than this for each shard.
MOST_CANDIDATES = 10_000
AWAY = (502, 503, 504)
# All that is read of an answer to a bulk request: the rest is as long as the request.
ANSWER = ["items.index.status", "items.index.result", "items.index.error"]


class Similarity(StrEnum):
    """How embeddings are compared."""

    cosine = "cosine"
    dot_product = "dot_product"
    l2_norm = "l2_norm"
    max_inner_product = "max_inner_product"


def creation(layout: IndexLayout, similarity: str = "cosine") -> ApiRequest:
    """The request that makes the index; `similarity` says how embeddings are compared.

    Raises:
        InvalidInput: `similarity` is no `Similarity`.
    """
    if similarity not in list(Similarity):
        raise InvalidInput(f"similarity={similarity!r} is none of {', '.join(Similarity)}")
    vector = None
    if layout.dims is not None:
        vector = {"type": ELASTICSEARCH.vector_type, "dims": layout.dims, "index": True, "similarity": similarity}
    return ApiRequest("PUT", f"/{layout.name}", layout.body(vector))


def create_index(client: Elasticsearch, server: str, layout: IndexLayout, similarity: str = "cosine") -> None:
    """Create the index; the server itself sees to it that no index is written over.

    Raises:
        InvalidInput: something of that name is there, or the server refuses name, analyzer or dims.
        SecondPassError: as `spoken`.
    """
    from elasticsearch import BadRequestError

    # A repetition after a time-out would only hear that the index is there.
    once = client.options(max_retries=0, retry_on_timeout=False)
    with spoken(server):
        try:
            once.indices.create(index=layout.name, body=creation(layout, similarity).body)
        except BadRequestError as error:
            if kind(error) == THERE:
                raise index_is_there(ELASTICSEARCH.at(server), layout.name) from error
            raise


class ElasticsearchIndex:
    """One index or alias; safe to share between threads, as its client is. `server` is an address."""

    def __init__(self, client: Elasticsearch, server: str, index: str) -> None:
        self._client = client
        self._server = server
        self._index = index

    @property
    def engine(self) -> SearchEngine:
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


class ElasticsearchSink:
    """One index or alias; safe to share between threads, as its client is."""

    def __init__(self, client: Elasticsearch, server: str, index: str) -> None:
        self._client = client.options(max_retries=0, retry_on_timeout=False)
        self._index = index
        self.name = ELASTICSEARCH.at(f"{server}/{index}")

    def identity(self) -> str:
        """The index's UUID.

        Raises:
            IndexingError: there is no such index, the name stands for several, or it may not be read.
        """
        with self._translated():
            found = self._client.indices.get_settings(index=self._index, name="index.uuid", flat_settings=True).body
        if len(found) != 1:
            raise IndexingError(f"{self.name}: the name stands for {len(found)} indexes; name one")
        (settings,) = found.values()
        return str(settings["settings"]["index.uuid"])

    def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        """Index every entry with one bulk request.

        Raises:
            ServerAway, TooBusy, BatchTooLarge: the request as a whole failed and may be tried again.
            IndexingError: the request as a whole failed and will fail again.
        """
        lines: list[Mapping[str, Any]] = []
        for entry in batch:
            lines += ({"index": {"_id": entry.id}}, entry.source)
        with self._translated():
            items = self._client.bulk(index=self._index, operations=lines, filter_path=ANSWER).body.get("items", [])
        if len(items) != len(batch):
            raise ServerAway(f"{self.name}: {len(items)} answers to {len(batch)} documents")
        return [outcome_of(entry.id, item["index"]) for entry, item in zip(batch, items, strict=True)]

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that the index holds now.

        Raises:
            IndexingError: as `write`.
        """
        with self._translated():
            docs = self._client.mget(index=self._index, ids=list(ids), source=False).body["docs"]
        broken = [doc for doc in docs if "error" in doc]
        if broken:
            raise ServerAway(f"{self.name}: {told(broken[0]['error'])}")
        return {doc["_id"] for doc in docs if doc.get("found")}

    def settle(self) -> None:
        """Refresh and flush.

        Raises:
            IndexingError: as `write`; a shard that does not answer counts as a server that is away.
        """
        with self._translated():
            for act in (self._client.indices.refresh, self._client.indices.flush):
                failed = act(index=self._index).body["_shards"]["failed"]
                if failed:
                    raise ServerAway(f"{self.name}: {failed} shards do not answer")

    def count(self) -> int:
        """How many documents a search finds.

        Raises:
            IndexingError: as `write`.
        """
        with self._translated():
            return int(self._client.count(index=self._index).body["count"])

    def field_mapping(self, field: str) -> Mapping[str, Any]:
        """The field's mapping in the index.

        Raises:
            IndexingError: as `write`.
        """
        with self._translated():
            found: dict[str, Any] = self._client.indices.get_field_mapping(index=self._index, fields=field).body
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from elastic_transport import TransportError
        from elasticsearch import ApiError, UnsupportedProductError

        try:
            yield
        except UnsupportedProductError as error:
            raise IndexingError(f"{self.name} {OTHER_PRODUCT}") from error
        except ApiError as error:
            raise self._refused(error) from error
        except TransportError as error:
            raise ServerAway(f"{self.name}: {silence(error)}") from error

    def _refused(self, error: ApiError) -> IndexingError:
        line = status_line(ELASTICSEARCH, self.name, error.status_code, described(error))
        if error.status_code == 429:
            return TooBusy(line, _seconds(error.meta.headers.get("retry-after")))
        if error.status_code == 413:
            return BatchTooLarge(line)
        return ServerAway(line) if error.status_code in AWAY else IndexingError(line)


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


@contextmanager
def searched(url: str | None, timeout: float, index: str) -> Iterator[SearchedIndex]:
    """An index to search; its client is closed at the end.

    Raises:
        InvalidInput, MissingExtra: as `session`.
    """
    with session(url, timeout) as (client, server):
        yield ElasticsearchIndex(client, server, index)


@contextmanager
def sink(url: str | None, timeout: float, index: str) -> Iterator[EmbeddingSink]:
    """An index to write to; its client is closed at the end.

    Raises:
        InvalidInput, MissingExtra: as `session`.
    """
    with session(url, timeout) as (client, server):
        yield ElasticsearchSink(client, server, index)


ACCESS = EngineAccess(ELASTICSEARCH, searched, sink)
