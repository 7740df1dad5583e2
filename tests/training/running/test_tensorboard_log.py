"""The log as TensorBoard's event files; without its package, what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from secondpass.errors import MissingExtra
from secondpass.training.running.tensorboard_log import tensorboard_log


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
