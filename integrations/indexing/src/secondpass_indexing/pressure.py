"""How large a request may be now: less after every complaint of the server, more after every success."""

from __future__ import annotations

import threading
from collections import deque

from secondpass_indexing.settings import IndexingSettings
from secondpass_indexing.sink import Entry

LESS = 0.5
MORE = 1.25


class Pressure:
    """The share of the largest request that the server takes, and a ceiling in bytes that it has shown."""

    def __init__(self, settings: IndexingSettings) -> None:
        self._documents = settings.max_documents
        self._bytes = settings.max_bytes
        self._share = 1.0
        self._lock = threading.Lock()

    @property
    def share(self) -> float:
        """Share of the largest request, above 0 and at most 1."""
        return self._share

    def less(self) -> None:
        """The server is busy: half of it from now on, never less than one document."""
        with self._lock:
            self._share = max(self._share * LESS, 1.0 / self._documents)

    def more(self) -> None:
        """A request got through: a quarter more, up to the whole."""
        with self._lock:
            self._share = min(self._share * MORE, 1.0)

    def too_large(self, size: int) -> None:
        """The server refused a request of `size` bytes: half of that is the ceiling for the rest of the run."""
        with self._lock:
            self._bytes = max(min(self._bytes, size // 2), 1)

    def take(self, waiting: deque[Entry]) -> list[Entry]:
        """Take the next request off the left of `waiting`: at least one entry."""
        with self._lock:
            documents, size = max(1, int(self._documents * self._share)), self._bytes * self._share
        taken = [waiting.popleft()]
        held = taken[0].size
        while waiting and len(taken) < documents and held + waiting[0].size <= size:
            held += waiting[0].size
            taken.append(waiting.popleft())
        return taken
