"""The guard ends what it started, whatever happens to the one who asked for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.servers import guard

# Like Elasticsearch's launcher: a parent that goes at the first signal, and a child that stays.
LAUNCHER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
OWNER = """
import json, os, subprocess, sys, time
told = json.loads(sys.argv[2])
told["parent"] = os.getpid()
subprocess.Popen([sys.executable, "-I", sys.argv[1], json.dumps(told)], start_new_session=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server's folder."""
    (tmp_path / "server").mkdir()
    return tmp_path / "server"


@pytest.fixture
def started() -> Iterator[list[psutil.Process]]:
    """Processes that a failing test must not leave behind."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        if process.is_running():
            process.kill()


def order(folder: Path, parent: int) -> list[str]:
    """The guard and what it is told."""
    told = {
        "command": [sys.executable, "-c", LAUNCHER, STUBBORN],
        "environment": {},
        "folder": str(folder),
        "log": str(folder / "console.log"),
        "credentials": {},
        "parent": parent,
        "patience": 0.3,
    }
    return [str(Path(guard.__file__)), json.dumps(told)]


def family(launcher: int, folder: Path) -> list[psutil.Process]:
    """The launcher and its child, once the child runs."""
    until(lambda: "up" in (folder / "console.log").read_text(encoding="utf-8"))
    parent = psutil.Process(launcher)
    return [parent, *parent.children()]


def until(reached: Callable[[], bool]) -> None:
    """Wait for what must come; a test that waits for ever would tell nothing."""
    end = time.monotonic() + 90
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs."""
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


def asked_here(folder: Path) -> subprocess.Popen[str]:
    """A guard of this process."""
    return subprocess.Popen(
        [sys.executable, "-I", *order(folder, os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_asked_to_stop_it_leaves_no_child_and_keeps_the_data(folder: Path, started: list[psutil.Process]) -> None:
    """A child that ignores the polite signal goes as well; the folder stays for a restart."""
    with asked_here(folder) as process:
        assert process.stdout is not None
        started += family(int(process.stdout.readline()), folder)
        assert len(started) == 2
        process.communicate("stop\n", timeout=90)
    assert gone(started)
    assert folder.is_dir()


def test_a_closed_pipe_means_nobody_is_left(folder: Path, started: list[psutil.Process]) -> None:
    """Then the folder goes as well."""
    with asked_here(folder) as process:
        assert process.stdout is not None
        started += family(int(process.stdout.readline()), folder)
        process.communicate(timeout=90)
    assert gone(started)
    assert not folder.exists()


def test_a_killed_owner_takes_the_server_along(folder: Path, started: list[psutil.Process]) -> None:
    """SIGKILL cannot be caught, so somebody else must see it; here the pipe stays open, as in a child of the owner."""
    command = [sys.executable, "-c", OWNER, *order(folder, 0)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        started += family(int(owner.stdout.readline()), folder)
        owner.kill()
        until(lambda: gone(started) and not folder.exists())


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_is_the_owner_s_business(folder: Path, started: list[psutil.Process]) -> None:
    """The guard lives through a SIGINT, so that the owner may end the server in its own order."""
    with asked_here(folder) as process:
        assert process.stdout is not None
        started += family(int(process.stdout.readline()), folder)
        process.send_signal(signal.SIGINT)
        time.sleep(0.7)
        assert process.poll() is None
        assert not gone(started)
        process.communicate("stop\n", timeout=90)
    assert gone(started)


def test_the_end_of_the_server_ends_the_guard(folder: Path, started: list[psutil.Process]) -> None:
    """Killed from outside: the guard goes by itself, with the status, and takes the rest of the group along."""
    with asked_here(folder) as process:
        assert process.stdout is not None
        started += family(int(process.stdout.readline()), folder)
        started[0].kill()
        assert process.wait(timeout=90) != 0
    assert gone(started)
    assert folder.is_dir()
