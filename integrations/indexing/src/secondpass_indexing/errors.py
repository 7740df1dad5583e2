"""What can go wrong between a document and its index.

SecondPassError
└── IndexingError     also a RuntimeError: the index refuses everything (no right to write, no such index, ...)
    ├── DocumentsRefused  some documents are dead letters, all others are indexed
    ├── IndexChanged  the index was deleted or made anew on the way
    ├── ServerAway    no answer, or one of a proxy or of a server that starts or stops: try again later
    ├── TooBusy       429: the server wants less; try again later with smaller batches
    └── BatchTooLarge 413: one request held more bytes than the server takes; try again with half of them
"""

from __future__ import annotations

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
