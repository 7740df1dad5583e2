"""An index of OpenSearch: made, written and searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass_servers.answers import index_is_there, outcome_of
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
from secondpass_servers.index_layout import IndexLayout
from secondpass_servers.opensearch.client import OPENSEARCH, Server, line_for, named, speaking_to
from secondpass_servers.requests import ApiRequest

__all__ = ["opened"]

if TYPE_CHECKING:
    from opensearchpy import OpenSearch
    from opensearchpy.exceptions import TransportError


LONGEST_VECTOR = 16_000
THERE = "resource_already_exists_exception"
WHOLE = {"allow_partial_search_results": "false"}
BUSY = 429
AWAY = (502, 503, 504)
# Never cut a batch: how large it is, is the caller's decision.
UNLIMITED = 2**62


def creation(layout: IndexLayout) -> ApiRequest:
    """The request that makes the index; one without embeddings needs no plugin.

    Raises:
        InvalidInput: the embeddings are longer than OpenSearch takes.
    """
    if layout.dims is None:
        return ApiRequest("PUT", f"/{layout.name}", layout.body())
    if layout.dims > LONGEST_VECTOR:
        raise InvalidInput(f"dims={layout.dims} is more than OpenSearch's {LONGEST_VECTOR}")
    return ApiRequest("PUT", f"/{layout.name}", layout.body(vector_field(layout.dims), knn=True))


def vector_field(dims: int) -> dict[str, Any]:
    """A field for vectors of `dims` numbers, searched by cosine with Lucene's HNSW: no native library is needed."""
    method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
    return {"type": OPENSEARCH.vector_type, OPENSEARCH.length_key: dims, "method": method}


def create_index(server: Server, layout: IndexLayout) -> None:
    """Create the index; the server itself sees to it that no index is written over.

    Raises:
        InvalidInput: something of that name is there, or the server refuses name, analyzer or dims.
        SecondPassError: as `speaking_to`; a plugin that is missing is named.
    """
    from opensearchpy.exceptions import RequestError

    with speaking_to(server), server.client(max_retries=0) as client:
        try:
            client.indices.create(index=layout.name, body=creation(layout).body)
        except RequestError as error:
            if error.error == THERE:
                raise index_is_there(named(server), layout.name) from None
            raise


class OpenSearchIndex:
    """One index or alias; safe to share between threads, as its client is."""

    def __init__(self, client: OpenSearch, server: Server, index: str) -> None:
        self._client = client
        self._server = server
        self._index = index

    @property
    def engine(self) -> SearchEngine:
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


class OpenSearchSink:
    """Writes into one index; any number of threads may use it. Nothing is tried twice: that is the caller's."""

    def __init__(self, server: Server, index: str) -> None:
        self._server = server
        self._index = index
        self._client = server.client(max_retries=0)

    @property
    def name(self) -> str:
        """Engine, host and index, without credentials."""
        return OPENSEARCH.at(f"{self._server.address}/{self._index}")

    def identity(self) -> str:
        """UUID of the index.

        Raises:
            IndexingError: there is none, it may not be read, or the name is an alias of several.
        """
        with self._asking():
            found = self._client.indices.get_settings(index=self._index, name="index.uuid", flat_settings=True)
        if len(found) != 1:
            raise IndexingError(f"{self.name}: the name stands for {len(found)} indexes; name one")
        (settings,) = found.values()
        return str(settings["settings"]["index.uuid"])

    def write(self, batch: Sequence[Entry]) -> list[Outcome]:
        """Index every entry over what may be there, with one request; an outcome for each, in order.

        Raises:
            ServerAway, TooBusy, BatchTooLarge: the request as a whole failed and may be tried again.
            IndexingError: it failed and will fail again.
        """
        return self._bulk(batch) if batch else []

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that the index holds, whether or not a search finds them yet."""
        if not ids:
            return set()
        with self._asking():
            found = self._client.mget(body={"ids": list(ids)}, index=self._index, params={"_source": "false"})
        return {document["_id"] for document in found["docs"] if document.get("found")}

    def settle(self) -> None:
        """Make what was written searchable and durable."""
        with self._asking():
            self._client.indices.refresh(index=self._index)
            self._client.indices.flush(index=self._index)

    def count(self) -> int:
        """How many documents a search finds."""
        with self._asking():
            return int(self._client.count(index=self._index)["count"])

    def field_mapping(self, field: str) -> Mapping[str, Any]:
        """The field's mapping in the index."""
        with self._asking():
            found: dict[str, Any] = self._client.indices.get_field_mapping(index=self._index, fields=field)
        return found

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _bulk(self, batch: Sequence[Entry]) -> list[Outcome]:
        from opensearchpy.helpers import streaming_bulk

        actions = ({"_op_type": "index", "_id": entry.id, "_source": entry.source} for entry in batch)
        with self._asking():
            answers = list(
                streaming_bulk(
                    self._client,
                    actions,
                    chunk_size=len(batch),
                    max_chunk_bytes=UNLIMITED,
                    raise_on_error=False,
                    index=self._index,
                )
            )
        # The helper pairs answers and documents by place and would lose those that have no answer.
        if len(answers) != len(batch):
            raise ServerAway(f"{self.name}: {len(answers)} answers to {len(batch)} documents")
        return [outcome_of(entry.id, answer["index"]) for entry, (_, answer) in zip(batch, answers, strict=True)]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from opensearchpy.exceptions import TransportError

        try:
            with speaking_to(self._server, passing=TransportError):
                yield
        except TransportError as error:
            raise self._failure(error) from None

    def _failure(self, error: TransportError) -> IndexingError:
        from opensearchpy.exceptions import ConnectionError as NoConnection
        from opensearchpy.exceptions import SSLError

        line = line_for(error, replace(self._server, address=f"{self._server.address}/{self._index}"))
        if (isinstance(error, NoConnection) and not isinstance(error, SSLError)) or error.status_code in AWAY:
            return ServerAway(line)
        if error.status_code == BUSY:
            return TooBusy(line)
        return BatchTooLarge(line) if error.status_code == 413 else IndexingError(line)


@contextmanager
def opened(server: Server, index: str) -> Iterator[SearchedIndex]:
    """An index of a server to search; its client is closed at the end.

    Raises:
        MissingExtra: opensearch-py is not installed.
    """
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
    with closing(OpenSearchSink(Server.from_environment(url=url, timeout=timeout), index)) as made:
        yield made


ACCESS = EngineAccess(OPENSEARCH, searched, sink)
