"""An Elasticsearch index as the place that `secondpass_indexing` writes a corpus to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondpass_elasticsearch.engine import ELASTICSEARCH
from secondpass_elasticsearch.failures import OTHER_PRODUCT, described, silence
from secondpass_indexing.errors import BatchTooLarge, IndexingError, ServerAway, TooBusy
from secondpass_indexing.sink import Entry, Outcome
from secondpass_searching.bulk_outcomes import outcome_of
from secondpass_searching.failures import status_line, told

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch

AWAY = (502, 503, 504)
# All that is read of an answer to a bulk request: the rest is as long as the request.
ANSWER = ["items.index.status", "items.index.result", "items.index.error"]


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
