"""The words of the two search servers; errors of writing are `IndexingError` and its kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secondpass.errors import SecondPassError


class IndexingError(SecondPassError, RuntimeError):
    """The index takes no document at all, and trying again does not help; names host and index, no credentials."""


class DocumentsRefused(IndexingError):
    """The corpus is indexed but for some documents; the message says how many and which file holds them."""


class IndexChanged(IndexingError):
    """The index that was being written is no longer there, or another has its name; what was written is gone."""


class ServerAway(IndexingError):
    """The server did not answer, or only its proxy did (502, 503, 504, time-out); whether it wrote is not known."""


class TooBusy(IndexingError):
    """The server takes no more for now (429); nothing of this request was written, as far as it says.

    `after` is how many seconds it asked to be left alone (Retry-After), None if it did not say.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class BatchTooLarge(IndexingError):
    """The request was larger than the server takes (413); nothing of it was written."""


@dataclass(frozen=True, slots=True)
class SearchEngine:
    """What an engine calls things.

    Attributes:
        title: its name in messages, "Elasticsearch".
        command: `secondpass COMMAND`.
        vector_type, length_key: type of a field of embeddings, and where its mapping says how long they are.
        analysed_key: the highlighter's setting that stops it before the index's own limit.
        login: what to set in the environment to log in.
        authority: variable that names the file of the authority behind the server's certificate.
    """

    title: str
    command: str
    vector_type: str
    length_key: str
    analysed_key: str
    login: str
    authority: str

    def at(self, address: str) -> str:
        """A server or index in a message: "Elasticsearch http://127.0.0.1:9200/articles"."""
        return f"{self.title} {address}"


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
