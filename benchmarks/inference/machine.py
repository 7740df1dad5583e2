"""What the figures were made on, and whether it gives all its cores at the moment."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from secondpass.machine import cores_given, gflops, processor, warnings

__all__ = [
    "cores_given",
    "cores_in_words",
    "facts",
    "gpu",
    "in_words",
    "kernel",
    "multiply_add_limit",
    "processor",
    "seen",
    "unit_limit",
    "versions",
    "warning",
]

SOURCES = Path(__file__).parents[2] / "src/secondpass/forwards/kernel/source"
PACKAGES = ("secondpass", "torch", "transformers", "sentence-transformers", "haystack-ai", "onnxruntime")
# Sums that do not wait for each other, in registers: nothing but one instruction, in processor time.
INSTRUCTION = """
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cstdio>
#include <ctime>
#define TWELVE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define REGISTERS(VALUE) const auto a = VALUE; TWELVE(START) const auto work = [&] { TWELVE(STEP) TWELVE(KEEP) };
#define START(i) auto sum##i = a;
#define KEEP(i) asm volatile("" : "+v"(sum##i));
int main() {
    @WORK@
    std::printf("ready\\n"); std::fflush(stdout); std::getchar();
    double best = 0;
    for (int turn = 0; turn < 12; ++turn) {
        const long rounds = @ROUNDS@;
        const std::clock_t began = std::clock();
        for (long round = 0; round < rounds; ++round) work();
        const double speed = @OPERATIONS@ * rounds * CLOCKS_PER_SEC / (std::clock() - began) / 1e9;
        if (speed > best) best = speed;
    }
    std::printf("%f\\n", best);
}
"""
TILES = """
    syscall(SYS_arch_prctl, 0x1023, 18);
    struct alignas(64) { unsigned char palette = 1, start = 0, none[14] = {}; unsigned short bytes[16] = {};
                         unsigned char rows[16] = {}; } shape;
    for (int tile = 0; tile < 8; tile++) shape.bytes[tile] = 64, shape.rows[tile] = 16;
    _tile_loadconfig(&shape);
    const auto work = [] { STEP(0, 4, 6); STEP(1, 4, 7); STEP(2, 5, 6); STEP(3, 5, 7); };
"""
# By instructions and type: how work is set up, an instruction on sum i, and its multiplications and additions.
UNITS: dict[tuple[str, str], tuple[str, str, int]] = {
    ("avx2", "fp32"): ("REGISTERS(_mm256_set1_ps(0.5f))", "(i) sum##i = _mm256_fmadd_ps(a, a, sum##i);", 16),
    ("avx2", "int16"): (
        "REGISTERS(_mm256_set1_epi8(3))",
        "(i) sum##i = _mm256_add_epi32(sum##i, _mm256_madd_epi16(sum##i, a));",
        32,
    ),
    ("avx2", "int8"): (
        "REGISTERS(_mm256_set1_epi8(3))",
        "(i) sum##i = _mm256_add_epi32(sum##i, _mm256_madd_epi16(_mm256_set1_epi16(1), _mm256_add_epi16("
        "_mm256_maddubs_epi16(sum##i, a), _mm256_maddubs_epi16(a, sum##i))));",
        128,
    ),
    ("avx_vnni", "int8"): ("REGISTERS(_mm256_set1_epi8(3))", "(i) sum##i = _mm256_dpbusd_avx_epi32(sum##i, a, a);", 64),
    ("avx512", "fp32"): ("REGISTERS(_mm512_set1_ps(0.5f))", "(i) sum##i = _mm512_fmadd_ps(a, a, sum##i);", 32),
    ("avx512_vnni", "int8"): ("REGISTERS(_mm512_set1_epi8(3))", "(i) sum##i = _mm512_dpbusd_epi32(sum##i, a, a);", 128),
    ("avx_vnni", "int16"): (
        "REGISTERS(_mm256_set1_epi8(3))",
        "(i) sum##i = _mm256_dpwssd_avx_epi32(sum##i, a, a);",
        32,
    ),
    ("avx512_vnni", "int16"): ("REGISTERS(_mm512_set1_epi8(3))", "(i) sum##i = _mm512_dpwssd_epi32(sum##i, a, a);", 64),
    ("avx512_bf16", "bf16"): (
        "REGISTERS(_mm512_set1_ps(0.5f))",
        "(i) sum##i = _mm512_dpbf16_ps(sum##i, (__m512bh)a, (__m512bh)a);",
        64,
    ),
    ("amx", "bf16"): (TILES, " _tile_dpbf16ps", 16 * 16 * 64),
    ("amx", "int8"): (TILES, " _tile_dpbusd", 16 * 16 * 128),
}


def versions() -> dict[str, str]:
    """Of the libraries that are measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def kernel() -> dict[str, str]:
    """The instructions that the compiled kernel uses at each precision, or why it does not."""
    from secondpass.forwards.kernel import native

    return {
        precision: found if isinstance(found, str) else found.instructions
        for precision in native.PRECISIONS
        for found in (native.find(precision),)
    }


def gpu(device: str) -> dict[str, Any] | None:
    """Name and memory of the GPU, if one computes."""
    import torch

    if not device.startswith("cuda"):
        return None
    properties = torch.cuda.get_device_properties(torch.device(device))
    return {"name": properties.name, "gigabytes": round(properties.total_memory / 2**30), "cuda": torch.version.cuda}


def facts(threads: int, device: str) -> dict[str, Any]:
    """All of it, for the JSON file."""
    return {
        "processor": processor(),
        "threads": threads,
        "device": device,
        "gpu": gpu(device),
        "kernel": kernel(),
        "versions": versions(),
    }


def seen(before: dict[str, Any], threads: int, device: str) -> dict[str, Any]:
    """The same behind a run, with what the cores gave `before` it and give now, and a warning where they did not."""
    after = cores_given(threads)
    return {
        "machine": facts(threads, device),
        "cores_before": before,
        "cores_after": after,
        "warning": warning(before, after, threads),
    }


def unit_limit(instructions: str, precision: str, threads: int) -> float | None:
    """Billions of multiplications and additions a second, on `threads` cores together; None without a C++ compiler.

    Those of one instruction that works in registers alone; of `UNITS`.
    """
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    work, step, operations = UNITS[instructions, precision]
    each, rounds = (4, 200_000) if instructions == "amx" else (12, 2_000_000)
    text = INSTRUCTION.replace("@WORK@", f"\n#define STEP{step}\n{work}\n")
    text = text.replace("@ROUNDS@", str(rounds)).replace("@OPERATIONS@", f"{each * operations}.0")
    flags = tomllib.loads((SOURCES / "instructions.toml").read_text(encoding="utf-8"))["x86_64"][instructions]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "limit.cpp", Path(folder) / "limit"
        source.write_text(text, encoding="utf-8")
        subprocess.run([*compiler, "-std=c++17", "-O3", *flags, str(source), "-o", str(program)], check=True)
        return gflops(threads, [str(program)])


def multiply_add_limit(threads: int) -> float | None:
    """The same of float32, in the widest registers there are."""
    return unit_limit("avx512" if "avx512f" in processor()["flags"] else "avx2", "fp32", threads)


def in_words(found: dict[str, Any]) -> str:
    """One line about the machine, for a table's title."""
    if found["gpu"]:
        return f"{found['gpu']['name']}, {found['gpu']['gigabytes']} GB"
    cpu = found["processor"]
    return f"{cpu['name']}, {found['threads']} of {cpu['count']} cores ({', '.join(cpu['flags'])})"


def cores_in_words(before: dict[str, Any], after: dict[str, Any], threads: int) -> str:
    """What the machine gave."""
    return f"Cores' work that {threads} threads got done: {before['cores']} before the run, {after['cores']} after it."


def warning(before: dict[str, Any], after: dict[str, Any], threads: int) -> str | None:
    """A sentence if the machine did not give its cores, or nothing."""
    return next(iter(warnings(before, after, threads)), None)
