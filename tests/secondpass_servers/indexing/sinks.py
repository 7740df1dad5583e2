"""Indexes without a server: one in memory that fails as it is told, one in a file that outlives a killed process."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from secondpass_servers.contract import BatchTooLarge, Entry, Outcome, ServerAway, TooBusy
from secondpass_servers.indexing.entries import IndexingSettings

QUICK = IndexingSettings(
    max_documents=4, max_bytes=2_000, in_flight=2, give_up_after=5, first_wait=0.001, longest_wait=0.002
)
"""Small requests and short waits, so that a few dozen documents meet everything that can go wrong."""


class MemorySink:
    """A dictionary. `fault` is called before each request with its number (from 1) and entries: it may raise, or
    return reasons by id ("" for: try again later). What it returns is not written.

    `requests` are the sizes of the requests, `most_at_once` how many were under way together.
    """

    name = "memory test"

    def __init__(self, fault: Callable[[int, Sequence[Entry]], dict[str, str] | None] | None = None) -> None:
        self.held: dict[str, dict] = {}
        self.requests: list[int] = []
        self.settled = 0
        self.most_at_once = 0
        self.uuid = "one"
        self._fault = fault or (lambda number, batch: None)
        self._lock = threading.Lock()
        self._now = 0

    def identity(self) -> str:
        return self.uuid

    def write(self, batch: Sequence[Entry]) -> list[Outcome]:
        with self._lock:
            self.requests.append(len(batch))
            number = len(self.requests)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            reasons = self._fault(number, batch) or {}
            with self._lock:
                return [self._put(entry, reasons) for entry in batch]
        finally:
            with self._lock:
                self._now -= 1

    def present(self, ids: Sequence[str]) -> set[str]:
        assert len(ids) <= 1_000
        return set(ids) & self.held.keys()

    def settle(self) -> None:
        self.settled += 1

    def count(self) -> int:
        return len(self.held)

    def _put(self, entry: Entry, reasons: dict[str, str]) -> Outcome:
        if entry.id in reasons:
            reason = reasons[entry.id]
            return Outcome(entry.id, reason or "later", again=not reason)
        replaced = entry.id in self.held
        self.held[entry.id] = dict(entry.source)
        return Outcome(entry.id, replaced=replaced)


class FileSink:
    """A table in an SQLite file; every write is committed before it is acknowledged."""

    name = "file test"

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as table:
            table.execute("CREATE TABLE IF NOT EXISTS held (id TEXT PRIMARY KEY, source TEXT, writes INTEGER)")

    def identity(self) -> str:
        return str(self._path)

    def write(self, batch: Sequence[Entry]) -> list[Outcome]:
        rows = [(entry.id, json.dumps(entry.source)) for entry in batch]
        with self._open() as table:
            upsert = (
                "INSERT INTO held VALUES (?, ?, 1) "
                "ON CONFLICT (id) DO UPDATE SET source = excluded.source, writes = writes + 1"
            )
            table.executemany(upsert, rows)
        return [Outcome(entry.id) for entry in batch]

    def present(self, ids: Sequence[str]) -> set[str]:
        return set(ids) & self.held().keys()

    def settle(self) -> None:
        pass

    def count(self) -> int:
        return len(self.held())

    def held(self) -> dict[str, dict]:
        with self._open() as table:
            return {name: json.loads(source) for name, source in table.execute("SELECT id, source FROM held")}

    def writes(self) -> int:
        with self._open() as table:
            return table.execute("SELECT COALESCE(SUM(writes), 0) FROM held").fetchone()[0]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=30)) as connection, connection:
            yield connection


class Silent:
    """A watch that remembers what it heard."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.counts: list[int] = []

    def counted(self, counters) -> None:
        self.counts.append(counters.already + counters.indexed + counters.dead)

    def notice(self, text: str) -> None:
        self.notices.append(text)


def away(number: int = 0) -> ServerAway:
    """No answer."""
    return ServerAway(f"memory test is away ({number})")


def busy(after: float | None = None) -> TooBusy:
    """429."""
    return TooBusy("memory test is busy", after)


def too_large() -> BatchTooLarge:
    """413."""
    return BatchTooLarge("memory test takes less")
