"""What a run does beside learning, as the log and the checkpoints show it."""

from __future__ import annotations

import json
from dataclasses import replace

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
