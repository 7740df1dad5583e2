"""Who may come in: so many requests at once, and nobody once the service is leaving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from secondpass.serving.problems import overloaded, stopping


class Admission:
    """Counts the requests in flight; used by one event loop only, so it needs no lock."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.in_flight = 0
        self.draining_since: float | None = None

    @property
    def draining(self) -> bool:
        """Whether the service finishes what it has and takes nothing new."""
        return self.draining_since is not None

    def drain(self) -> None:
        """Take nothing new from now on."""
        if self.draining_since is None:
            self.draining_since = time.monotonic()

    def drained(self, after_s: float, at_last_s: float) -> bool:
        """Whether the service may leave: `after_s` have passed and nothing is in flight, or `at_last_s` have."""
        if self.draining_since is None:
            return False
        passed = time.monotonic() - self.draining_since
        return (passed >= after_s and self.in_flight == 0) or passed >= at_last_s

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places.

        Raises:
            Problem: 503 while draining, 429 when all places are taken.
        """
        if self.draining:
            raise stopping()
        if self.in_flight >= self.max_requests:
            raise overloaded(f"{self.max_requests} requests are in flight already")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
