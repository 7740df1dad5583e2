"""The log of a run, and what becomes of it when the run goes on."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import CheckpointError
from secondpass.training.running.step_log import FILE, StepLog


def entries(folder):
    """What the file holds."""
    return [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]


def test_one_object_a_line_and_the_watcher_hears_the_same(tmp_path):
    """Kind, step and time, and what was given."""
    heard = []
    log = StepLog(tmp_path, heard.append, after=0)
    log.write("step", 1, loss=0.5)
    log.write("evaluation", 2, score=0.25)
    assert entries(tmp_path) == heard
    assert [(entry["kind"], entry["step"]) for entry in heard] == [("step", 1), ("evaluation", 2)]
    assert heard[0]["loss"] == 0.5


def test_without_a_folder_only_the_watcher_hears(tmp_path, monkeypatch):
    """Nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    heard = []
    StepLog(None, heard.append, after=0).write("step", 1)
    StepLog(None, None, after=0).write("step", 1)
    assert len(heard) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_forgets_what_its_checkpoint_did_not_see(tmp_path):
    """Later steps, a torn last line, the end of a run that goes on: all are taken out, no step comes twice."""
    log = StepLog(tmp_path, None, after=0)
    for step in (1, 2, 3, 4):
        log.write("step", step)
    log.write("end", 4)
    with (tmp_path / FILE).open("a", encoding="utf-8") as out:
        out.write('{"kind": "step", "st')
    StepLog(tmp_path, None, after=2).write("step", 3)
    assert [(entry["kind"], entry["step"]) for entry in entries(tmp_path)] == [("step", 1), ("step", 2), ("step", 3)]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    """A folder where the file should be."""
    log = StepLog(tmp_path, None, after=0)
    (tmp_path / FILE).mkdir()
    with pytest.raises(CheckpointError, match=FILE):
        log.write("step", 1)
