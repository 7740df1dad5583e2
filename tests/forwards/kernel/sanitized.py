"""The kernel under the compiler's sanitizers, on random models and inputs: `python -m tests.forwards.kernel.sanitized`.

It is compiled with checks of addresses (beyond a buffer, after its end, on the stack) and of undefined behaviour
(overflow, alignment, shifts, null), which end the process at the first fault, and every routine of this processor
computes models of random widths. Float32 logits are compared with transformers' as well. Not part of pytest: a build
takes a minute, and the sanitizer must be loaded before Python.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from secondpass.forwards.contract import Logits
from secondpass.forwards.description import Encoder, Linear, Pooling, Readout, ReadoutStep
from secondpass.forwards.kernel import KernelEncoder, native
from secondpass.forwards.kernel.weights import packed
from secondpass.forwards.packed import PackedEncoder
from secondpass.tokens import Tokens
from tests.forwards.kernel.encoders import FAMILIES, arrays, calmed, expected, made, tokens

# Optimised as usual, checks of every access make the larger files take more than ten minutes.
CHECKS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
REPOSITORY = Path(__file__).parents[3]


def compiled(folder: Path) -> Path:
    """The library with the checks."""
    import hatch_build

    library = folder / "secondpass_kernel.so"
    hatch_build.compile_kernel(REPOSITORY, library, CHECKS)
    return library


def runtime(name: str) -> str:
    """The file of a sanitizer's own library, as this compiler knows it."""
    import hatch_build

    command = [*hatch_build.compiler(), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large random models and their inputs are at most.

    Where they are `calm`, weights of wide layers are so small that no softmax is saturated: behind such a one float32
    that is computed in two ways differs by more than 1e-5.
    """

    heads: int = 6
    inner: int = 899
    inputs: int = 39
    tokens: int = 119
    calm: bool = False


def drawn(
    random: np.random.Generator, family: str, seed: int, limits: Limits = Limits()
) -> tuple[Encoder, list[Tokens], torch.Tensor]:
    """A random model, inputs for it and their logits."""
    torch.manual_seed(seed)
    heads = int(random.integers(1, limits.heads + 1))
    shape: dict[str, Any] = {
        # a head of 8 to 128, the inner width as it comes
        "hidden_size": heads * 8 * int(random.integers(1, 9)),
        "num_attention_heads": heads,
        "intermediate_size": int(random.integers(1, limits.inner + 1)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "hidden_act": str(random.choice(["gelu", "gelu_new", "relu", "silu"])),
    }
    if family == "modernbert":
        shape |= {"classifier_pooling": str(random.choice(["cls", "mean"]))}
        shape |= {"local_attention": 2 * int(random.integers(1, 60))}
        shape["hidden_activation"] = shape.pop("hidden_act")
    model, encoder = made(family, int(random.choice([1, 3, 70])), **shape)
    if limits.calm:
        model, encoder = calmed(model, max(32, shape["hidden_size"]))
    lengths = random.integers(1, limits.tokens + 1, int(random.integers(1, limits.inputs + 1)))
    inputs = tokens(*map(int, lengths), types=2 if family in {"bert", "electra"} else 1, seed=seed)
    if random.random() < 0.5:
        return encoder, inputs, expected(model, inputs)
    wide = int(random.integers(1, 300))
    scale, labels = 1 / encoder.hidden**0.5, int(random.choice([1, 40]))
    steps = (
        ReadoutStep(Linear(torch.randn(wide, encoder.hidden) * scale, None), "silu", unit=bool(random.random() < 0.5)),
        ReadoutStep(Linear(torch.randn(labels, wide) / wide**0.5, torch.randn(labels))),
        ReadoutStep(None, "tanh"),
    )
    pooling = get_args(Pooling)[int(random.integers(4))]
    encoder = dataclasses.replace(encoder, readout=Readout(pooling, steps))
    return encoder, inputs, torch.from_numpy(PackedEncoder(encoder)(inputs))


def part_is_same(forward: KernelEncoder, inputs: list[Tokens], whole: Logits, part: slice) -> bool:
    """Whether some of the inputs have the logits, bit for bit, that they have among all."""
    return np.array_equal(forward(inputs[part]), whole[part])


def compute(library: Path, models: int, seed: int, asked: str | None) -> None:
    """Random models through every routine, in a process that the sanitizers watch.

    Batches fall and rise, so that memory of earlier calls is used again; several Python threads call at once.
    """
    routines = native.routines(library)
    if isinstance(routines, str):
        raise SystemExit(routines)
    random = np.random.default_rng(seed)
    for number in range(models):
        family = asked or str(random.choice(FAMILIES))
        encoder, inputs, wanted = drawn(random, family, number)
        near = 1e-4 * max(1.0, float(wanted.abs().max()))
        few = int(random.integers(1, 4))
        parts = [slice(0, few), slice(None), slice(len(inputs) // 2, None), slice(0, 1), slice(None)]
        for routine in routines:
            forward = KernelEncoder(packed(arrays(encoder), routine))
            torch.set_num_threads(1)
            whole = forward(inputs)
            if routine.precision == "fp32" and not torch.allclose(torch.from_numpy(whole), wanted, rtol=0, atol=near):
                raise SystemExit(f"{routine.instructions}: other logits for model {number}: {family}")
            torch.set_num_threads(int(random.integers(2, 5)))
            same = partial(part_is_same, forward, inputs, whole)
            with ThreadPoolExecutor(3) as callers:
                if not all([*map(same, parts), *callers.map(same, parts)]):
                    raise SystemExit(f"{routine.instructions}: other bits for model {number}: {family}")
    sys.stdout.write(f"{models} models, {len(routines)} routines, seed {seed}: no fault\n")


def main() -> int:
    """Compile, then compute in a child that has the sanitizers loaded first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", help="of all models; by default each has one of its own")
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.library is not None:
        compute(asked.library, asked.models, asked.seed, asked.family)
        return 0
    folder = Path(tempfile.mkdtemp())
    try:
        library = compiled(folder)
        environment = {
            **os.environ,
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
            # Python keeps what it allocated until it ends
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        command = [sys.executable, "-m", "tests.forwards.kernel.sanitized", "--library", str(library)]
        command += ["--models", str(asked.models), "--seed", str(asked.seed)]
        command += ["--family", asked.family] if asked.family else []
        return subprocess.run(command, env=environment, cwd=REPOSITORY, check=False).returncode
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
