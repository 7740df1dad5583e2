"""An Elasticsearch index as the place that `secondpass_indexing` writes a corpus to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondpass_elasticsearch.failures import LOGIN, kind, one_line, reason, silence
from secondpass_indexing.errors import BatchTooLarge, IndexingError, ServerAway, TooBusy
from secondpass_indexing.sink import Entry, Outcome

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch

LATER = (429, 503)
AWAY = (502, 503, 504)
# All that is read of an answer to a bulk request: the rest is as long as the request.
ANSWER = ["items.index.status", "items.index.result", "items.index.error"]


class ElasticsearchSink:
    """One index or alias; safe to share between threads, as its client is."""

    def __init__(self, client: Elasticsearch, server: str, index: str) -> None:
        self._client = client.options(max_retries=0, retry_on_timeout=False)
        self._index = index
        self.name = f"Elasticsearch {server}/{index}"

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
        return [_outcome(entry.id, item["index"]) for entry, item in zip(batch, items, strict=True)]

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that the index holds now.

        Raises:
            IndexingError: as `write`.
        """
        with self._translated():
            docs = self._client.mget(index=self._index, ids=list(ids), source=False).body["docs"]
        broken = [doc for doc in docs if "error" in doc]
        if broken:
            raise ServerAway(f"{self.name}: {one_line(str(broken[0]['error'].get('reason')))}")
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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from elastic_transport import TransportError
        from elasticsearch import ApiError, UnsupportedProductError

        try:
            yield
        except UnsupportedProductError as error:
            raise IndexingError(f"{self.name} answers, but not as an Elasticsearch 8 or 9 does") from error
        except ApiError as error:
            raise self._refused(error) from error
        except TransportError as error:
            raise ServerAway(f"{self.name}: {silence(error)}") from error

    def _refused(self, error: ApiError) -> IndexingError:
        status, said = error.status_code, reason(error)
        if status == 429:
            return TooBusy(f"{self.name}: too busy (429): {said}", _seconds(error.meta.headers.get("retry-after")))
        if status == 413:
            return BatchTooLarge(f"{self.name}: the request is too large (413)")
        if status in AWAY:
            return ServerAway(f"{self.name}: status {status}: {said}")
        if status == 401:
            return IndexingError(f"{self.name}: {LOGIN}")
        if kind(error) == "index_not_found_exception":
            return IndexingError(f"{self.name}: no such index; create it with `secondpass elasticsearch create`")
        return IndexingError(f"{self.name}: status {status}: {said}")


def _outcome(document_id: str, item: Mapping[str, Any]) -> Outcome:
    error = item.get("error")
    if error is None:
        return Outcome(document_id, replaced=item.get("result") == "updated")
    return Outcome(document_id, _told(error), again=item["status"] in LATER)


def _told(error: Any) -> str:
    """What is wrong with one document, from the outside in: the field first, then what it does not take."""
    if not isinstance(error, Mapping):
        return one_line(str(error)) or "refused without a reason"
    reasons: list[str] = []
    while isinstance(error, Mapping):
        said = str(error.get("reason") or error.get("type") or "")
        if said and said not in " ".join(reasons):
            reasons.append(said)
        error = error.get("caused_by")
    return one_line(": ".join(reasons)) or "refused without a reason"


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
