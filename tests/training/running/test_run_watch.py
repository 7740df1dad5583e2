"""What a run does beside learning, as the log and the checkpoints show it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from secondpass.errors import CheckpointError, MissingExtra
from secondpass.training.running.run_watch import FILE, StepLog, tensorboard_log
from tests.training.toy_run import SETTINGS, run


def entries(folder):
    """The run's log."""
    return [json.loads(line) for line in (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_step_is_logged(tiny_folder, tmp_path):
    """Loss, norm, rate, what was read, how fast, how long it still takes; evaluations; the end."""
    _, report = run(tiny_folder, str(tmp_path))
    log = entries(tmp_path)
    steps = [entry for entry in log if entry["kind"] == "step"]
    assert [entry["step"] for entry in steps] == list(range(1, report.steps + 1))
    assert steps[-1]["pairs"] == report.pairs
    assert steps[-1]["tokens"] == report.tokens
    assert steps[-1]["seconds_left"] == 0.0
    assert steps[0]["learning_rate"] < max(entry["learning_rate"] for entry in steps)
    assert all(entry["loss"] > 0 and entry["norm"] > 0 and entry["pairs_per_second"] > 0 for entry in steps)
    scores = [(entry["step"], entry["score"]) for entry in log if entry["kind"] == "evaluation"]
    assert tuple(scores) == report.scores
    assert next(entry["best"] for entry in log if entry["kind"] == "evaluation")
    assert log[-1]["kind"] == "end"


def test_log_every(tiny_folder, tmp_path):
    """Only each so many steps."""
    run(tiny_folder, str(tmp_path), replace(SETTINGS, log_every=4))
    assert {entry["step"] % 4 for entry in entries(tmp_path) if entry["kind"] == "step"} == {0}


def test_the_last_checkpoints_are_kept(tiny_folder, tmp_path):
    """So many as asked, the newest ones, and the end of the run."""
    _, report = run(tiny_folder, str(tmp_path), replace(SETTINGS, keep=3))
    kept = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "checkpoints").glob("step-*"))
    assert len(kept) == 3
    assert kept[-1] == report.steps


def test_without_a_folder_nothing_is_written(tiny_folder, tmp_path, monkeypatch):
    """All stays in memory."""
    monkeypatch.chdir(tmp_path)
    _, report = run(tiny_folder, None)
    assert report.steps > 0
    assert list(tmp_path.iterdir()) == []


def test_a_run_ends_when_its_time_is_up(tiny_folder, tmp_path):
    """Long before its steps, the learning rate gone down by the clock; the same call adds nothing then."""
    timed = replace(SETTINGS, minutes=0.02, max_steps=5_000, evaluate_every=0, save_every=0)
    _, report = run(tiny_folder, str(tmp_path), timed, dev=None)
    assert 1 < report.steps < 5_000
    rates = [entry["learning_rate"] for entry in entries(tmp_path) if entry["kind"] == "step"]
    assert rates[0] == 0.0
    assert rates[-1] < 0.5 * max(rates) <= 0.5 * SETTINGS.learning_rate
    _, again = run(tiny_folder, str(tmp_path), timed, dev=None)
    assert (again.steps, again.resumed_from) == (report.steps, report.steps)


def entries_step_log(folder):
    """What the file holds."""
    return [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]


def test_one_object_a_line_and_the_watcher_hears_the_same(tmp_path):
    """Kind, step and time, and what was given."""
    heard = []
    log = StepLog(tmp_path, heard.append, after=0)
    log.write("step", 1, loss=0.5)
    log.write("evaluation", 2, score=0.25)
    assert entries_step_log(tmp_path) == heard
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
    assert [(entry["kind"], entry["step"]) for entry in entries_step_log(tmp_path)] == [
        ("step", 1),
        ("step", 2),
        ("step", 3),
    ]


def test_a_run_that_begins_anew_forgets_the_former_one(tiny_folder, tmp_path):
    """Its evaluation before the first step too: none stands there twice."""
    for seed in (1, 2):
        run(tiny_folder, str(tmp_path), replace(SETTINGS, max_steps=2, seed=seed), resume=False)
    told = [(entry["kind"], entry["step"]) for entry in entries_step_log(tmp_path)]
    assert told.count(("evaluation", 0)) == 1
    assert len(set(told)) == len(told)


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    """A folder where the file should be."""
    log = StepLog(tmp_path, None, after=0)
    (tmp_path / FILE).mkdir()
    with pytest.raises(CheckpointError, match=FILE):
        log.write("step", 1)


def test_absent_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absence is one line, and nothing is written."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"secondpass\[tensorboard\]"), tensorboard_log(tmp_path / "t"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")
def test_numbers_become_curves(tmp_path: Path) -> None:
    """Each number of an entry is a curve by its kind and name, at its step; texts and places are none."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard_log(tmp_path) as watch:
        watch({"kind": "step", "step": 10, "time": 1.0, "loss": 0.5, "note": "x"})
        watch({"kind": "step", "step": 20, "time": 2.0, "loss": 0.25})
        watch({"kind": "evaluation", "step": 20, "score": 0.75, "best": True})
    found = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(found.Tags()["scalars"]) == ["evaluation/best", "evaluation/score", "step/loss"]
    assert [(event.step, event.value) for event in found.Scalars("step/loss")] == [(10, 0.5), (20, 0.25)]
