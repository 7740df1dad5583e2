"""Runs that are killed with SIGKILL: nothing that was saved is lost, and the end is that of a run nobody killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests import fork_server

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("SECONDPASS_KILLS", "12"))


def seen(what: str, folder: Path, number: int):
    """What the program saw."""
    program = str(Path(__file__).with_name("killed_runs.py"))
    command = [sys.executable, "-W", "error", program, what, str(folder), str(number)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = fork_server.run(command, env=environment, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_runs_end_as_one_that_was_not(tmp_path):
    """Dropout, own and global random numbers, optimizer, schedule and averages go on: the last bits are equal."""
    found = seen("training", tmp_path, KILLS)
    *killed, finished = found["lives"]
    assert [life["signal"] for life in killed] == [signal.SIGKILL] * KILLS
    assert finished["signal"] == 0
    assert found["digest"] == found["expected"]
    # after every death the newest checkpoint is at least the one the run had been told was saved
    assert all(life["newest"] >= life["saved"] for life in found["lives"])
    steps = [life["newest"] for life in found["lives"]]
    assert steps == sorted(steps)


def test_kill_at_every_moment_of_a_save(tmp_path):
    """Before whichever file operation of a save it is killed, the last checkpoint or the new one is there, whole."""
    found = seen("save", tmp_path, 1)
    for again, old, new in ((False, [3, 3.0], [4, 9.0]), (True, [3, 3.0], [3, 9.0])):
        reports = [report for report in found if report["again"] is again]
        assert len(reports) > 20
        after = [report["after"] for report in reports]
        assert after == sorted(after)
        assert after[0] == old
        assert [report["after"] for report in reports if report["finished"]] == [new]
        assert {tuple(value) for value in after} == {tuple(old), tuple(new)}
        # the next save finds its way, and leaves nothing of the killed one
        assert all(report["last"] == [5, 5.0] and report["left"] == ["step-00000005"] for report in reports)


def test_lock_is_free_when_its_holder_is_killed(tmp_path):
    """Also when a child that the holder had forked lives on; until then the message names the process."""
    found = seen("lock", tmp_path, 2)
    assert found[1::2] == ["free", "free"]
    assert all("is in use by process PID on " in message for message in found[::2])
