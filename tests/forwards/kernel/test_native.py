"""Finding the library: absent, broken or for other processors, it is a sentence, never an exception."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hatch_build
from secondpass.forwards.kernel import native


def test_a_missing_library_is_said(tmp_path: Path) -> None:
    """As after an install without a compiler."""
    assert native.routines(tmp_path / "none.so") == "the kernel was not compiled"


@pytest.mark.parametrize("content", [b"", b"\x7fELF but no library"])
def test_a_broken_library_is_said(tmp_path: Path, content: bytes) -> None:
    """The reason names the file."""
    broken = tmp_path / "broken.so"
    broken.write_bytes(content)
    found = native.routines(broken)
    assert isinstance(found, str)
    assert "broken.so" in found


def test_a_library_of_another_version_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its structures have other sizes, or it is so old that it cannot say: it would read what it was not given. So is
    one of other sources than this checkout's, whose structures are the same: it may read weights in another order.
    What is installed from a wheel came with its sources and is not compared.
    """
    if isinstance(native.routines(), str):
        pytest.skip("no compiler")
    source = """
        #include <stddef.h>
        const char* secondpass_routine(int index) { return 0; }
        size_t secondpass_memory(void) { return 0; }
        void secondpass_run(void) {}
        FITS
    """
    fits_here = "int secondpass_fits(size_t model) { return 1; }"
    told = f'const char* secondpass_sources(void) {{ return "{native.sources_digest(native.CHECKOUT)}"; }}'
    for name, fits, said in (
        ("sizes", "int secondpass_fits(size_t model) { return model == 8; }", "another version"),
        ("old", "", "secondpass_fits"),
        ("sources", fits_here, "another version"),
        ("same", fits_here + told, "()"),
    ):
        made = tmp_path / f"{name}.so"
        command = [*hatch_build.compiler(), "-x", "c", "-shared", "-fPIC", "-o", str(made), "-"]
        subprocess.run(command, input=source.replace("FITS", fits), text=True, check=True)
        assert said in str(native.routines(made))
    monkeypatch.setattr(native, "CHECKOUT", tmp_path)
    assert native.routines((tmp_path / "sources.so").rename(tmp_path / "installed.so")) == ()


def test_instructions_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of this processor's, by name; others have no routine, and the sentence says so. An empty choice is none."""
    found = native.routines()
    if isinstance(found, str):
        pytest.skip(found)
    for routine in found:
        monkeypatch.setenv(native.CHOSEN, routine.instructions)
        assert native.find(routine.precision) == routine
    monkeypatch.setenv(native.CHOSEN, " ")
    assert native.find("fp32") == next(routine for routine in found if routine.precision == "fp32")
    monkeypatch.setenv(native.CHOSEN, "none such")
    refused = native.find("fp32")
    assert isinstance(refused, str)
    assert "none such" in refused


def test_threads_are_torchs_or_what_torchs_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number where it is imported; else OMP_NUM_THREADS, else cores, not their halves, within the group's share."""
    assert native.thread_count() == torch.get_num_threads()
    monkeypatch.delitem(sys.modules, "torch")
    count = native.own_thread_count.__wrapped__
    monkeypatch.setattr(native, "own_thread_count", count)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {siblings.format(number): f"{number % 6},{number % 6 + 6}" for number in range(12)}
    files: dict[str, str] = {}
    monkeypatch.setattr(native, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 6, 7, 8, 9})
    for asked, given, wanted in (
        ("3", {}, 3),
        ("4,2", {}, 4),
        ("0", {}, 7),
        ("many", {}, 7),
        ("", {}, 7),
        ("", cores, 4),
        ("", {**cores, "/sys/fs/cgroup/cpu.max": "max 100000"}, 4),
        ("", {**cores, "/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ("", {"/proc/self/cgroup": "0::/a/b", "/sys/fs/cgroup/a/b/cpu.max": "50000 100000"}, 1),
        ("", {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 7),
        (
            "",
            {
                "/proc/self/cgroup": "5:cpu,cpuacct:/job\n0::/",
                "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000",
                "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            3,
        ),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        files.clear()
        files.update(given)
        assert native.thread_count() == wanted, (asked, given)
