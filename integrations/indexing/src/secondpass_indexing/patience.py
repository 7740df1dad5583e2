"""Waiting for a server: longer each time, shared by all requests under way, and not for ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from secondpass_indexing.errors import IndexingError, ServerAway, TooBusy
from secondpass_indexing.settings import IndexingSettings

Answer = TypeVar("Answer")
PASSING = (ServerAway, TooBusy)


class Stopped(Exception):
    """Another part of the run failed or was interrupted, so this one ends too."""


class Patience:
    """Counts the time since something last got through; `notice` hears why and how long is waited.

    `stop` ends every wait at once.
    """

    def __init__(self, settings: IndexingSettings, notice: Callable[[str], None] = lambda text: None) -> None:
        self.stop = threading.Event()
        self._settings = settings
        self._notice = notice
        self._lock = threading.Lock()
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Something got through: patience is whole again."""
        with self._lock:
            before, self._failing_since = self._failing_since, None
        if before is not None:
            self._notice("")

    def wait(self, error: IndexingError, attempt: int) -> None:
        """Wait before the next attempt; `attempt` counts from 1.

        Raises:
            IndexingError: nothing got through for as long as patience lasts; `error` is the cause, of the same kind.
            Stopped: the run is being ended.
        """
        now = time.monotonic()
        with self._lock:
            since = self._failing_since = self._failing_since or now
        left = since + self._settings.patience - now
        if left <= 0:
            raise type(error)(f"{error}; nothing got through for {now - since:.0f} seconds") from error
        seconds = min(self._seconds(error, attempt), left)
        self._notice(f"{error}; next try in {seconds:.1f} s")
        if self.stop.wait(seconds):
            raise Stopped

    def call(self, ask: Callable[[], Answer], renews: bool = True) -> Answer:
        """Ask until there is an answer; `renews` says whether that counts as something that got through.

        Raises:
            IndexingError: patience is at its end, or the answer is a refusal that stays.
            Stopped: the run is being ended.
        """
        attempt = 0
        while True:
            try:
                answer = ask()
            except PASSING as error:
                attempt += 1
                self.wait(error, attempt)
            else:
                if renews:
                    self.succeeded()
                return answer

    def _seconds(self, error: IndexingError, attempt: int) -> float:
        asked = error.after if isinstance(error, TooBusy) else None
        longest = min(self._settings.longest_wait, self._settings.first_wait * 2.0 ** min(attempt - 1, 60))
        # Half of it by chance, so that several clients do not come back at the same moment.
        return max(asked or 0.0, longest * random.uniform(0.5, 1.0))  # noqa: S311
