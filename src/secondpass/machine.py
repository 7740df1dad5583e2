"""The processor that figures are made on: what it is, what its cores give, and whether others compute on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a processor has for small numbers, x86-64's and ARM's.
FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
# All cores together must give this share of what one gives alone, times their number.
SHARED = 0.8
# Cores' work that others may get done meanwhile, as a share of those that are measured on.
QUIET = 0.1

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


def processor() -> dict[str, Any]:
    """The CPU's name, how many there are, and which of `FLAGS` it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {"name": platform.processor() or platform.machine(), "count": os.cpu_count() or 1, "flags": []}
    said = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    names = [value for name, value in said if name == "model name"]
    count = len([name for name, _ in said if name == "processor"])
    flags = set(next((value for name, value in said if name in ("flags", "Features")), "").split())
    return {
        "name": names[0] if names else platform.processor() or platform.machine(),
        "count": count or os.cpu_count() or 1,
        "flags": [flag for flag in FLAGS if flag in flags],
    }


def gflops(processes: int, command: Sequence[str] = (sys.executable, "-c", MULTIPLY)) -> float:
    """What so many processes of one thread reach together, multiplying float32 matrices for a second.

    Billions of multiplications and additions a second. `command` says "ready", waits for a line and prints its own.
    """
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, text=True, env=environment, **pipes) for _ in range(processes)]  # noqa: S603
    try:
        for process in started:
            if process.stdout is not None:
                process.stdout.readline()
        for process in started:
            if process.stdin is not None:
                process.stdin.write("\n")
                process.stdin.flush()
        return sum(float(process.communicate()[0]) for process in started)
    finally:
        # interrupted, none of them goes on by itself
        for process in started:
            process.kill()
            process.wait()


def cores_given(threads: int) -> dict[str, Any]:
    """How many cores' work `threads` processes get done together; virtual machines may have fewer than they show."""
    load = load_average()
    alone = gflops(1)
    together = gflops(threads) if threads > 1 else alone
    return {
        "gflops_alone": round(alone, 1),
        "gflops_together": round(together, 1),
        "cores": round(together / alone, 2),
        "all": together / alone >= SHARED * threads,
        "load": load,
    }


def load_average() -> float | None:
    """Processes that wanted a core in the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@dataclass(frozen=True, slots=True)
class Clock:
    """A moment: of the wall, of all processors of the machine, and of this process with its children; in seconds."""

    wall: float
    everybody: float | None
    own: float

    @classmethod
    def now(cls) -> Clock:
        """Read it; what everybody computes is known on Linux alone."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(time.perf_counter(), _busy(), own)

    def others(self, since: Clock) -> float | None:
        """Cores that others kept busy since an earlier moment, in the mean; None where the system does not tell."""
        if self.everybody is None or since.everybody is None or self.wall <= since.wall:
            return None
        spent = self.everybody - since.everybody - (self.own - since.own)
        return round(max(0.0, spent / (self.wall - since.wall)), 2)


def _busy() -> float | None:
    """Seconds that all processors have computed, what other machines on the same host took from this one included."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()
    except (OSError, IndexError):
        return None
    if first[:1] != ["cpu"] or len(first) < 9:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal: idle ones left out
    counts = [int(value) for place, value in enumerate(first[1:9]) if place not in (3, 4)]
    return sum(counts) / os.sysconf("SC_CLK_TCK") if sum(counts) else None


def warnings(before: dict[str, Any], after: dict[str, Any], threads: int, others: float | None = None) -> list[str]:
    """Why figures made between two `cores_given` are not the machine's own; [] where nothing speaks against them."""
    found = []
    if not (before["all"] and after["all"]):
        found.append(
            f"NOT VALID: the machine did not give its {threads} cores (load {before['load']} before the run and "
            f"{after['load']} after it). Ratios taken so favour whatever uses the fewest threads: run it again when it "
            "is quiet."
        )
    if others is not None and others > QUIET * threads:
        found.append(f"NOT VALID: others computed meanwhile, as much as {others:.2f} cores do in the mean.")
    return found
