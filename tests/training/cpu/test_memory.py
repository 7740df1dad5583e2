"""Freed memory is kept, and given back when asked: counted in page faults and resident pages."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from secondpass.training.cpu import memory
from secondpass.training.cpu.memory import give_back_memory, keep_freed_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PROGRAM = """
import json, resource, sys, threading
import numpy as np
from secondpass.training.cpu.memory import give_back_memory, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def rounds(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        block = np.full(40_000_000, 1, np.uint8)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
rounds(2)
faults = rounds(10)
full = resident()
gave = give_back_memory()
saved = full - resident()
sizes = []
thread = threading.Thread(target=lambda: sizes.append(len(np.ones(200_000_000, np.uint8))))
thread.start(); thread.join()
print(json.dumps({"kept": kept, "faults": faults, "gave": gave, "saved": saved, "again": keep_freed_memory(),
                  "in_thread": sizes}))
"""


def measured(how):
    """Run the program in a process of its own: the setting cannot be undone."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@glibc
def test_blocks_come_back_on_the_same_pages():
    """Ten times 40 MB: nearly no page fault, where the C library alone takes nearly all pages anew each time."""
    kept, plain = measured("keep"), measured("plain")
    assert kept["kept"] is True
    assert kept["again"] is True
    assert kept["faults"] < 2000
    assert plain["faults"] > 10 * kept["faults"]
    assert kept["in_thread"] == [200_000_000]


@glibc
def test_memory_is_given_back():
    """What was kept leaves the process at once."""
    found = measured("keep")
    assert found["gave"] is True
    assert found["saved"] > 30_000_000


@pytest.mark.parametrize("system", ["darwin", "win32", "linux"])
def test_other_libraries_are_left_alone(system, monkeypatch):
    """Without glibc's functions nothing happens, and the answer is False."""
    monkeypatch.setattr(memory, "_kept", None)
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # musl: no gnu_get_libc_version
    assert keep_freed_memory() is False
    assert keep_freed_memory() is False
    assert give_back_memory() is False


def test_once_whoever_comes_first(monkeypatch):
    """Threads that come at the same time all get the answer of one call."""
    calls = []
    monkeypatch.setattr(memory, "_kept", None)
    monkeypatch.setattr(memory, "_function", lambda name: lambda *args: calls.append(args) or 1)
    barrier = threading.Barrier(8)

    def together(_):
        barrier.wait()
        return keep_freed_memory()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(together, range(8))) == [True] * 8
    assert calls == [(-4, 0), (-1, -1), (-2, 256 * 2**20)]


def test_a_refused_setting_is_told(monkeypatch):
    """One setting that is not taken makes the answer False."""
    monkeypatch.setattr(memory, "_kept", None)
    monkeypatch.setattr(memory, "_function", lambda name: lambda number, value: int(number != -1))
    assert keep_freed_memory() is False
