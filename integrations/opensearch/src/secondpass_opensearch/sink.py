"""An OpenSearch index as a place to write a corpus to, on opensearchpy's bulk helper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secondpass_indexing.errors import BatchTooLarge, IndexingError, ServerAway, TooBusy
from secondpass_indexing.sink import Entry, Outcome
from secondpass_opensearch.engine import OPENSEARCH
from secondpass_opensearch.failures import line_for, speaking_to
from secondpass_opensearch.server import Server
from secondpass_searching.bulk_outcomes import outcome_of

if TYPE_CHECKING:
    from opensearchpy.exceptions import TransportError

BUSY = 429
AWAY = (502, 503, 504)
# Never cut a batch: how large it is, is the caller's decision.
UNLIMITED = 2**62


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
