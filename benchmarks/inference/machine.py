"""What the figures were made on, and whether it gives all its cores at the moment."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
)  # fmt: skip
PACKAGES = ("secondpass", "torch", "transformers", "sentence-transformers", "haystack-ai", "onnxruntime")
# All cores together must give this share of what one gives alone, times their number.
SHARED = 0.8

MULTIPLY = """
import sys, time
import numpy as np
a = np.ones((768, 768), dtype=np.float32)
for _ in range(5):
    a @ a
print("ready", flush=True)
sys.stdin.readline()
began, count = time.perf_counter(), 0
while time.perf_counter() - began < 1.0:
    a @ a
    count += 1
print(count * 2 * 768**3 / (time.perf_counter() - began) / 1e9, flush=True)
"""


# Twelve sums that do not wait for each other, in registers: nothing but multiply-adds of the widest vectors there are.
MULTIPLY_ADD = """
#include <chrono>
#include <cstdio>
#ifdef __AVX512F__
constexpr int WIDTH = 16;
#else
constexpr int WIDTH = 8;
#endif
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define START(i) Vector sum##i = term;
#define ADD(i) sum##i = sum##i * factor + term;
#define KEEP(i) asm volatile("" : "+v"(sum##i));
typedef float Vector __attribute__((vector_size(WIDTH * 4)));
int main() {
    Vector factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
    EACH(START)
    std::printf("ready\\n"); std::fflush(stdout); std::getchar();
    double best = 0;
    for (int turn = 0; turn < 8; ++turn) {
        const long rounds = 20000000;
        auto began = std::chrono::steady_clock::now();
        for (long round = 0; round < rounds; ++round) { EACH(ADD) EACH(KEEP) }
        std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
        double speed = 2.0 * 12 * WIDTH * rounds / taken.count() / 1e9;
        if (speed > best) best = speed;
    }
    std::printf("%f\\n", best);
}
"""


def processor() -> dict[str, Any]:
    """The CPU's name, how many there are, and what it has for small numbers."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"name": platform.processor(), "count": os.cpu_count() or 1, "flags": []}
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    return {"name": names[0] if names else "?", "count": len(names), "flags": [f for f in FLAGS if f in flags]}


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


def gflops(processes: int, command: Sequence[str] = (sys.executable, "-c", MULTIPLY)) -> float:
    """What so many processes of one thread reach together, multiplying float32 matrices for a second."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    for process in started:
        if process.stdout is not None:
            process.stdout.readline()
    for process in started:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def multiply_add_limit(threads: int) -> float | None:
    """GFLOP/s of float32 multiply-adds in registers, on `threads` cores together; None without a C++ compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "limit.cpp", Path(folder) / "limit"
        source.write_text(MULTIPLY_ADD, encoding="utf-8")
        # -mprefer-vector-width: gcc splits vectors of 512 bits on some processors
        flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast"]
        subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
        return gflops(threads, [str(program)])


def cores_given(threads: int) -> dict[str, Any]:
    """How many cores' work `threads` processes get done together; virtual machines may have fewer than they show."""
    alone = gflops(1)
    together = gflops(threads) if threads > 1 else alone
    return {
        "gflops_alone": round(alone, 1),
        "gflops_together": round(together, 1),
        "cores": round(together / alone, 2),
        "all": together / alone >= SHARED * threads,
        "load": round(os.getloadavg()[0], 2),
    }


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
    if before["all"] and after["all"]:
        return None
    return (
        f"NOT VALID: the machine did not give its {threads} cores (load {before['load']} before the run and "
        f"{after['load']} after it). Ratios taken so favour whatever uses the fewest threads: run it again when it is "
        "quiet."
    )
