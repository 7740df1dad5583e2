"""What is kept of scores: bit for bit, within its bounds, and never anything wrong, whatever happens to the file."""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import os
import pickle
import random
import resource
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass import score_cache
from secondpass.errors import InvalidInput
from secondpass.score_cache import Kept, ScoreCache, score_keys
from tests import fork_server

MB = 2**20
KILLS = int(os.environ.get("SECONDPASS_KILLS", "3"))
PARTS = ("", "-wal", "-shm")


def right(key: bytes) -> Kept:
    """The one row that belongs to a key in these tests."""
    logit = struct.unpack("<f", struct.pack("<f", int.from_bytes(key[-4:], "little") / 7e8 - 3))[0]
    return Kept((logit,)) if key[-5] % 2 else Kept((logit, -logit), (False, True), (0, key[0], 5), (3, 9, logit, 2))


def keys_of(query: str, count: int = 100) -> list[bytes]:
    """Keys of one query's documents."""
    return score_keys(b"model", [query] * count, [f"document {number}" for number in range(count)])


def fill(cache: ScoreCache, queries: Sequence[str]) -> None:
    """Keep what is right for the documents of some queries."""
    for query in queries:
        cache.keep([(key, right(key)) for key in keys_of(query)])


def holds(cache: ScoreCache, query: str) -> bool:
    """Whether all of a query's documents are there; whatever is there must be right."""
    keys = keys_of(query)
    found = cache.find(keys)
    assert all(kept is None or kept == right(key) for key, kept in zip(keys, found, strict=True))
    return None not in found


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as any program sees it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.fixture(params=["memory", "file"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScoreCache]:
    """A small one, in memory and in a file."""
    with ScoreCache(tmp_path / "scores.db" if request.param == "file" else None, max_bytes=MB) as made:
        yield made
        assert made.errors == 0


# ---- keys

TEXTS = st.text(st.characters(), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=3), TEXTS, TEXTS), min_size=2, max_size=2))
def test_keys_are_equal_where_context_query_and_document_are(triples: list[tuple[bytes, str, str]]) -> None:
    """No text can pass for part of its neighbour; a lone surrogate is a character like others."""
    keys = [score_keys(context, [query], [document])[0] for context, query, document in triples]
    assert (keys[0] == keys[1]) == (triples[0] == triples[1])


def test_keys_stay_the_same() -> None:
    """Files outlive versions: this is the digest, told by other means; documents of a query begin alike."""
    read = hashlib.blake2b(digest_size=20, person=b"secondpass score")
    read.update(b"\2\0\0\0\0\0\0\0" + b"ab" + b"\3\0\0\0\0\0\0\0" + b"\xed\xa0\x80")
    front = read.digest()[:8]
    read.update("ä".encode())
    assert score_keys(b"ab", ["\ud800", "\ud800"], ["ä", "b"])[0] == front + read.digest()
    assert {key[:8] for key in score_keys(b"ab", ["\ud800", "\ud800"], ["ä", "b"])} == {front}
    assert score_keys(b"ab", [], []) == []


# ---- rows

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.builds(
    Kept,
    st.lists(FLOATS, min_size=1, max_size=3).map(tuple),
    st.tuples(st.booleans(), st.booleans()),
    st.none() | st.tuples(*[st.integers(0, 2**40)] * 3),
    st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), FLOATS, st.integers(1, 9)),
)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=20))
def test_what_is_found_is_what_was_kept_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Kept]
) -> None:
    """In memory and by the next one who opens the file; -0.0, the smallest and the largest float too."""
    rows += [Kept((number,)) for number in (-0.0, 0.0, 1e-45, -3.4028234663852886e38)]
    path = tmp_path_factory.getbasetemp() / "rows.db"
    keys = keys_of("query", len(rows))
    with ScoreCache() as memory, ScoreCache(path) as file:
        for cache in (memory, file):
            cache.keep(list(zip(keys, rows, strict=True)))
        file.close()
        for cache in (memory, file):
            assert list(map(repr, cache.find(keys))) == list(map(repr, rows))
            assert (cache.hits, cache.misses, cache.errors) == (len(rows), 0, 0)
            assert cache.find([keys[0], b"0" * 16, keys[0]]) == [rows[0], None, rows[0]]
            assert (cache.hits, cache.misses) == (len(rows) + 2, 1)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(cache: ScoreCache, wrong: float) -> None:
    """SQLite would make NULL of NaN; nothing of such a call is kept."""
    first, second = keys_of("query", 2)
    for kept in (Kept((0.5, wrong)), Kept((0.5,), passage=(0, 1, wrong, 1)), Kept(())):
        with pytest.raises(InvalidInput, match=r"entries\[1\] has logits"):
            cache.keep([(first, Kept((1.0,))), (second, kept)])
    with pytest.raises(InvalidInput, match=r"entries\[0\] has a key of 3 bytes"):
        cache.keep([(b"key", Kept((1.0,)))])
    assert cache.find([first, second]) == [None, None]


def test_the_file_takes_nothing_but_floats(tmp_path: Path) -> None:
    """The table itself refuses what another program might put there."""
    with ScoreCache(tmp_path / "scores.db"), raw(tmp_path / "scores.db") as connection:
        for wrong in (None, b"1234", "one", float("nan")):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute("insert into scores (key, logit, mark) values (?, ?, ?)", (b"k" * 16, wrong, b"m"))


def test_a_row_that_nobody_wrote_is_no_score(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed logit, a row under another's key, JSON of another shape; what is kept anew is right again."""
    path = tmp_path / "scores.db"
    keys = keys_of("query", 6)
    with ScoreCache(path) as cache:
        cache.keep([(key, Kept((0.5,))) for key in keys])
        with raw(path) as connection:
            connection.execute("update scores set logit = 0.25 where key = ?", keys[:1])
            connection.execute("update scores set key = ? where key = ?", (b"x" * 28, keys[1]))
            connection.execute("update scores set rest = ? where key = ?", (b"[]", keys[2]))
            connection.execute("update scores set mark = 'text' where key = ?", keys[3:4])
        known = Kept((0.5,))
        assert cache.find([*keys, b"x" * 28]) == [None, None, None, None, known, known, None]
        assert cache.errors == 4
        assert len(caplog.records) == 1
        cache.keep([(key, known) for key in keys])
        assert cache.find(keys) == [known] * 6


# ---- bounds


@pytest.mark.parametrize("scattered", [False, True])
def test_the_bound_holds_and_what_was_used_longest_ago_goes(cache: ScoreCache, scattered: bool) -> None:
    """The log and its index count; keys without any order take more room; what is read again and again stays."""
    fill(cache, ["read always", "never read"])
    draw, peak = random.Random(0), 0
    for number in range(32):
        keys = [draw.randbytes(24) for _ in range(150)] if scattered else keys_of(f"query {number}", 150)
        cache.keep([(key, right(key)) for key in keys])
        assert cache.find(keys) == [right(key) for key in keys]
        assert holds(cache, "read always")
        peak = max(peak, cache.bytes_held)
    assert MB / 4 < peak <= MB
    assert not holds(cache, "never read")
    assert 1_000 < len(cache) < 15_000


def test_rows_that_are_large(cache: ScoreCache) -> None:
    """Thousands of labels: few rows at a time; one that would take the whole cache is not kept."""
    keys = keys_of("query", 60)
    large = [Kept(tuple(number / 1000 + place for number in range(500))) for place in range(60)]
    cache.keep(list(zip(keys, large, strict=True)))
    found = cache.find(keys)
    assert found[-10:] == large[-10:]
    assert cache.bytes_held <= MB
    cache.keep([(keys[0], Kept((0.5,) * 100_000)), (keys[1], Kept((0.25,)))])
    assert cache.find(keys[1:2]) == [Kept((0.25,))]


def test_a_smaller_bound_shrinks_the_file(tmp_path: Path) -> None:
    """While it is written to; what was used last stays."""
    with ScoreCache(tmp_path / "scores.db", max_bytes=8 * MB) as cache:
        fill(cache, [f"query {number}" for number in range(80)])
        assert cache.bytes_held > MB
    with ScoreCache(tmp_path / "scores.db", max_bytes=MB) as cache:
        fill(cache, ["last", "very last"])
        assert cache.bytes_held <= MB
        assert holds(cache, "very last")
        assert holds(cache, "query 79")
        assert not holds(cache, "query 0")


def test_reading_hardly_ever_writes(cache: ScoreCache) -> None:
    """Nothing while there is room, and a row at most once while half of the cache is written."""
    fill(cache, ["early"])
    for number in range(40):
        fill(cache, [f"query {number}"])
        for _ in range(2):
            assert holds(cache, "early")
        if number == 8:
            assert _numbered(cache) == 10 * 100
    assert 42 * 100 <= _numbered(cache) <= 48 * 100


def _numbered(cache: ScoreCache) -> int:
    """How many rows were written so far, again or for the first time."""
    return int(cache._connection.execute("select max(id) from scores").fetchone()[0])


def test_a_process_that_reads_an_old_state_does_not_let_the_log_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is written until it is gone; what was kept is found all the while."""
    monkeypatch.setattr(score_cache, "BUSY_S", 0.05)
    monkeypatch.setattr(score_cache, "REST_S", 0.0)
    with ScoreCache(tmp_path / "scores.db", max_bytes=MB) as cache, raw(tmp_path / "scores.db") as reader:
        fill(cache, ["first"])
        reader.execute("begin")
        reader.execute("select count(*) from scores").fetchone()
        fill(cache, [f"query {number}" for number in range(12)])
        assert cache.bytes_held <= MB
        assert cache.errors > 0
        assert "the log cannot be emptied" in caplog.text
        assert holds(cache, "first")
        reader.execute("commit")
        fill(cache, ["last"])
        assert holds(cache, "last")


# ---- many users

WORK = f"""
from __future__ import annotations
import random, struct, sys
from secondpass.score_cache import Kept, ScoreCache, score_keys
{inspect.getsource(right)}
{inspect.getsource(keys_of)}
path, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw, found = random.Random(seed), 0
with ScoreCache(path, max_bytes=2**20) as cache:
    print("began", flush=True)
    for _ in range(rounds):
        keys = keys_of(str(draw.randrange(80)))
        kept = cache.find(keys)
        assert all(one is None or one == right(key) for key, one in zip(keys, kept)), "a wrong score"
        found += 100 - kept.count(None)
        cache.keep([(key, right(key)) for key, one in zip(keys, kept) if one is None])
        assert cache.bytes_held <= 2**20, cache.bytes_held
    assert cache.errors == 0
print(found)
"""


def test_eight_processes_of_which_some_are_killed(tmp_path: Path) -> None:
    """No wrong score, no error in those that live, the bound holds, and the next one finds what they left."""
    path = tmp_path / "new" / "scores.db"

    def begun(seed: int, rounds: int) -> fork_server.Popen:
        command = [sys.executable, "-c", WORK, str(path), str(seed), str(rounds)]
        return fork_server.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    staying = [begun(seed, 15) for seed in range(7)]
    draw = random.Random(KILLS)
    for number in range(KILLS):
        process = begun(100 + number, 10_000)
        assert process.stdout.readline() == "began\n"
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.communicate()
    ended = [(*process.communicate(timeout=100), process.returncode) for process in staying]
    assert [errors for _, errors, code in ended if code] == []
    assert sum(int(output.split()[1]) for output, _, _ in ended) > 0
    with ScoreCache(path, max_bytes=MB) as cache:
        assert any([holds(cache, str(number)) for number in range(80)])
        assert cache.errors == 0
    with raw(path) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_a_forked_child_and_its_parent(cache: ScoreCache) -> None:
    """Both go on; with a file each finds what the other keeps, also where threads were at work at the fork."""
    fill(cache, ["before"])
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            fill(cache, [f"busy {number % 5}"])
            number += 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            child = os.fork()
            if child == 0:
                try:
                    fill(cache, [f"child {number}"])
                    well = holds(cache, "before") and holds(cache, f"child {number}") and cache.errors == 0
                finally:
                    os._exit(0 if well else 3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert holds(cache, f"child {number}") == (cache.path is not None)
            fill(cache, ["before"])
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_copies_go_to_the_same_file(tmp_path: Path) -> None:
    """With the path, without any connection; a copy of one in memory starts empty."""
    with ScoreCache(tmp_path / "scores.db", max_bytes=2 * MB) as cache, ScoreCache() as memory:
        for made in (cache, memory):
            fill(made, ["query"])
        for made in (copy.copy(cache), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):  # noqa: S301
            assert (made.path, made.max_bytes, made.hits) == (tmp_path / "scores.db", 2 * MB, 0)
            assert holds(made, "query")
            made.close()
        assert len(copy.deepcopy(memory)) == 0


def test_a_closed_one_is_opened_again_when_it_is_asked(tmp_path: Path) -> None:
    """And leaves one file behind, without a log."""
    with ScoreCache(tmp_path / "scores.db") as cache:
        fill(cache, ["query"])
        cache.close()
        assert [path.name for path in tmp_path.iterdir()] == ["scores.db"]
        assert holds(cache, "query")


# ---- what goes wrong with a file


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """It tells what was asked; the folders around it are made."""
    with ScoreCache(tmp_path / "a" / "b" / "scores.db") as cache:
        fill(cache, ["query"])
        files = sorted((tmp_path / "a" / "b").iterdir())
        assert [file.name for file in files] == ["scores.db", "scores.db-shm", "scores.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_what_cannot_be_a_cache_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A folder, a text, another program's database, a path through a file, no path, too small a bound."""
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("these are my notes\n" * 300)
    with raw(other) as connection:
        connection.execute("create table mine (a)")
    (tmp_path / "damaged.db").write_bytes(other.read_bytes()[:100] + b"\xff" * 3996)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path, reason in (
        (tmp_path, "is no file"),
        (text, "is no score cache: file is not a database"),
        (other, "is no score cache: it is another program's database"),
        (tmp_path / "damaged.db", "is no score cache"),
        (text / "scores.db", "cannot be made"),
        (text / "a" / "scores.db", "cannot be made"),
        ("", "is no path of a file"),
        ("a\0b", "is no path of a file"),
        (3, "is no path of a file"),
    ):
        with pytest.raises(InvalidInput, match=f"^path=.*{reason}"):
            ScoreCache(path)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"^max_bytes=1000 is less than"):
        ScoreCache(max_bytes=1000)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_file_and_the_log_of_a_deleted_one(tmp_path: Path) -> None:
    """Both are as good as nothing."""
    path = tmp_path / "scores.db"
    with ScoreCache(path) as cache:
        fill(cache, ["gone"])
        left = Path(f"{path}-wal").read_bytes()
    path.unlink()
    path.touch()
    Path(f"{path}-wal").write_bytes(left)
    with ScoreCache(path) as cache:
        fill(cache, ["query"])
        assert not holds(cache, "gone")
        assert holds(cache, "query")
        assert cache.errors == 0


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without it everything goes on; the reason is told once."""
    path = tmp_path / "scores.db"
    with ScoreCache(path) as cache:
        fill(cache, ["query"])
    with raw(path) as connection:
        connection.execute("pragma user_version = 9")
    with ScoreCache(path) as cache:
        assert not holds(cache, "query")
        fill(cache, ["other"])
        assert cache.errors > 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "a newer secondpass made it (version 9, not 1)" in caplog.text
    with raw(path) as connection:
        assert connection.execute("select count(*) from scores").fetchone() == (100,)


def test_a_folder_that_cannot_be_had(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can be made in /proc: everything goes on without, and the reason is told once."""
    with ScoreCache("/proc/secondpass/scores.db") as cache:
        fill(cache, ["query"])
        assert not holds(cache, "query")
        assert (len(cache), cache.bytes_held) == (0, 0)
        assert cache.errors > 0
    assert len(caplog.records) == 1


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What was kept is found, and when there is room again, more is kept."""
    monkeypatch.setattr(score_cache, "REST_S", 0.0)
    with ScoreCache(tmp_path / "scores.db") as cache:
        fill(cache, ["before"])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (cache.bytes_held // 2, hard))
        try:
            fill(cache, [f"query {number}" for number in range(20)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert cache.errors > 0
        assert holds(cache, "before")
        fill(cache, ["after"])
        assert holds(cache, "after")
    assert len(caplog.records) == 1


def test_a_file_that_another_process_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes waits for seconds, then goes on without and lets it alone for a while; reading waits for nobody."""
    assert score_cache.BUSY_S >= 5
    monkeypatch.setattr(score_cache, "BUSY_S", 0.05)
    with ScoreCache(tmp_path / "scores.db") as cache, raw(tmp_path / "scores.db") as other:
        fill(cache, ["query"])
        other.execute("begin immediate")
        for _ in range(3):
            fill(cache, ["more"])
        assert cache.errors == 1
        assert holds(cache, "query")
        assert not holds(cache, "more")
        other.execute("rollback")
        monkeypatch.setattr(cache, "_rests", {False: 0.0, True: 0.0})
        fill(cache, ["more"])
        assert holds(cache, "more")


def test_an_interrupt_leaves_nothing_that_others_wait_for(tmp_path: Path) -> None:
    """Between any two lines: what was begun is undone."""

    def interrupted(connection: sqlite3.Connection) -> None:
        connection.execute("begin immediate")
        connection.execute("delete from scores")
        raise KeyboardInterrupt

    with ScoreCache(tmp_path / "scores.db") as cache, raw(tmp_path / "scores.db") as other:
        fill(cache, ["query"])
        with pytest.raises(KeyboardInterrupt):
            cache._guarded(interrupted)
        other.execute("pragma busy_timeout = 0")
        other.execute("begin immediate")
        other.execute("rollback")
        assert holds(cache, "query")


@pytest.mark.parametrize("how", ["some pages", "all pages", "the beginning", "cut short", "deleted", "replaced"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is in use and when it is opened next: nothing wrong is found, and soon it keeps again."""
    monkeypatch.setattr(score_cache, "REST_S", 0.0)
    path, draw = tmp_path / "scores.db", random.Random(how)
    queries = [f"query {number}" for number in range(12)]
    for opened in (True, False):
        with ScoreCache(path) as cache:
            fill(cache, queries)
            cache.close()
            if opened:
                assert holds(cache, queries[0])
            _damage(path, how, draw)
            for query in queries:
                holds(cache, query)
            for _ in range(2):
                fill(cache, queries)
            assert all([holds(cache, query) for query in queries])
        path.unlink()


def _damage(path: Path, how: str, draw: random.Random) -> None:
    """In place, as a disk does it: the same file, without a word to anyone."""
    size = path.stat().st_size
    if how in {"deleted", "replaced"}:
        path.unlink()
        if how == "replaced":
            with ScoreCache(path) as other:
                fill(other, ["other"])
        return
    with path.open("r+b") as file:
        if how == "cut short":
            file.truncate(size // 2)
        elif how == "the beginning":
            file.write(draw.randbytes(4096))
        else:
            for page in range(1, size // 4096):
                if how == "all pages" or page % 3 == 0:
                    file.seek(4096 * page)
                    file.write(draw.randbytes(4096))
