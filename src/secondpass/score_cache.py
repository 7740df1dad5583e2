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
import stat
import struct
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from secondpass.errors import InvalidInput
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


def _row(key: bytes, kept: Kept) -> Row:
    first, rest = float(kept.logits[0]), None
    # SQLite makes 0.0 of -0.0
    plain = len(kept.logits) == 1 and (first != 0.0 or math.copysign(1.0, first) > 0.0)
    if not plain or any(kept.blank) or kept.cut is not None or kept.passage is not None:
        rest = json.dumps([kept.logits, kept.blank, kept.cut, kept.passage], separators=(",", ":")).encode("ascii")
    return key, first, rest, _mark(key, first, rest)


def _mark(key: bytes, logit: float, rest: bytes | None) -> bytes:
    """What tells a row as it was written from any other.

    Pages that a kill or a power failure tore SQLite mends by itself: those of the log have checksums, and those of the
    file are whole in the log until they have reached the disk. It has no checksum for what happens to the file later,
    nor for an index that leads to another row.
    """
    return blake2b(struct.pack("<d", logit) + (rest or b""), key=key, digest_size=8).digest()


def _kept(row: Row) -> Kept | None:
    """None for a row that is not as it was written."""
    key, logit, rest, mark = row
    try:
        if mark != _mark(key, logit, rest):
            return None
        if rest is None:
            return Kept((logit,))
        logits, blank, cut, passage = json.loads(rest)
        return Kept(tuple(logits), tuple(blank), cut and tuple(cut), passage and tuple(passage))
    except (TypeError, ValueError, struct.error):
        return None


def _checked(entries: Sequence[tuple[bytes, Kept]]) -> None:
    for place, (key, kept) in enumerate(entries):
        numbers = kept.logits if kept.passage is None else (*kept.logits, kept.passage[2])
        if not kept.logits or not all(map(math.isfinite, numbers)):
            raise InvalidInput(f"entries[{place}] has logits {kept.logits!r} and passage {kept.passage!r}: not finite")
        if not 16 <= len(key) <= 32:
            raise InvalidInput(f"entries[{place}] has a key of {len(key)} bytes, not 16 to 32")


# ---- The cache.


class ScoreCache:
    """Scores that were computed before; one object serves any number of threads and models.

    A copy, also one that travels to another process, and a forked child use the same file; one in memory starts empty
    as a copy. Texts are not kept, but whoever reads the file can find out whether a text that they guess was scored:
    it is made for its owner only. A file that fails later (a full disk, a damaged page, a newer version's) makes no
    ranking fail: what it cannot give is scored, the reason is logged once, and `errors` counts.

    Args:
        path: a file, made with the folders around it where there is none; None keeps scores in memory.
        max_bytes: of memory with all bookkeeping, or of disk with SQLite's log and index; the scores that were used
            longest ago make room (of a file as far as quarters of what it holds).

    Attributes:
        hits, misses: keys that this object found and did not find.

    Raises:
        InvalidInput: `path` cannot be a cache (a folder, a file of another kind), or `max_bytes` is too small.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, max_bytes: int = 256 * 2**20) -> None:
        self.max_bytes = positive_int(max_bytes, "max_bytes")
        self.hits = self.misses = 0
        if path is None:
            self.path: Path | None = None
            self._rows: _Memory | _Database = _Memory(self.max_bytes)
            return
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in os.fspath(path):
            raise InvalidInput(f"path={path!r} is no path of a file")
        if self.max_bytes < SMALLEST:
            raise InvalidInput(f"max_bytes={max_bytes} is less than {SMALLEST}, which a file needs")
        self.path = Path(os.path.abspath(Path(path).expanduser()))
        self._rows = _Database(self.path, self.max_bytes)

    def __repr__(self) -> str:
        return f"ScoreCache({'in memory' if self.path is None else str(self.path)!r}, max_bytes={self.max_bytes})"

    def __reduce__(self) -> tuple[type[ScoreCache], tuple[Path | None, int]]:
        return type(self), (self.path, self.max_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        with _LOCK:
            return self._rows.count()

    @property
    def bytes_held(self) -> int:
        """Of memory, or of disk."""
        return self._rows.bytes_held

    @property
    def errors(self) -> int:
        """How often the file could not be read or written."""
        return self._rows.errors

    def find(self, keys: Sequence[bytes]) -> list[Kept | None]:
        """What is kept under each key; None where there is nothing."""
        with _LOCK:
            found = self._rows.find(keys)
            missed = found.count(None)
            self.misses += missed
            self.hits += len(keys) - missed
        return found

    def keep(self, entries: Sequence[tuple[bytes, Kept]]) -> None:
        """Remember; where it returns without a word in the log, other processes find it.

        Raises:
            InvalidInput: a logit is not finite, or a key has not 16 to 32 bytes.
        """
        _checked(entries)
        with _LOCK:
            self._rows.keep(entries)

    def close(self) -> None:
        """Let go of the memory or of the file, which is opened again when it is asked again."""
        with _LOCK:
            self._rows.close()


class _Memory:
    """Rows in memory, the one used last at the end."""

    errors = 0

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.close()

    def close(self) -> None:
        self._entries: OrderedDict[bytes, Kept] = OrderedDict()
        self.bytes_held = 0

    def count(self) -> int:
        return len(self._entries)

    def find(self, keys: Sequence[bytes]) -> list[Kept | None]:
        found = [self._entries.get(key) for key in keys]
        for key, kept in zip(keys, found, strict=True):
            if kept is not None:
                self._entries.move_to_end(key)
        return found

    def keep(self, entries: Sequence[tuple[bytes, Kept]]) -> None:
        for key, kept in entries:
            earlier = self._entries.pop(key, None)
            self.bytes_held += _memory(kept) - (0 if earlier is None else _memory(earlier))
            self._entries[key] = kept
            while self.bytes_held > self.max_bytes:
                self.bytes_held -= _memory(self._entries.popitem(last=False)[1])


def _memory(kept: Kept) -> int:
    """Bytes of an entry: objects, a table that has just grown, and links."""
    return 420 + 32 * len(kept.logits) + (160 if kept.cut is not None else 0) + (220 if kept.passage is not None else 0)


# ---- The file.

OURS, VERSION = int.from_bytes(b"2ps1", "big"), 1
SCHEMA = """
create table scores (
    id integer primary key, -- rows used last have the largest
    key blob not null unique check(typeof(key) = 'blob' and length(key) between 16 and 32),
    logit real not null check(typeof(logit) = 'real'),
    rest blob check(typeof(rest) in ('blob', 'null')),
    mark blob not null
)
"""
SETTINGS = (
    "synchronous = normal", "wal_autocheckpoint = 0", "cache_spill = off", "cell_size_check = on", "trusted_schema = off"
)  # fmt: skip
BUSY_S = 10.0  # how long another process may write before we go on without
REST_S = 30.0  # how long a file that failed is let alone
BATCH = 256
PAGE, FRAME, ROW_BYTES = 4096, 4096 + 24, 128
SMALLEST = 2**20
# No transaction changes more pages: it has BATCH rows, each with a page of the index and what that is split to.
TRANSACTION_PAGES = 1024
STEPS = 64  # of making room in one call; a file that is far above a new bound shrinks over several
BUSY, CORRUPT, FULL, NOT_A_DATABASE = 5, 11, 13, 26


def _shares(max_bytes: int) -> tuple[int, int]:
    """Pages that the file may have, and bytes that its log may have before another transaction, of the whole bound.

    The log is emptied where it has an eighth of the file's pages, at most TRANSACTION_PAGES, and one transaction comes
    on top; 64 KiB are for the index of the log.
    """
    room = max_bytes - 2**16
    pages = max(8 * room // (8 * PAGE + 9 * FRAME), (room - 2 * TRANSACTION_PAGES * FRAME) // PAGE)
    return pages, FRAME * min(pages // 8, TRANSACTION_PAGES)


class _Database:
    """Rows in a SQLite file; whoever calls holds `_LOCK`."""

    _connection: Any = None

    def __init__(self, path: Path, max_bytes: int) -> None:
        import sqlite3  # not every Python has it, and a start needs none

        self.errors = 0
        self._sqlite: Any = sqlite3
        self._path = path
        self._pages, self._log_bytes = _shares(max_bytes)
        self._is_ours = False
        self._identity: tuple[int, int] | None = None
        self._used: set[bytes] = set()  # rows of the older half that were read
        self._rests = {False: 0.0, True: 0.0}
        self._told: set[tuple[str, int]] = set()
        with _LOCK:
            _DATABASES.add(self)
            try:
                self._opened()
            except (sqlite3.Error, OSError) as error:
                self._failed(error, writes=False)

    def __del__(self) -> None:
        with suppress(Exception):
            self.disconnect()

    @property
    def bytes_held(self) -> int:
        return sum(_size(f"{self._path}{part}") for part in ("", "-wal", "-shm"))

    def count(self) -> int:
        rows = [0]
        self._guarded(lambda connection: rows.extend(connection.execute("select count(*) from scores").fetchone()))
        return rows[-1]

    def find(self, keys: Sequence[bytes]) -> list[Kept | None]:
        found: dict[bytes, Kept] = {}
        for start in range(0, len(keys), BATCH):
            part = keys[start : start + BATCH]
            self._guarded(lambda connection, part=part: self._read(connection, part, found))
            if len(self._used) >= BATCH // 2:
                self._guarded(self._renew, writes=True)
        return [found.get(key) for key in keys]

    def keep(self, entries: Sequence[tuple[bytes, Kept]]) -> None:
        rows: list[Row] = []
        size, most = 0, self._pages * PAGE // 32
        for key, kept in entries:
            row = _row(key, kept)
            own = ROW_BYTES + len(row[2] or b"")
            if rows and (len(rows) == BATCH or size + own > min(most, BATCH * 1024)):
                self._guarded(lambda connection, part=(rows, size): self._write(connection, *part), writes=True)
                rows, size = [], 0
            if own <= most:
                rows.append(row)
                size += own
        self._guarded(lambda connection: self._write(connection, rows, size), writes=True)

    def close(self) -> None:
        if self._connection is not None:
            self._guarded(self._renew, writes=True)
        self.disconnect()

    def disconnect(self) -> None:
        """SQLite must not be carried through a fork; the last one who leaves empties the log."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(self._sqlite.Error):
                connection.close()

    # -- work

    def _read(self, connection: Any, keys: Sequence[bytes], found: dict[bytes, Kept]) -> None:
        """Rows of the older half are noted where the file is more than half full, to be written anew at its end.

        So a row is written at most once while half of the file is, however often it is read.
        """
        first, last = connection.execute("select (select min(id) from scores), (select max(id) from scores)").fetchone()
        full = 2 * _pragma(connection, "page_count") > self._pages
        middle = (first + last) // 2 if full and first is not None else 0
        asked = ",".join("?" * len(keys))
        query = f"select key, logit, rest, mark, id from scores where key in ({asked})"  # noqa: S608
        for *row, number in connection.execute(query, keys).fetchall():
            kept = _kept((row[0], row[1], row[2], row[3]))
            if kept is None:
                self.errors += 1
                self._tell("a row is not as it was written", ("row", 0))
                continue
            found[row[0]] = kept
            if number < middle:
                self._used.add(row[0])

    def _write(self, connection: Any, rows: Sequence[Row], size: int) -> None:
        self._make_room(connection, size // 1024 + 8)
        with self._transaction(connection):
            connection.executemany("insert or replace into scores (key, logit, rest, mark) values (?, ?, ?, ?)", rows)
        if self._used:
            self._renew(connection)

    def _renew(self, connection: Any) -> None:
        used, self._used = self._used, set()
        keys = [(key,) for key in used]
        with self._transaction(connection):
            connection.executemany("update scores set id = (select max(id) from scores) + 1 where key = ?", keys)

    def _make_room(self, connection: Any, pages: int) -> None:
        """Delete the rows used longest ago until so many pages are free, and give back what is above the bound."""
        for _ in range(STEPS):
            held = _pragma(connection, "page_count")
            lacking = held - _pragma(connection, "freelist_count") + pages > self._pages
            if not lacking and held <= self._pages:
                return
            with self._transaction(connection):
                if lacking:
                    oldest = "select max(id) from (select id from scores order by id limit ?)"
                    connection.execute(f"delete from scores where id <= ({oldest})", (BATCH,))  # noqa: S608
                if held > self._pages:
                    connection.execute(f"pragma incremental_vacuum({BATCH})").fetchall()

    @contextmanager
    def _transaction(self, connection: Any) -> Iterator[None]:
        """Write alone, and only where the log has room: it cannot be emptied while a process reads an old state."""
        end = time.monotonic() + BUSY_S
        connection.execute("begin immediate")
        while _size(f"{self._path}-wal") > self._log_bytes:
            connection.execute("rollback")
            if time.monotonic() > end:
                raise OSError("the log cannot be emptied while another process reads the file")
            if connection.execute("pragma wal_checkpoint(truncate)").fetchone()[0]:
                time.sleep(0.001)
            connection.execute("begin immediate")
        try:
            yield
        except BaseException:
            connection.rollback()
            raise
        connection.execute("commit")

    # -- opening, and what goes wrong

    def _guarded(self, work: Callable[[Any], object], writes: bool = False) -> None:
        """Do it, or go on without."""
        if time.monotonic() < self._rests[writes]:
            return
        try:
            work(self._opened())
        except (self._sqlite.Error, OSError, InvalidInput) as error:
            self._failed(error, writes)

    def _failed(self, error: Exception, writes: bool) -> None:
        self.errors += 1
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        self._tell(str(error), (type(error).__name__, code))
        if code in {CORRUPT, NOT_A_DATABASE} and self._is_ours:
            self.disconnect()
            if self._identity is not None and self._identity == _identity(self._path):
                for part in ("", "-wal", "-shm"):
                    with suppress(OSError):
                        os.unlink(f"{self._path}{part}")
            return
        if code not in {BUSY, FULL}:
            self.disconnect()
        self._rests[writes] = time.monotonic() + REST_S

    def _tell(self, reason: str, kind: tuple[str, int]) -> None:
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("%s: scores are computed where the cache has none: %s", self._path, reason)

    def _opened(self) -> Any:
        if self._connection is not None and self._identity != _identity(self._path):
            self.disconnect()  # somebody deleted the file, or put another there
        if self._connection is None:
            self._connection = self._connect()
            self._identity = _identity(self._path)
        elif self._connection.in_transaction:
            self._connection.rollback()  # an interrupt came between two lines
        return self._connection

    def _connect(self) -> Any:
        _make(self._path)
        self._is_ours = False
        connection = self._sqlite.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._begin(connection)
            for setting in (*SETTINGS, f"max_page_count = {self._pages}"):
                connection.execute(f"pragma {setting}")
        except BaseException as error:
            connection.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in {CORRUPT, NOT_A_DATABASE} and not self._is_ours:
                raise InvalidInput(f"path={str(self._path)!r} is no score cache: {error}") from None
            raise
        return connection

    def _begin(self, connection: Any) -> None:
        """Nothing is written to a file that is not ours."""
        kind, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        self._is_ours = kind == OURS
        tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
        if not self._is_ours and (kind or version or tables):
            raise InvalidInput(f"path={str(self._path)!r} is no score cache: another program's database")
        if version > VERSION:
            raise self._sqlite.NotSupportedError(f"a newer secondpass made it (version {version}, not {VERSION})")
        if not self._is_ours:
            connection.execute("pragma auto_vacuum = incremental")
        self._use_log(connection)
        if self._is_ours:
            return
        connection.execute("begin immediate")
        if not connection.execute("select count(*) from sqlite_master").fetchone()[0]:
            for statement in (SCHEMA, f"pragma application_id = {OURS}", f"pragma user_version = {VERSION}"):
                connection.execute(statement)
        connection.execute("commit")
        self._is_ours = True

    def _use_log(self, connection: Any) -> None:
        """SQLite does not wait here where several begin at once."""
        end = time.monotonic() + BUSY_S
        while True:
            try:
                connection.execute("pragma journal_mode = wal")
                return
            except self._sqlite.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.005)


def _make(path: Path) -> None:
    """An empty file for its owner only, if there is none.

    It is never opened but by SQLite: closing any descriptor of a file gives up the locks of the whole process on it.
    """
    try:
        try:
            kind = os.stat(path).st_mode
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.mknod(path, 0o600 | stat.S_IFREG)
            return
    except (NotADirectoryError, FileExistsError) as error:
        raise InvalidInput(f"path={str(path)!r} cannot be made: {error.strerror}: {error.filename!r}") from None
    if not stat.S_ISREG(kind):
        raise InvalidInput(f"path={str(path)!r} is no file")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _pragma(connection: Any, name: str) -> int:
    return int(connection.execute(f"pragma {name}").fetchone()[0])


# One lock for all caches of a process: a child that is forked must find none of them at work.
_LOCK = threading.RLock()
_DATABASES: weakref.WeakSet[_Database] = weakref.WeakSet()


def _before_fork() -> None:
    _LOCK.acquire()
    for database in list(_DATABASES):
        database.disconnect()


os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
