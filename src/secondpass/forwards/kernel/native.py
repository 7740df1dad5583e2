"""The compiled library: where it is, what of it this processor can run, and its C structures.

The library is built when the package is installed and a compiler is there; without it, or on a processor it has no
routine for, `find` gives the reason and everything else of secondpass works as before.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Precision = Literal["fp32", "bf16", "int8", "int16"]
# as the library numbers them
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8", "int16")

LIBRARY = Path(__file__).with_name("secondpass_kernel.so")
# The repository, where this file is in one.
CHECKOUT = LIBRARY.parent / "../../../.."
# What the sources' names end in; editors leave other files beside them.
ENDINGS = (".cpp", ".h", ".hpp", ".map", ".toml")
# Names of instruction sets, separated by commas, that are used instead of the processor's best: for tests and doubts.
CHOSEN = "SECONDPASS_KERNEL_INSTRUCTIONS"


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Neighbours of one type."""
    return [(name, kind) for name in names.split()]


class MatrixStruct(ctypes.Structure):
    """`Matrix` of source/kernel.h."""

    _fields_ = (
        *_fields(ctypes.c_void_p, "panels bias scale sums change"),
        *_fields(ctypes.c_int32, "columns groups"),
    )


class NormStruct(ctypes.Structure):
    """`Norm` of source/kernel.h."""

    _fields_ = (*_fields(ctypes.c_void_p, "weight bias"), ("eps", ctypes.c_float), ("count", ctypes.c_int32))


class LayerStruct(ctypes.Structure):
    """`Layer` of source/kernel.h."""

    _fields_ = (
        *_fields(MatrixStruct, "qkv out up down"),
        *_fields(NormStruct, "attention_norm output_norm"),
        *_fields(ctypes.c_int32, "window rotation"),
    )


class StepStruct(ctypes.Structure):
    """`Step` of source/kernel.h."""

    _fields_ = (("linear", MatrixStruct), ("norm", NormStruct), *_fields(ctypes.c_int32, "width activation normalise"))


class ModelStruct(ctypes.Structure):
    """`Model` of source/kernel.h."""

    _fields_ = (
        *_fields(ctypes.c_void_p, "words positions types"),
        ("embedding_norm", NormStruct),
        ("projection", MatrixStruct),
        ("layers", ctypes.POINTER(LayerStruct)),
        ("final_norm", NormStruct),
        ("steps", ctypes.POINTER(StepStruct)),
        *_fields(ctypes.c_int32, "layer_count step_count embedding hidden heads head_size inner labels widest"),
        *_fields(ctypes.c_int32, "activation norm_first gated pooling segment"),
        ("score_scale", ctypes.c_float),
    )


class CallStruct(ctypes.Structure):
    """`Call` of source/kernel.h."""

    _fields_ = (
        *_fields(ctypes.c_void_p, "ids types starts chunks"),
        *_fields(ctypes.c_int32, "pairs chunk_count threads together capacity"),
        *_fields(ctypes.c_void_p, "rotations memory rows context logits"),
    )


# How many of them a pointer to structures points to.
COUNTS = {"layers": "layer_count", "steps": "step_count"}


def listed(structure: ctypes.Structure, place: Callable[[int], int]) -> list[Any]:
    """A structure's values, those of structures in it and behind its pointers as lists; `place` changes addresses."""
    values: list[Any] = []
    for name, kind in structure._fields_:  # type: ignore[misc]
        value = getattr(structure, name)
        if name in COUNTS:
            value = [listed(value[number], place) for number in range(getattr(structure, COUNTS[name]))]
        elif isinstance(value, ctypes.Structure):
            value = listed(value, place)
        elif kind is ctypes.c_void_p:
            value = place(value) if value else None
        values.append(value)
    return values


def restored(kind: Any, values: list[Any], address: Callable[[int], int]) -> Any:
    """The structure of which `listed` made the values; `address` turns each place into where it is now."""

    def value_of(name: str, own: Any, value: Any) -> Any:
        if name in COUNTS:
            return (own._type_ * len(value))(*(restored(own._type_, item, address) for item in value))
        if isinstance(value, list):
            return restored(own, value, address)
        return address(value) if own is ctypes.c_void_p and value is not None else value

    return kind(*(value_of(name, own, value) for (name, own), value in zip(kind._fields_, values, strict=True)))


@dataclass(frozen=True, slots=True)
class Routine:
    """One precision on one instruction set.

    `panel` columns of weights lie together; `side_bytes` is the size of a value between attention and its output;
    `digits` says whether the routine multiplies float32 as three digits of 8 bits, `words` whether what attention found
    is multiplied as words of 16 bits; weights of bytes are at most `most_byte`.
    """

    library: Any
    index: int
    instructions: str
    precision: Precision
    panel: int
    side_bytes: int
    digits: bool
    words: bool
    most_byte: int


def sources_digest(root: Path) -> str:
    """A digest of what a checkout's library is made of: hatch_build.py, which writes it into the library, and sources.

    Raises:
        FileNotFoundError: that is no checkout.
    """
    found = (root / "src/secondpass/forwards/kernel/source").iterdir()
    sources = sorted(file for file in found if file.suffix in ENDINGS and not file.name.startswith("."))
    parts = [(file.name, hashlib.sha256(file.read_bytes()).digest()) for file in (root / "hatch_build.py", *sources)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _is_stale(library: Path) -> bool:
    """Whether this is a checkout with other sources than the library's; in a wheel they came together."""
    try:
        return sources_digest(CHECKOUT).encode() not in library.read_bytes()
    except FileNotFoundError:
        return False


@cache
def routines(library: Path = LIBRARY) -> tuple[Routine, ...] | str:
    """Everything this processor can run, the fastest of each precision first; a sentence when the library is absent."""
    if not library.exists():
        return "the kernel was not compiled"
    try:
        loaded = ctypes.CDLL(str(library))
        loaded.secondpass_routine.restype = ctypes.c_char_p
        loaded.secondpass_memory.restype = ctypes.c_size_t
        loaded.secondpass_run.restype = None
        structures = (ModelStruct, LayerStruct, StepStruct, CallStruct)
        fits = loaded.secondpass_fits(*(ctypes.c_size_t(ctypes.sizeof(kind)) for kind in structures))
        if not fits or _is_stale(library):
            return "the compiled kernel is of another version: install again"
    except (OSError, AttributeError) as error:
        return f"the compiled kernel cannot be loaded: {error}"
    found: list[Routine] = []
    precision, panel, side_bytes, digits, words, most_byte, runs_here = told = tuple(ctypes.c_int() for _ in range(7))
    answers = tuple(map(ctypes.byref, told))
    index = 0
    while (name := loaded.secondpass_routine(index, *answers)) is not None:
        if runs_here.value:
            given, sizes = PRECISIONS[precision.value], (panel.value, side_bytes.value)
            kinds = bool(digits.value), bool(words.value)
            found.append(Routine(loaded, index, name.decode(), given, *sizes, *kinds, most_byte.value))
        index += 1
    return tuple(found)


def find(precision: Precision) -> Routine | str:
    """The routine to use for a precision, or a sentence that says why there is none."""
    found = routines()
    if isinstance(found, str):
        return found
    chosen = os.environ.get(CHOSEN, "").strip() or None
    allowed = None if chosen is None else {name.strip() for name in chosen.split(",")}
    for routine in found:
        if routine.precision == precision and (allowed is None or routine.instructions in allowed):
            return routine
    among = "" if chosen is None else f" among {chosen}"
    return f"the kernel has no {precision} for this processor{among}"


def named(precision: Precision, instructions: str) -> Routine:
    """One routine of this processor.

    Raises:
        LookupError: it has no such one.
    """
    found = routines()
    for routine in () if isinstance(found, str) else found:
        if (routine.precision, routine.instructions) == (precision, instructions):
            return routine
    raise LookupError(f"the kernel has no {precision} by {instructions} for this processor")


def thread_count() -> int:
    """How many threads a call may have: torch's number where torch is imported, else what torch's would be."""
    asked = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return own_thread_count() if asked is None else int(asked())


@cache
def own_thread_count() -> int:
    """OMP_NUM_THREADS, else `usable_cores`: a core counts once however many threads it runs."""
    return asked_threads() or usable_cores()


def asked_threads() -> int | None:
    """OMP_NUM_THREADS of the outermost level, None where it says none."""
    asked = re.match(r"\s*([1-9]\d{0,3})\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    return int(asked[1]) if asked else None


def usable_cores() -> int:
    """The cores that this process may use, by its affinity and its control group."""
    return max(1, min([len(cores()), *(-(-quota // period) for quota, period in _shares() if quota > 0 < period)]))


def cores() -> list[list[int]]:
    """The processors that this process may use, a list for each core that runs as them."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    place = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    found: dict[str, list[int]] = {}
    for processor in allowed:
        found.setdefault(_read(place.format(processor)) or str(processor), []).append(processor)
    return list(found.values())


def _shares() -> Iterator[tuple[int, int]]:
    """Quota and period, microseconds, of control groups that limit this process, of either version."""
    groups = dict(re.findall(r"^\d+:(.*):(.*)$", _read("/proc/self/cgroup"), re.MULTILINE))
    root = "/sys/fs/cgroup"
    for folder in (root, root + groups.get("", "")):
        yield _pair(_read(f"{folder}/cpu.max"))
    for own in ("", next((path for kinds, path in groups.items() if "cpu" in kinds.split(",")), "")):
        folder = f"{root}/cpu{own}"
        yield _pair(f"{_read(f'{folder}/cpu.cfs_quota_us')} {_read(f'{folder}/cpu.cfs_period_us')}")


def _pair(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+) (\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
