"""What a later start need not compute again: packed weights and small facts, in files of the user's cache.

`$SECONDPASS_CACHE`, else `$XDG_CACHE_HOME/secondpass`, else `~/.cache/secondpass` has a folder `kernel` for them;
`SECONDPASS_CACHE=off` keeps nothing. Processes map a file of weights read-only and share its pages. Files are written
aside and renamed, so that any number of processes may write at once; one that is mapped stays whole when it is replaced
or removed. A folder or file that is not this user's, or that others may write to, is not used. `$SECONDPASS_CACHE_GB`
(4) bounds them: those that were used least lately go. Nothing here fails: without the cache all is computed as before.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import stat
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np

from secondpass.forwards.kernel import native
from secondpass.forwards.kernel.native import Routine
from secondpass.forwards.kernel.weights import ALIGNED, Array, CompactWords, Decode, PackedWeights, aligned, up_to

PLACE, SIZE = "SECONDPASS_CACHE", "SECONDPASS_CACHE_GB"
GIGABYTES = 4.0
MOST_FILES = 2000
MARK = b"2ndpass\n"
# The mark, the header's length, its checksum.
START = len(MARK) + 8 + 32
# When files of weights were written to last, as they say, in nanoseconds: one that says another time was written to
# since, which costs nothing to see, where a checksum of a large model would cost what the cache saves.
WRITTEN = 10**18
# A file that was changed so lately may change again within one tick of its clock.
SETTLED_SECONDS = 2.0
# Of a file or folder that is absent, broken, full or another's.
FAILURES = (OSError, ValueError, KeyError, TypeError, RuntimeError)
# What is left of a writer that was killed.
ABANDONED_SECONDS = 3600.0


def weights(identity: str, routine: Routine, decode: Decode | None = None) -> PackedWeights | None:
    """Those of an earlier start, mapped; None where there are none.

    Args:
        identity: stands for all that they were packed from.
        routine: that they were packed for.
        decode: of `CompactWords`, for models that have such.
    """
    with suppress(*FAILURES), _folder() as folder, _own(_name(identity, routine), folder) as file:
        if os.fstat(file).st_mtime_ns != WRITTEN:
            raise ValueError("packed weights were written to")
        mapped = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        return from_bytes(np.frombuffer(mapped, np.uint8), routine, decode)
    return None


def kept(identity: str, packed: PackedWeights) -> PackedWeights:
    """The weights as they now lie in the cache, or themselves where they cannot be kept."""
    decode = None if packed.words is None else packed.words.decode
    found = weights(identity, packed.routine, decode)  # of another process, meanwhile
    if found is None:
        header, parts = _laid_out(packed)
        if len(header) + sum(part.nbytes for part in parts) <= _bound():
            with suppress(*FAILURES):
                _write(_name(identity, packed.routine), (header, *parts), lasting=True)
            found = weights(identity, packed.routine, decode)
    return found or packed


def keeps() -> bool:
    """Whether there is a folder of the cache, made now where it can be: without one nobody need compute a digest."""
    with suppress(*FAILURES), _folder(made=True):
        return True
    return False


def digest_of(paths: Iterable[str | os.PathLike[str]]) -> str:
    """A digest of the contents of files, in this order; remembered while nothing says that one was written to.

    As git's index does: by device, inode, size and both times. What was written within the last seconds is read again
    the next time, for it may be written to once more without another time.

    Raises:
        OSError: one cannot be read.
    """
    files = [Path(path) for path in paths]
    began = time.time()
    seen = [_look(file) for file in files]
    key = f"digest of {seen}"
    known = remembered(key)
    if isinstance(known, str):
        return known
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            whole.update(hashlib.file_digest(content, "sha256").digest())
    settled = max((max(times) for *_, times in seen), default=0) < (began - SETTLED_SECONDS) * 1e9
    if settled and seen == [_look(file) for file in files]:
        remember(key, whole.hexdigest())
    return whole.hexdigest()


def remembered(key: str) -> Any | None:
    """What an earlier start gave to `remember`; None where that is nothing."""
    with suppress(*FAILURES), _folder() as folder, _own(_fact(key), folder) as file:
        with open(file, encoding="utf-8", closefd=False) as content:
            found = json.load(content)
        return found["value"] if found["key"] == key else None
    return None


def remember(key: str, value: Any) -> None:
    """Keep a value that JSON can say under a key that says all it depends on."""
    content = json.dumps({"key": key, "value": value}).encode()
    if len(content) <= _bound():
        with suppress(*FAILURES):
            _write(_fact(key), (content,))


def to_bytes(packed: PackedWeights) -> bytes:
    """Packed weights as one file has them."""
    header, parts = _laid_out(packed)
    return b"".join((header, *parts))


def from_bytes(content: bytes | Array, routine: Routine, decode: Decode | None = None) -> PackedWeights:
    """The weights of which `to_bytes` made this, where they lie; `decode` as of `weights`.

    Raises:
        ValueError: it is not whole.
    """
    given = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
    length = int.from_bytes(given[len(MARK) : len(MARK) + 8].tobytes(), "little")
    header = given[START : START + length].tobytes()
    if given[: len(MARK)].tobytes() != MARK or hashlib.sha256(header).digest() != given[START - 32 : START].tobytes():
        raise ValueError("no packed weights")
    said = json.loads(header)
    first = up_to(START + length, ALIGNED)
    if len(given) != first + said["size"]:
        raise ValueError("packed weights are cut")
    if given.ctypes.data % ALIGNED:
        moved = aligned(len(given))
        moved[:] = given
        given = moved
    address = given.ctypes.data + first
    model = native.restored(native.ModelStruct, said["model"], lambda place: address + place)
    words = None
    if said["words"] is not None:
        if decode is None:
            raise ValueError("nothing decodes the words")
        parts = (_part(given[first:], *entry) for entry in said["words"]["parts"])
        words = CompactWords(tuple(parts), decode, said["words"]["width"])
        model.words = words.address
    frequencies = tuple(np.array(own, np.float32) for own in said["frequencies"])
    return PackedWeights(routine, model, (given,), frequencies, tuple(said["rows"]), words)


def _part(content: Array, place: int, dtype: str, shape: list[int]) -> Array:
    return content[place : place + np.dtype(dtype).itemsize * math.prod(shape)].view(dtype).reshape(shape)


def _laid_out(packed: PackedWeights) -> tuple[bytes, list[memoryview]]:
    """The header, and arrays of bytes that follow it; places of arrays are counted from behind the header."""
    found: list[tuple[int, int]] = []
    parts: list[memoryview] = []
    size = 0
    for array in sorted(packed.arrays, key=lambda array: array.ctypes.data):
        content = array.reshape(-1).view(np.uint8)
        found.append((array.ctypes.data, size))
        parts += [content.data, memoryview(bytes(-len(content) % ALIGNED))]
        size += up_to(len(content), ALIGNED)

    def place(address: int) -> int:
        """In the last array that begins there or before: those of a mapped file are in one."""
        begin, first = found[bisect_right(found, address, key=lambda array: array[0]) - 1]
        return first + address - begin

    bare, words = native.ModelStruct.from_buffer_copy(packed.model), None
    if packed.words is not None:
        bare.words = None
        entries = [(place(part.ctypes.data), part.dtype.str, part.shape) for part in packed.words.parts]
        words = {"parts": entries, "width": packed.words.width}
    model = native.listed(bare, place)
    frequencies = [own.tolist() for own in packed.frequencies]
    said = {"size": size, "model": model, "frequencies": frequencies, "rows": packed.rows, "words": words}
    header = json.dumps(said).encode()
    start = MARK + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header
    return start + bytes(-len(start) % ALIGNED), parts


def _name(identity: str, routine: Routine) -> str:
    """Of the file for these weights: other kernels, routines and layouts never find it."""
    made_for = [getattr(routine, part.name) for part in fields(routine) if part.name not in ("library", "index")]
    said = (identity, layout(), *made_for)
    return f"{hashlib.sha256(repr(said).encode()).hexdigest()}.weights"


def _fact(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()}.json"


@once
def layout() -> str:
    """A digest of all code that decides what packed weights are: whoever changes some of it has a new layout by that.

    It is that of the kernel's Python side, of descriptions, and of what families describe.

    Raises:
        OSError: there is no source to read.
    """
    here = Path(__file__).parent
    forwards = here.parent
    sources = [*here.glob("*.py"), forwards / "description.py", *(forwards / "families").glob("*.py")]
    whole = hashlib.sha256()
    for file in sorted(sources):
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _look(file: Path) -> tuple[int, int, int, tuple[int, int]]:
    seen = file.stat()
    return seen.st_dev, seen.st_ino, seen.st_size, (seen.st_mtime_ns, seen.st_ctime_ns)


def _bound() -> float:
    """Bytes that all files may have together."""
    try:
        gigabytes = float(os.environ.get(SIZE) or GIGABYTES)
    except ValueError:
        gigabytes = GIGABYTES
    return max(0.0, gigabytes) * 1e9 if math.isfinite(gigabytes) else GIGABYTES * 1e9


def _path() -> Path | None:
    """Of the folder; None: off, or there is no home."""
    asked, shared = os.environ.get(PLACE), os.environ.get("XDG_CACHE_HOME", "")
    if asked:
        return None if asked == "off" else Path(asked).expanduser() / "kernel"
    if os.path.isabs(shared):
        return Path(shared) / "secondpass" / "kernel"
    home = Path.home()  # a service's may be a name of no folder, which is not made
    return home / ".cache" / "secondpass" / "kernel" if home.is_dir() else None


@contextmanager
def _folder(made: bool = False) -> Iterator[int]:
    """An open folder of this user's; with `made` it is made if need be.

    Raises:
        OSError, RuntimeError: there is none.
    """
    path = _path()
    if path is None or os.open not in os.supports_dir_fd:
        raise FileNotFoundError(PLACE)
    if made:
        for part in (*reversed(path.parents), path):
            if not part.is_dir():
                part.mkdir(mode=0o700, exist_ok=True)
    with _opened(str(path), os.O_RDONLY | os.O_DIRECTORY) as folder:
        yield folder


@contextmanager
def _own(name: str, folder: int) -> Iterator[int]:
    """An open file of this user's, marked as used now."""
    with _opened(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, folder) as file:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise PermissionError(f"{name} is no file")
        with suppress(OSError):
            os.utime(file, ns=(time.time_ns(), os.fstat(file).st_mtime_ns))  # used now
        yield file


@contextmanager
def _opened(path: str, flags: int, folder: int | None = None) -> Iterator[int]:
    """What only this user may write to."""
    file = os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        seen = os.fstat(file)
        if seen.st_uid != os.geteuid() or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{path} is not this user's alone")
        yield file
    finally:
        os.close(file)


def _write(name: str, parts: Sequence[bytes | memoryview], lasting: bool = False) -> None:
    """A file in place at once; `lasting` ones are whole after a loss of power too."""
    with _folder(made=True) as folder:
        aside = f".{os.urandom(8).hex()}"
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            with open(file, "wb") as content:
                for part in parts:
                    content.write(part)
                content.flush()
                if lasting:
                    os.utime(file, ns=(time.time_ns(), WRITTEN))
                    os.fsync(file)
            os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside, dir_fd=folder)
            raise
        _prune(folder)


def _prune(folder: int) -> None:
    """Remove what was used least lately and is beyond the bounds, and what killed writers left."""
    now, size, bound = time.time(), 0, _bound()
    found: list[tuple[float, int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                seen = entry.stat(follow_symlinks=False)
                found.append((seen.st_atime, seen.st_size, entry.name))
    for number, (used, own, name) in enumerate(sorted(found, reverse=True)):
        size += own
        gone = now - used > ABANDONED_SECONDS if name.startswith(".") else size > bound or number >= MOST_FILES
        if gone:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
