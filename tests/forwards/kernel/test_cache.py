"""The user's cache: what was packed once is mapped by later starts, and whatever is wrong with it breaks no start."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass import CrossEncoder
from secondpass.forwards.contract import Logits
from secondpass.forwards.description import CompactRows, Encoder, StoredArray
from secondpass.forwards.kernel import KernelEncoder, cache, kernel_forward, native
from secondpass.forwards.kernel.cache import digest_of, remember, remembered
from secondpass.forwards.kernel.weights import with_numbers
from secondpass.models.weights import GROUP, scaled
from secondpass.models.weights import packed as packed_levels
from tests.forwards.kernel.encoders import VOCABULARY, arrays, made, sized, tokens

FOUND = native.routines()
compiled = pytest.mark.skipif(isinstance(FOUND, str), reason=str(FOUND))
ROUTINES = () if isinstance(FOUND, str) else FOUND
INPUTS = tokens(3, 17, 40)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the cache's files."""
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "kept"))
    return tmp_path / "kept" / "kernel"


class Described:
    """Gives an encoder and counts how often."""

    def __init__(self, family: str = "bert") -> None:
        self.asked = 0
        self._encoder = arrays(made(family)[1])

    def __call__(self) -> Encoder:
        self.asked += 1
        return self._encoder


def start(encoder: Callable[[], Encoder], identity: str | None = "one", precision: native.Precision = "fp32") -> Logits:
    """What a process computes first."""
    forward = kernel_forward(encoder, precision, identity)
    assert isinstance(forward, KernelEncoder)
    return (forward if identity is None else forward.kept(identity))(INPUTS)


@compiled
@pytest.mark.parametrize("routine", ROUTINES, ids=lambda routine: f"{routine.instructions}-{routine.precision}")
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_second_start_reads_and_packs_nothing(
    family: str, routine: native.Routine, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    """Its logits are the same bits, from pages that it cannot write to; nobody else can read the file."""
    monkeypatch.setenv(native.CHOSEN, routine.instructions)
    encoder = Described(family)
    wanted = start(encoder, None, routine.precision)
    for _ in range(2):
        assert np.array_equal(start(encoder, "one", routine.precision), wanted)
    assert encoder.asked == 2
    (kept,) = place.iterdir()
    assert (kept.stat().st_mode & 0o777, place.stat().st_mode & 0o777) == (0o600, 0o700)
    found = cache.weights("one", routine)
    assert found is not None
    assert not found.arrays[0].flags.writeable


@compiled
def test_other_weights_routines_and_layouts_have_files_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another kernel packed is never read."""
    encoder = Described()
    start(encoder)
    start(encoder, "another")
    assert encoder.asked == 2
    monkeypatch.setattr(cache, "layout", lambda: "a later one")
    start(encoder)
    assert encoder.asked == 3
    for number, routine in enumerate(ROUTINES):
        monkeypatch.setenv(native.CHOSEN, routine.instructions)
        start(encoder, "of routines", routine.precision)
        assert encoder.asked == 4 + number


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 64)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[cache.START + 20] ^= 1
    file.write_bytes(content)


def _lengthen(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(cache.MARK) + 7] = 255
    file.write_bytes(content)


def _open_up(file: Path) -> None:
    file.chmod(0o666)


def _open_folder(file: Path) -> None:
    file.parent.chmod(0o777)


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def _folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


@compiled
@pytest.mark.parametrize(
    "change",
    [_cut, _empty, _spoil, _lengthen, _open_up, _open_folder, _link, _folder_instead],
    ids=lambda f: f.__name__,
)
def test_what_is_broken_or_open_to_others_is_not_used(change: Callable[[Path], None], place: Path) -> None:
    """It is packed again, and the model computes."""
    encoder = Described()
    wanted = start(encoder)
    change(next(place.iterdir()))
    assert np.array_equal(start(encoder), wanted)
    assert encoder.asked == 2


@compiled
def test_what_belongs_to_another_user_is_neither_read_nor_written_to(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    """Weights of theirs would be scores of theirs."""
    encoder = Described()
    start(encoder)
    remember("a", 1)
    before = sorted(place.iterdir())
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    start(encoder)
    start(encoder, "another")
    remember("b", 1)
    assert (encoder.asked, remembered("a"), sorted(place.iterdir())) == (3, None, before)


def _no_room(*given: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _no_home(*given: Any) -> Path:
    raise RuntimeError("Could not determine home directory.")


@compiled
@pytest.mark.parametrize("trouble", ["off", "a file", "full", "no room allowed", "no home", "no sources", "read-only"])
def test_without_a_cache_all_is_computed(trouble: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the reason; nothing half written is left."""
    (tmp_path / "file").touch()
    if trouble in ("off", "a file"):
        monkeypatch.setenv(cache.PLACE, "off" if trouble == "off" else str(tmp_path / "file"))
    elif trouble == "full":
        monkeypatch.setattr(os, "fsync", _no_room)
    elif trouble == "no room allowed":
        monkeypatch.setenv(cache.SIZE, "0.00001")
    elif trouble == "no home":
        monkeypatch.delenv(cache.PLACE)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", _no_home)
    elif trouble == "no sources":
        monkeypatch.setattr(cache, "layout", _no_room)
    else:
        monkeypatch.setattr(os, "replace", _no_room)
    encoder = Described()
    assert np.array_equal(start(encoder), start(encoder))
    assert encoder.asked == 2
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / "file"]
    if trouble in ("off", "a file", "no home", "read-only"):
        remember("a", 1)
        assert remembered("a") is None


@compiled
def test_a_file_that_may_not_be_marked_as_used_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that was made read-only later."""
    encoder = Described()
    start(encoder)
    remember("a", 1)
    monkeypatch.setattr(os, "utime", _no_room)
    start(encoder)
    assert (encoder.asked, remembered("a")) == (1, 1)


@compiled
def test_weights_that_were_written_to_are_packed_again(place: Path) -> None:
    """A single bit of them, wherever it is: nobody reads all of a file to see it."""
    encoder = Described()
    wanted = start(encoder)
    for turn in range(2, 12):
        (kept,) = place.glob("*.weights")
        at = kept.stat().st_size * turn // 12
        with kept.open("r+b") as content:
            content.seek(at)
            (byte,) = content.read(1)
            content.seek(at)
            content.write(bytes([byte ^ 64]))
        assert np.array_equal(start(encoder), wanted)
        assert encoder.asked == turn
    start(encoder)
    assert encoder.asked == turn


@compiled
def test_what_was_used_least_lately_goes(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """There is room for two: a start counts as use; what a killed writer left goes as well."""
    encoder = Described()
    for number, identity in enumerate("ab"):
        start(encoder, identity)
        for file in place.iterdir():
            os.utime(file, ns=(number, file.stat().st_mtime_ns))
    size = max(file.stat().st_size for file in place.iterdir())
    monkeypatch.setenv(cache.SIZE, str(2.5 * size / 1e9))
    start(encoder, "a")
    (place / ".left").touch()
    os.utime(place / ".left", (1, 1))
    (place / ".written now").touch()
    start(encoder, "c")
    assert encoder.asked == 3
    routine = native.find("fp32")
    assert not isinstance(routine, str)
    names = {cache._name(identity, routine) for identity in "ac"}
    assert {file.name for file in place.iterdir()} == {*names, ".written now"}


@compiled
def test_what_is_mapped_stays_whole(place: Path) -> None:
    """Others may replace or remove its file meanwhile."""
    encoder = Described()
    start(encoder)
    forward = kernel_forward(encoder, "fp32", "one")
    assert isinstance(forward, KernelEncoder)
    wanted = forward(INPUTS)
    (kept,) = place.iterdir()
    (place / "new").write_bytes(bytes(kept.stat().st_size))
    os.replace(place / "new", kept)
    kept.unlink()
    assert np.array_equal(forward(INPUTS), wanted)


@compiled
def test_many_may_start_at_once(place: Path) -> None:
    """One file is left, and all compute the same."""
    encoder, wanted = Described(), start(Described(), None)
    found: list[Logits] = []
    starts = [threading.Thread(target=lambda: found.append(start(encoder))) for _ in range(8)]
    for one in starts:
        one.start()
    for one in starts:
        one.join()
    assert len(found) == 8
    assert all(np.array_equal(logits, wanted) for logits in found)
    assert [file.suffix for file in place.iterdir()] == [".weights"]


def _pickled(forward: KernelEncoder) -> Any:
    return pickle.loads(pickle.dumps(forward))  # noqa: S301


@compiled
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, _pickled])
@pytest.mark.parametrize("identity", [None, "one"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_copy_computes_the_same(family: str, identity: str | None, copied: Callable[[Any], Any]) -> None:
    """Also in a process that never saw the weights; it does not depend on the original."""
    forward = kernel_forward(Described(family), "fp32", identity)
    assert isinstance(forward, KernelEncoder)
    forward = forward if identity is None else forward.kept(identity)
    wanted, made_again = forward(INPUTS), copied(forward)
    del forward
    assert np.array_equal(made_again(INPUTS), wanted)


class Decode:
    """Rows in few bits to float32; how many, each time."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, raw: Any, steps: Any) -> Any:
        self.rows.append(len(raw))
        return scaled(raw, steps)


def in_few_bits(encoder: Encoder, bits: int, decode: Decode) -> Encoder:
    """The same with other words, stored in so many bits."""
    words = np.random.default_rng(3).normal(size=(VOCABULARY, 2, GROUP)).astype(np.float32)
    most = 2 ** (bits - 1)
    if bits == 8:
        steps: Any = np.abs(words).max(axis=(1, 2)) / 127
        raw: Any = np.rint(words.reshape(VOCABULARY, -1) / steps[:, None]).astype(np.int8)
    else:
        steps = np.abs(words).max(axis=2) / (most - 1)
        levels = (np.rint(words / steps[..., None]) + most).astype(np.uint8)
        raw = packed_levels(levels.reshape(VOCABULARY, -1), bits)
    compact = CompactRows(lambda: (raw, steps), decode)
    stored = StoredArray((VOCABULARY, 2 * GROUP), lambda: scaled(raw, steps), compact)
    return replace(encoder, embeddings=replace(encoder.embeddings, words=stored))


@compiled
@pytest.mark.parametrize("bits", [4, 7, 8])
def test_words_in_few_bits_are_read_when_a_text_has_them(bits: int, place: Path) -> None:
    """Once each, to the same bits as all of them at once; later starts and copies find them in few bits."""
    decode = Decode()
    encoder = in_few_bits(arrays(sized(2 * GROUP, 2, 64)[1]), bits, decode)
    embeddings = replace(encoder.embeddings, words=np.asarray(encoder.embeddings.words))
    whole = kernel_forward(lambda: replace(encoder, embeddings=embeddings), "fp32", "whole")
    forward = kernel_forward(lambda: with_numbers(encoder), "fp32", "few")
    assert isinstance(whole, KernelEncoder)
    assert isinstance(forward, KernelEncoder)
    wanted, words = whole(INPUTS), [{*item.ids.tolist()} for item in INPUTS]
    assert np.array_equal(forward(INPUTS[:1]), wanted[:1])
    assert decode.rows == [len(words[0])]
    assert np.array_equal(forward(INPUTS), wanted)
    assert np.array_equal(forward(INPUTS), wanted)
    assert sum(decode.rows) == len(set.union(*words)) < VOCABULARY
    whole.kept("whole")
    (large,) = place.iterdir()
    kept = forward.kept("few")
    (small,) = {*place.iterdir()} - {large}
    assert large.stat().st_size - small.stat().st_size > VOCABULARY * GROUP * 4
    found = kernel_forward(Described(), "fp32", "few", Decode())
    assert isinstance(found, KernelEncoder)
    assert all(np.array_equal(own(INPUTS), wanted) for own in (kept, found, _pickled(forward), _pickled(found)))
    # without what decodes them they are packed again, and nothing is read wrongly
    again = Described()
    assert isinstance(kernel_forward(again, "fp32", "few"), KernelEncoder)
    assert again.asked == 1


@compiled
def test_threads_that_read_the_same_words_first_compute_the_same(place: Path) -> None:
    """None reads a row before it is there."""
    encoder = in_few_bits(arrays(sized(2 * GROUP, 2, 64)[1]), 4, Decode())
    inputs = tokens(*[50] * 20)
    first = kernel_forward(lambda: with_numbers(encoder), "fp32")
    assert isinstance(first, KernelEncoder)
    wanted = first(inputs)
    for _ in range(20):
        forward = kernel_forward(lambda: with_numbers(encoder), "fp32")
        assert isinstance(forward, KernelEncoder)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(forward, [inputs] * 4))
        assert all(np.array_equal(logits, wanted) for logits in found)


@compiled
def test_only_what_auto_chose_is_kept(place: Path) -> None:
    """Of all that it compared; a later start has the same scores, and the words in few bits."""
    query, documents = "how long to boil an egg", ["five minutes", "a city by the sea"]
    first, second = (CrossEncoder("secondpass/pocket", device="cpu") for _ in range(2))
    scores = [hit["score"] for hit in first.rank(query, documents)]
    assert scores == [hit["score"] for hit in second.rank(query, documents)]
    for _ in range(3):  # a busy machine's choice holds for its process alone, in which it is made once
        (kept,) = place.glob("*.weights")
        assert kept.stat().st_size < 4 * 26_000 * 384
        CrossEncoder("secondpass/pocket", device="cpu")


@compiled
def test_the_first_layers_alone_are_a_model_of_them() -> None:
    """By whose time "auto" judges; the whole one is as it was."""
    encoder = arrays(made(num_hidden_layers=4)[1])
    forward = kernel_forward(lambda: encoder, "fp32")
    two = kernel_forward(lambda: replace(encoder, layers=encoder.layers[:2]), "fp32")
    assert isinstance(forward, KernelEncoder)
    assert isinstance(two, KernelEncoder)
    wanted = forward(INPUTS)
    assert np.array_equal(forward.shallow(0.5)(INPUTS), two(INPUTS))
    assert not np.array_equal(forward.shallow(0.01)(INPUTS), two(INPUTS))
    assert np.array_equal(forward(INPUTS), wanted)


def test_digests_are_of_contents_and_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once while nothing was written; a change that keeps size and time is seen; order counts, names do not."""
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -60.0)
    reads: list[Any] = []
    digest = hashlib.file_digest

    def counted(*given: Any) -> Any:
        reads.append(given)
        return digest(*given)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    first, second, same = (tmp_path / name for name in ("first", "second", "same"))
    for file, content in ((first, b"abc"), (second, b"xyz"), (same, b"abc")):
        file.write_bytes(content)
    one = digest_of([first, second])
    assert (digest_of([first, second]), len(reads)) == (one, 2)
    assert digest_of([same, second]) == one
    assert len({one, digest_of([second, first]), digest_of([first]), digest_of([])}) == 4
    seen = first.stat()
    first.write_bytes(b"abd")
    os.utime(first, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert digest_of([first, second]) != one
    with pytest.raises(FileNotFoundError):
        digest_of([tmp_path / "none"])


def test_what_was_just_written_is_read_again(tmp_path: Path, place: Path) -> None:
    """It may be written to once more within one tick of the clock."""
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    digest_of([file])
    assert not place.exists()


def test_facts_are_remembered(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their whole key; a file that is broken says nothing."""
    assert remembered("a") is None
    remember("a", {"precision": "bf16", "share": 0.1})
    assert remembered("a") == {"precision": "bf16", "share": 0.1}
    assert remembered("b") is None
    remember("a", "fp32")
    assert remembered("a") == "fp32"
    (kept,) = place.iterdir()
    for broken in (b"", b"[1]", b"\xff", b'{"key": "b", "value": 1}', b'{"key": "a"}'):
        kept.write_bytes(broken)
        assert remembered("a") is None
    monkeypatch.setattr(cache, "MOST_FILES", 3)
    for number in range(6):
        remember(f"many {number}", number)
        time.sleep(0.01)
    assert len(list(place.iterdir())) == 3
    assert remembered("many 5") == 5


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own variable, the desktop's, the home; a relative one of the desktop's does not count, as its rules say."""
    home = Path.home()
    for own, desktop, wanted in (
        ("/own", "/desktop", Path("/own/kernel")),
        ("~/own", "", home / "own" / "kernel"),
        ("", "/desktop", Path("/desktop/secondpass/kernel")),
        ("", "relative", home / ".cache" / "secondpass" / "kernel"),
        ("", "", home / ".cache" / "secondpass" / "kernel"),
        ("off", "/desktop", None),
    ):
        monkeypatch.setenv(cache.PLACE, own)
        monkeypatch.setenv("XDG_CACHE_HOME", desktop)
        assert cache._path() == wanted
    for name in (cache.PLACE, "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path / "of nobody"))
    assert not cache.keeps()
    assert list(tmp_path.iterdir()) == []
