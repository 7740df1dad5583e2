"""A cache of scores that may last: what a model said of a pair, by a digest of all that this depends on.

It knows no models and never guesses: whoever asks puts weights, tokenizer, template, window and precision into the
context of `score_keys`, so another model under the same name has other keys. In a file it is a SQLite database with a
write-ahead log, for any number of processes, each of which may be killed at any moment.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self, TypeVar

from secondpass.errors import InvalidInput
from secondpass.system import at_fork, lock
from secondpass.text import positive_int

logger = logging.getLogger(__name__)

# ---- Keys and rows.


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one pair: float32 logits [labels] as Python floats, and what its record tells.

    `blank` tells which of query and document say nothing; `cut` are tokens of the query, tokens of the document and
    characters that were not read; `passage` is the best window: start, end, logit, and how many were read.
    """

    logits: tuple[float, ...]
    blank: tuple[bool, bool] = (False, False)
    cut: tuple[int, int, int] | None = None
    passage: tuple[int, int, float, int] | None = None


# A key begins with a digest of context and query: the documents of one query stand side by side in the file's index,
# so that a page of it answers for all of them. The rest alone is long enough that no two pairs share it.
QUERY_BYTES, PAIR_BYTES = 8, 20
Row = tuple[bytes, float, bytes | None, bytes]
"""Key, first logit, the whole as JSON where there is more to say, and the mark of these three."""


def score_keys(context: bytes, queries: Sequence[str], documents: Sequence[str]) -> list[bytes]:
    """One key for each pair (queries[i], documents[i]); lone surrogates are characters like others.

    Args:
        context: a digest of all else that the scores depend on.
        queries: texts as the model reads them.
        documents: as many.
    """
    begun = {}
    for query in set(queries):
        read = blake2b(len(context).to_bytes(8, "little") + context, digest_size=PAIR_BYTES, person=b"secondpass score")
        text = query.encode("utf-8", "surrogatepass")
        read.update(len(text).to_bytes(8, "little") + text)
        begun[query] = (read.digest()[:QUERY_BYTES], read)
    keys = []
    for query, document in zip(queries, documents, strict=True):
        front, read = begun[query]
        read = read.copy()
        read.update(document.encode("utf-8", "surrogatepass"))
        keys.append(front + read.digest())
    return keys


def _row(place: int, key: bytes, kept: Kept) -> Row:
    numbers = kept.logits if kept.passage is None else (*kept.logits, kept.passage[2])
    if not kept.logits or not all(map(math.isfinite, numbers)):
        raise InvalidInput(f"entries[{place}] has logits {kept.logits!r} and passage {kept.passage!r}: not finite")
    if not 16 <= len(key) <= 32:
        raise InvalidInput(f"entries[{place}] has a key of {len(key)} bytes, not 16 to 32")
    first, rest = float(kept.logits[0]), None
    signless = first + 0.0  # SQLite keeps no -0.0
    plain = len(kept.logits) == 1 and math.copysign(1.0, first) == math.copysign(1.0, signless)
    if not plain or any(kept.blank) or kept.cut is not None or kept.passage is not None:
        rest = json.dumps([kept.logits, kept.blank, kept.cut, kept.passage], separators=(",", ":")).encode("ascii")
    return key, signless, rest, _mark(key, signless, rest)


def _mark(key: bytes, logit: float, rest: bytes | None) -> bytes:
    """What tells a row as it was written from any other.

    Pages that a kill or a power failure tore SQLite mends by itself: those of the log have checksums, and those of the
    file are whole in the log until they have reached the disk. It has no checksum for what happens to the file later,
    nor for an index that leads to another row.
    """
    return blake2b(struct.pack("<d", logit) + (rest or b""), key=key, digest_size=8).digest()


def _kept(key: bytes, logit: float, rest: bytes | None, mark: bytes) -> Kept | None:
    """None for a row that is not as it was written."""
    try:
        if mark != _mark(key, logit, rest):
            return None
        if rest is None:
            return Kept((logit,))
        logits, blank, cut, passage = json.loads(rest)
        return Kept(tuple(logits), tuple(blank), cut and tuple(cut), passage and tuple(passage))
    except (TypeError, ValueError, struct.error):
        return None


# ---- Where they are kept.

OURS, VERSION = int.from_bytes(b"2ps1", "big"), 1
SCHEMA = (
    "pragma auto_vacuum = incremental",
    "pragma journal_mode = wal",
    "begin",
    """create table scores (
    id integer primary key, -- the rows used last have the largest
    key blob not null unique check(typeof(key) = 'blob' and length(key) between 16 and 32),
    logit real not null check(typeof(logit) = 'real'),
    rest blob check(typeof(rest) in ('blob', 'null')),
    mark blob not null)""",
    f"pragma application_id = {OURS}",
    f"pragma user_version = {VERSION}",
    "commit",
)
SETTINGS = ("synchronous = normal", "wal_autocheckpoint = 0", "cache_spill = off", "cell_size_check = on")
BUSY_S = 10.0  # how long another process may write before we go on without
REST_S = 30.0  # how long a file that failed is let alone
BATCH = 256
PAGE, FRAME, ROW_BYTES = 4096, 4096 + 24, 128
SMALLEST = 2**20
# No transaction changes more pages: it has BATCH rows, each with a page of the index and what that is split to.
TRANSACTION_PAGES = 1024
STEPS = 64  # of making room in one call; a file that is far above a new bound shrinks over several
PARTS = ("", "-wal", "-shm")
BUSY, FULL, DAMAGED = 5, 13, {11, 26}  # SQLITE_CORRUPT, SQLITE_NOTADB

Found = TypeVar("Found")


# As SQLite calls a database without a file.
MEMORY = ":memory:"


def cache_named(path: str, megabytes: int) -> ScoreCache:
    """The cache that a setting names: a file, or `MEMORY`; of so many MiB.

    Raises:
        InvalidInput: as `ScoreCache`.
    """
    return ScoreCache(None if path == MEMORY else path, megabytes * 2**20)


class ScoreCache:
    """Scores that were computed before; one object serves any number of threads and models.

    A copy, also one that travels to another process, and a forked child use the same file; a copy of one in memory
    starts empty. Texts are not kept, but whoever reads the file can find out whether a text that they guess was scored:
    it is made for its owner only. A file that fails later (a full disk, a damaged page, a newer version's) makes no
    ranking fail: what it does not give is scored, the reason is logged once, and `errors` counts.

    Args:
        path: a file, made with the folders around it where there is none; None keeps scores in memory.
        max_bytes: of memory, or of disk with SQLite's log and index; the scores used longest ago make room. What was
            read counts as used again where it belongs to the older half, so that reading hardly ever writes.

    Attributes:
        hits, misses: keys that this object found and did not find.
        errors: how often the file could not be read or written, or had a row that nobody wrote.

    Raises:
        InvalidInput: `path` cannot be a cache (a folder, a file of another kind), or `max_bytes` is too small.
    """

    _connection: Any = None

    def __init__(self, path: str | os.PathLike[str] | None = None, max_bytes: int = 256 * 2**20) -> None:
        import sqlite3  # a start needs none

        self.max_bytes = max_bytes = positive_int(max_bytes, "max_bytes")
        if max_bytes < SMALLEST:
            raise InvalidInput(f"max_bytes={max_bytes} is less than {SMALLEST}")
        self._sqlite: Any = sqlite3
        self.path = None if path is None else _absolute(path)
        self.hits = self.misses = self.errors = 0
        # The log is emptied where it has half of the file's pages, at most TRANSACTION_PAGES; one transaction
        # comes on top, and 64 KiB for the index of the log.
        room = max_bytes - 2**16
        self._pages = max(2 * room // (2 * PAGE + 3 * FRAME), (room - 2 * TRANSACTION_PAGES * FRAME) // PAGE)
        self._log_bytes = FRAME * min(self._pages // 2, TRANSACTION_PAGES)
        self._is_ours = False
        self._file, self._identity = MEMORY if self.path is None else str(self.path), (0, 0)
        self._used: set[bytes] = set()  # rows of the older half that were read
        self._rests = {False: 0.0, True: 0.0}
        self._told: set[str] = set()
        with _LOCK:
            _CACHES.add(self)
            try:
                self._opened()
            except (sqlite3.Error, OSError) as error:
                self._failed(error, writes=False)

    def __repr__(self) -> str:
        return f"ScoreCache({'in memory' if self.path is None else str(self.path)!r}, max_bytes={self.max_bytes})"

    def __reduce__(self) -> tuple[type[ScoreCache], tuple[Path | None, int]]:
        return type(self), (self.path, self.max_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self._disconnect()

    def __len__(self) -> int:
        return self._guarded(_first, "select count(*) from scores") or 0

    @property
    def bytes_held(self) -> int:
        """Of memory, or of disk."""
        if self.path is None:
            return PAGE * (self._guarded(_first, "pragma page_count") or 0)
        return sum(_stat(f"{self._file}{part}")[2] for part in PARTS)

    def find(self, keys: Sequence[bytes]) -> list[Kept | None]:
        """What is kept under each key; None where there is nothing."""
        known: dict[bytes, Kept] = {}
        for start in range(0, len(keys), BATCH):
            part = keys[start : start + BATCH]
            self._guarded(self._read, part, known)
        if len(self._used) >= BATCH:
            self._guarded(self._renew, writes=True)
        found = [known.get(key) for key in keys]
        with _LOCK:
            self.misses += found.count(None)
            self.hits += len(keys) - found.count(None)
        return found

    def keep(self, entries: Sequence[tuple[bytes, Kept]]) -> None:
        """Remember; any process finds it afterwards. What takes more than 1/32 of the cache is not kept.

        Raises:
            InvalidInput: a logit is not finite, or a key has not 16 to 32 bytes.
        """
        most = min(self._pages * PAGE // 32, BATCH * 1024)
        rows = [_row(place, key, kept) for place, (key, kept) in enumerate(entries)]
        sizes = [ROW_BYTES + len(row[2] or b"") for row in rows]
        rows = [row for row, size in zip(rows, sizes, strict=True) if size <= most]
        largest = max((size for size in sizes if size <= most), default=most)
        step = min(BATCH, most // largest)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            self._guarded(self._write, part, len(part) * largest, writes=True)

    def close(self) -> None:
        """Let go of the memory or of the file, which is opened again when it is asked again."""
        if self._used:
            self._guarded(self._renew, writes=True)
        self._disconnect()

    # -- work, while nobody else of this process does any

    def _read(self, connection: Any, keys: Sequence[bytes], known: dict[bytes, Kept]) -> None:
        """Where the cache is more than half full, rows of the older half are noted, to be made its newest.

        So a row is written again at most once while half of the cache is, however often it is read.
        """
        first, last = connection.execute("select (select min(id) from scores), (select max(id) from scores)").fetchone()
        full = 2 * _first(connection, "pragma page_count") > self._pages
        middle = (first + last) // 2 if full and first is not None else 0
        asked = ",".join("?" * len(keys))
        query = f"select key, logit, rest, mark, id from scores where key in ({asked})"  # noqa: S608
        for key, logit, rest, mark, number in connection.execute(query, keys).fetchall():
            kept = _kept(key, logit, rest, mark)
            if kept is None:
                self._tell("a row is not as it was written")
                continue
            known[key] = kept
            if number < middle:
                self._used.add(key)

    def _write(self, connection: Any, rows: Sequence[Row], size: int) -> None:
        self._make_room(connection, size // 1024 + 8)
        with self._transaction(connection):
            connection.executemany("insert or replace into scores (key, logit, rest, mark) values (?, ?, ?, ?)", rows)
        if self._used:
            self._renew(connection)

    def _renew(self, connection: Any) -> None:
        used = [(key,) for key in self._used]
        self._used.clear()
        for start in range(0, len(used), BATCH):
            with self._transaction(connection):
                newest = "update scores set id = (select max(id) from scores) + 1 where key = ?"
                connection.executemany(newest, used[start : start + BATCH])

    def _make_room(self, connection: Any, pages: int) -> None:
        """Delete the rows used longest ago until so many pages are free, and give back what is above the bound."""
        for _ in range(STEPS):
            held = _first(connection, "pragma page_count")
            lacking = held - _first(connection, "pragma freelist_count") + pages > self._pages
            if not lacking and held <= self._pages:
                return
            with self._transaction(connection):
                if lacking:
                    oldest = "select max(id) from (select id from scores order by id limit ?)"
                    connection.execute(f"delete from scores where id <= ({oldest})", (BATCH,))  # noqa: S608
                for _ in range(min(BATCH, held - self._pages)):
                    connection.execute("pragma incremental_vacuum(1)")

    @contextmanager
    def _transaction(self, connection: Any) -> Iterator[None]:
        """Write alone, and only where the log has room: it cannot be emptied while a process reads an old state."""
        end = time.monotonic() + BUSY_S
        connection.execute("begin immediate")
        while _stat(f"{self._file}-wal")[2] > self._log_bytes:
            connection.execute("rollback")
            if time.monotonic() > end:
                raise OSError("the log cannot be emptied while another process reads the file")
            if _first(connection, "pragma wal_checkpoint(truncate)"):
                time.sleep(0.001)
            connection.execute("begin immediate")
        yield
        connection.execute("commit")

    # -- the file, and what goes wrong with it

    def _guarded(self, work: Callable[..., Found], *given: Any, writes: bool = False) -> Found | None:
        """Do it, or go on without; an interrupt leaves no transaction behind, for which others would wait."""
        with _LOCK:
            if time.monotonic() < self._rests[writes]:
                return None
            try:
                return work(self._opened(), *given)
            except (self._sqlite.Error, OSError, InvalidInput) as error:
                self._failed(error, writes)
                return None
            finally:
                if self._connection is not None and self._connection.in_transaction:
                    with suppress(self._sqlite.Error):
                        self._connection.rollback()

    def _failed(self, error: Exception, writes: bool) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        self._tell(str(error))
        if code in DAMAGED and self._is_ours:
            self._disconnect()
            with suppress(OSError), _alone(Path(self._file).parent):
                if self._identity == _stat(self._file)[:2]:
                    for part in PARTS:
                        Path(f"{self._file}{part}").unlink(missing_ok=True)
            return
        if code not in {BUSY, FULL}:
            self._disconnect()
        self._rests[writes] = time.monotonic() + REST_S

    def _tell(self, reason: str) -> None:
        self.errors += 1
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("%s: what it does not give is scored: %s", self, reason)

    def _opened(self) -> Any:
        if self._connection is not None and self._identity != _stat(self._file)[:2]:
            self._disconnect()  # somebody deleted the file, or put another there
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Any:
        if self.path is not None:
            self._make(self.path)
        before, self._identity = self._identity, _stat(self._file)[:2]
        self._is_ours = self._is_ours and self._identity == before
        connection = self._sqlite.connect(self._file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            for statement in () if self.path is not None else SCHEMA:
                connection.execute(statement)
            self._is_ours = self._is_ours or _first(connection, "pragma application_id") == OURS
            version = _first(connection, "pragma user_version")
            if not self._is_ours:
                raise InvalidInput(f"path={self._file!r} is no score cache: it is another program's database")
            if version > VERSION:
                raise self._sqlite.NotSupportedError(f"a newer secondpass made it (version {version}, not {VERSION})")
            for setting in (*SETTINGS, f"max_page_count = {self._pages}"):
                connection.execute(f"pragma {setting}")
        except BaseException as error:
            connection.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED and not self._is_ours:
                raise InvalidInput(f"path={self._file!r} is no score cache: {error}") from None
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(self._sqlite.Error):
                connection.close()  # the last one that leaves empties the log

    def _make(self, path: Path) -> None:
        """A whole new file for its owner only, if there is none or an empty one.

        A file that may be in use is opened by SQLite alone: who closes any descriptor of it gives up all locks that
        the process has on it.
        """
        if os.path.exists(path) and not os.path.isfile(path):
            raise InvalidInput(f"path={self._file!r} is no file")
        if _stat(self._file)[2]:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError) as error:
            raise InvalidInput(f"path={self._file!r} cannot be made: {error}") from None
        with _alone(path.parent):
            if _stat(self._file)[2]:
                return
            for part in PARTS[1:]:
                Path(f"{path}{part}").unlink(missing_ok=True)  # the log of a file that somebody deleted
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                made = os.path.join(folder, path.name)
                with closing(self._sqlite.connect(made, isolation_level=None)) as connection:
                    for statement in SCHEMA:
                        connection.execute(statement)
                os.chmod(made, 0o600)
                os.rename(made, path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process makes or deletes a cache there."""
    number = os.open(folder, os.O_RDONLY)
    try:
        lock(number, wait=True)
        yield
    finally:
        os.close(number)


def _absolute(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in str(path):
        raise InvalidInput(f"path={path!r} is no path of a file")
    return Path(os.path.abspath(os.path.expanduser(os.fspath(path))))


def _stat(path: str) -> tuple[int, int, int]:
    """Which file is there, and its bytes; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_dev, found.st_ino, found.st_size


def _first(connection: Any, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


# One lock for all caches of a process, so that none is at work while it is forked. SQLite must not be carried through
# a fork: the file is closed before, and opened again by whoever asks.
_LOCK = threading.RLock()
_CACHES: weakref.WeakSet[ScoreCache] = weakref.WeakSet()


def _before_fork() -> None:
    _LOCK.acquire()
    for cache in list(_CACHES):
        if cache.path is not None:
            cache._disconnect()


at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
