"""What an engine has to offer so that a corpus can be written into one of its indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as it goes into an index: `source` is plain JSON values, `size` its bytes as a bulk line (UTF-8)."""

    id: str
    source: Mapping[str, Any]
    size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one entry.

    Attributes:
        id: the entry's id.
        reason: why the engine refused this one document, on one line; empty if it is indexed.
        again: whether the same document may be taken later (429 or 503 of one item, a shard that moves).
        replaced: indexed over a document of the same id that was there before.
    """

    id: str
    reason: str = ""
    again: bool = False
    replaced: bool = False

    @property
    def indexed(self) -> bool:
        """Whether the engine acknowledged it."""
        return not self.reason


class Sink(Protocol):
    """One index of one engine. Every method may be called from several threads at once.

    No method retries: patience, back-off and smaller batches are the caller's. Turn the client's own retries off.
    Each method may raise the errors of `secondpass_indexing.errors` and lets no error of a client through.
    """

    @property
    def name(self) -> str:
        """Engine, host and index for messages, without credentials: "Elasticsearch http://127.0.0.1:9200/docs"."""
        ...

    def identity(self) -> str:
        """What tells this index from another of the same name (its UUID): a journal goes on with the same one only.

        Raises:
            IndexingError: there is no such index, or it may not be read.
        """
        ...

    def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        """Index every entry under its id, over what may be there, with one request; no refresh.

        Returns:
            An outcome for each entry, in the order of the batch.

        Raises:
            ServerAway, TooBusy, BatchTooLarge: the request as a whole failed and may be tried again.
            IndexingError: the request as a whole failed and will fail again.
        """
        ...

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` (at most 1,000) that the index holds now, without waiting for a refresh (mget, no source)."""
        ...

    def settle(self) -> None:
        """Make what was written searchable and durable (refresh and flush)."""
        ...

    def count(self) -> int:
        """How many documents a search finds (after `settle`: all)."""
        ...
