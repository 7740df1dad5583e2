"""Each routine of the compiled kernel beside the limit of the units that it multiplies with, and its time by part.

One thread, processor time: what others do on the machine takes little from it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inference import machine
from benchmarks.inference.loads import Loads, Source
from benchmarks.inference.models import Shape, write_model
from benchmarks.inference.profiles import Sampled, flops, functions, own_name
from benchmarks.inference.report import number, table

# The embedded model; a gated width of two thirds has as many weights.
POCKET = Shape(layers=6, hidden=384, heads=12, inner=1024, key_heads=12, head=32)
Unit = tuple[str, str]
# What a routine multiplies weights with, what attention's output, and attention itself; and how many products of its
# unit one product of weights is.
UNITS: dict[Unit, tuple[Unit, Unit, Unit, int]] = {
    ("avx2", "fp32"): (("avx2", "fp32"),) * 3 + (1,),
    ("avx2", "int16"): (("avx2", "int16"),) * 3 + (1,),
    ("avx2", "int8"): (("avx2", "int8"), ("avx2", "int16"), ("avx2", "int16"), 1),
    ("avx_vnni", "int16"): (("avx_vnni", "int16"),) * 3 + (1,),
    ("avx_vnni", "int8"): (("avx_vnni", "int8"), ("avx_vnni", "int16"), ("avx_vnni", "int16"), 1),
    ("avx512", "fp32"): (("avx512", "fp32"),) * 3 + (1,),
    ("avx512_vnni", "int16"): (("avx512_vnni", "int16"),) * 3 + (1,),
    ("avx512_vnni", "int8"): (("avx512_vnni", "int8"), ("avx512_vnni", "int16"), ("avx512_vnni", "int16"), 1),
    ("avx512_bf16", "bf16"): (("avx512_bf16", "bf16"),) * 3 + (1,),
    ("avx512_bf16", "int8"): (("avx512_vnni", "int8"), ("avx512_bf16", "bf16"), ("avx512_bf16", "bf16"), 1),
    ("amx", "fp32"): (("amx", "int8"), ("amx", "int8"), ("avx512", "fp32"), 8),
    ("amx", "bf16"): (("amx", "bf16"),) * 3 + (1,),
    ("amx", "int8"): (("amx", "int8"), ("amx", "bf16"), ("amx", "bf16"), 1),
}
# Parts of the library by a function's name without its templates; tiles multiply inside of what uses their products.
PARTS = {
    "registers|multiply": "products",
    "attend": "attention",
    "write_row|write_bytes|write_digits|ready": "quantising",
    "linear|use_rows": "scales, activations, sums",
}
REST = "norms, embeddings, other"
NAMES = (*PARTS.values(), REST)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `routines` was asked for."""

    rounds: int
    documents: int
    work: Path


def at_the_limit(routine: Unit, needed: dict[str, float], limits: dict[Unit, float]) -> float:
    """Seconds that a routine's units take for the operations, were they never to wait.

    Args:
        routine: instructions and precision.
        needed: operations by part, of `profiles.flops`.
        limits: billions of operations a second of each unit.
    """
    weights, out, attention, products = UNITS[routine]
    # of a layer's 3 + 1 + 2 * inner / hidden squares of weights
    share = 1 / (4 + 3 * POCKET.inner / POCKET.hidden)
    linear = needed["linear"] * ((1 - share) / limits[weights] + share / limits[out]) * products
    return (linear + needed["attention"] / limits[attention]) / 1e9


def measured(text: Source, asked: Settings, say: Callable[[str], object]) -> Iterator[dict[str, Any]]:
    """Figures of every routine of this processor: milliseconds a pair, at the limit of its units, samples by part."""
    import torch

    from secondpass import CrossEncoder
    from secondpass.forwards.kernel import native
    from secondpass.forwards.module import described

    folder = asked.work / "pocket"
    write_model("pocket", folder)
    one = Loads(text, folder).make("passage", 1, asked.documents)[0]
    torch.set_num_threads(1)
    model = CrossEncoder(str(folder), device="cpu", precision="fp32")
    inputs = model.tokens([one.query] * len(one.documents), list(one.documents))
    needed = flops(POCKET, [len(item) for item in inputs], 0)
    own = described(model.model)
    found = native.routines()
    if own is None or isinstance(found, str):
        raise ValueError(found if isinstance(found, str) else "the kernel does not know the model")
    units = {unit for routine in found for unit in UNITS[routine.instructions, routine.precision][:3]}
    limits = {unit: machine.unit_limit(*unit, 1) or float("nan") for unit in units}
    for routine in found:
        os.environ[native.CHOSEN] = routine.instructions
        compute = own.by_kernel(routine.precision)
        if isinstance(compute, str):
            raise ValueError(compute)
        compute(inputs)
        seconds = []
        with Sampled(os.getpid(), asked.work / "perf.data") as samples:
            for _ in range(asked.rounds):
                began = time.process_time()
                compute(inputs)
                seconds.append(time.process_time() - began)
        name = (routine.instructions, routine.precision)
        ideal = at_the_limit(name, needed, limits)
        say(f"{routine.instructions} {routine.precision}: {1000 * min(seconds) / len(inputs):.2f} ms a pair")
        yield {
            "instructions": routine.instructions,
            "precision": routine.precision,
            "limit": limits[UNITS[name][0]] / UNITS[name][3],
            "ms": 1000 * min(seconds) / len(inputs),
            "ms_at_the_limit": 1000 * ideal / len(inputs),
            "parts": by_part(samples.lines(), routine.precision),
        }
    del os.environ[native.CHOSEN]


def by_part(lines: Sequence[str], precision: str) -> dict[str, float]:
    """Lines of `perf report` to the parts' shares of the kernel; attention's has its products where they are apart."""
    found = dict.fromkeys(NAMES, 0.0)
    for share, library, function in functions(lines):
        if "secondpass_kernel" not in library:
            continue
        part = next((part for words, part in PARTS.items() if re.search(words, own_name(function))), REST)
        apart = precision == "int8" and part == "products" and "::Int8" not in function
        found["attention" if apart else part] += share
    total = sum(found.values())
    return {name: share / total for name, share in found.items()} if total else {}


def markdown(found: dict[str, Any]) -> str:
    """A table of the routines."""
    head = ("", "Gop/s at most", "ms a pair", "at the limit", "share", *NAMES)
    lines = []
    for row in found["rows"]:
        share = f"{100 * row['ms_at_the_limit'] / row['ms']:.0f} %"
        parts = [f"{100 * row['parts'].get(name, 0):.0f} %" if row["parts"] else "" for name in NAMES]
        speed = [number(row["limit"]), number(row["ms"], 2), number(row["ms_at_the_limit"], 2), share]
        lines.append([f"{row['instructions']} {row['precision']}", *speed, *parts])
    return f"{machine.in_words(found['machine'])}; one thread, processor time.\n\n{table(head, lines)}\n"
