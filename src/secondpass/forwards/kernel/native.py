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


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Neighbours of one type."""
    return [(name, kind) for name in names.split()]


class MatrixStruct(ctypes.Structure):
    """`Matrix` of source/kernel.h."""

    _fields_ = (
        *_fields(ctypes.c_void_p, "panels bias scale sums smoothing"),
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


@dataclass(frozen=True, slots=True)
class Routine:
    """One precision on one instruction set.

    `panel` columns of weights lie together; `side_bytes` is the size of a value between attention and its output,
    `out_bytes` that of one as the output's projection multiplies it;
    `digits` says whether the routine multiplies float32 as three digits of 8 bits.
    """

    library: Any
    index: int
    instructions: str
    precision: Precision
    panel: int
    side_bytes: int
    out_bytes: int
    digits: bool


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
        if not loaded.secondpass_fits(*(ctypes.c_size_t(ctypes.sizeof(kind)) for kind in structures)):
            return "the compiled kernel is of another version: install again"
    except (OSError, AttributeError) as error:
        return f"the compiled kernel cannot be loaded: {error}"
    found: list[Routine] = []
    precision, panel, side_bytes, out_bytes, digits, runs_here = told = tuple(ctypes.c_int() for _ in range(6))
    answers = tuple(map(ctypes.byref, told))
    index = 0
    while (name := loaded.secondpass_routine(index, *answers)) is not None:
        if runs_here.value:
            given, sizes = PRECISIONS[precision.value], (panel.value, side_bytes.value, out_bytes.value)
            found.append(Routine(loaded, index, name.decode(), given, *sizes, bool(digits.value)))
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
