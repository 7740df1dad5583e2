"""The compiled library: where it is, what of it this processor can run, and its C structures.

The library is built when the package is installed and a compiler is there; without it, or on a processor it has no
routine for, `find` gives the reason and everything else of secondpass works as before.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

LIBRARY = Path(__file__).with_name("secondpass_kernel.so")
# Names of instruction sets, separated by commas, that are used instead of the processor's best: for tests and doubts.
CHOSEN = "SECONDPASS_KERNEL_INSTRUCTIONS"


class Matrix(ctypes.Structure):
    """`Matrix` of source/kernel.h."""

    _fields_ = (
        ("panels", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("smoothing", ctypes.c_void_p),
        ("columns", ctypes.c_int32),
        ("groups", ctypes.c_int32),
    )


class Norm(ctypes.Structure):
    """`Norm` of source/kernel.h."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("count", ctypes.c_int32),
    )


class Layer(ctypes.Structure):
    """`Layer` of source/kernel.h."""

    _fields_ = (
        ("qkv", Matrix),
        ("out", Matrix),
        ("up", Matrix),
        ("down", Matrix),
        ("attention_norm", Norm),
        ("output_norm", Norm),
    )


class Model(ctypes.Structure):
    """`Model` of source/kernel.h."""

    _fields_ = (
        ("words", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("types", ctypes.c_void_p),
        ("embedding_norm", Norm),
        ("projection", Matrix),
        ("layers", ctypes.POINTER(Layer)),
        ("dense", Matrix),
        ("classifier", Matrix),
        *((name, ctypes.c_int32) for name in ("layer_count", "embedding", "hidden", "heads", "head_size", "inner")),
        *((name, ctypes.c_int32) for name in ("labels", "activation", "head_activation", "segment")),
        ("score_scale", ctypes.c_float),
    )


class Call(ctypes.Structure):
    """`Call` of source/kernel.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ids", "types", "starts", "chunks")),
        *((name, ctypes.c_int32) for name in ("pairs", "chunk_count", "threads", "together", "capacity")),
        *((name, ctypes.c_void_p) for name in ("memory", "rows", "context", "logits")),
    )


@dataclass(frozen=True, slots=True)
class Routine:
    """One precision on one instruction set.

    `panel` columns of weights lie together; `side_bytes` is the size of a value between attention and its output;
    `digits` says whether the routine multiplies float32 as three digits of 8 bits.
    """

    library: Any
    index: int
    instructions: str
    precision: Precision
    panel: int
    side_bytes: int
    digits: bool


@cache
def routines(library: Path = LIBRARY) -> tuple[Routine, ...] | str:
    """Everything this processor can run, the fastest of each precision first; a sentence when the library is absent."""
    if not library.exists():
        return "the kernel was not compiled"
    try:
        loaded = ctypes.CDLL(str(library))
        loaded.secondpass_routine.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        return f"the compiled kernel cannot be loaded: {error}"
    loaded.secondpass_memory.restype = ctypes.c_size_t
    loaded.secondpass_run.restype = None
    found: list[Routine] = []
    precision, panel, side_bytes, digits, runs_here = (ctypes.c_int() for _ in range(5))
    answers = tuple(ctypes.byref(value) for value in (precision, panel, side_bytes, digits, runs_here))
    index = 0
    while (name := loaded.secondpass_routine(index, *answers)) is not None:
        if runs_here.value:
            given, cut = PRECISIONS[precision.value], bool(digits.value)
            found.append(Routine(loaded, index, name.decode(), given, panel.value, side_bytes.value, cut))
        index += 1
    return tuple(found)


def find(precision: Precision) -> Routine | str:
    """The routine to use for a precision, or a sentence that says why there is none."""
    found = routines()
    if isinstance(found, str):
        return found
    chosen = os.environ.get(CHOSEN)
    allowed = None if chosen is None else {name.strip() for name in chosen.split(",")}
    for routine in found:
        if routine.precision == precision and (allowed is None or routine.instructions in allowed):
            return routine
    among = "" if chosen is None else f" among {chosen}"
    return f"the kernel has no {precision} for this processor{among}"
