"""Beginning anew: earlier checkpoints go, everything else stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.errors import CheckpointError
from secondpass.training.running.fresh_start import forget_checkpoints
from secondpass.training.survival.run_lock import RunLock
from tests.training.toy_run import run


def test_a_run_begins_anew(tiny_folder: str, tmp_path: Path) -> None:
    """Without its checkpoints a finished run is done again from the first step; the model stays until then."""
    _, first = run(tiny_folder, str(tmp_path), dev=None)
    forget_checkpoints(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "model.safetensors").is_file()
    for _ in range(2):
        _, again = run(tiny_folder, str(tmp_path), dev=None, resume=False)
    assert (again.resumed_from, again.steps) == (None, first.steps)


def test_nothing_to_forget(tmp_path: Path) -> None:
    """An empty folder, and one that is not there, stay as they are."""
    forget_checkpoints(tmp_path)
    forget_checkpoints(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_running_run_keeps_its_checkpoints(tiny_folder: str, tmp_path: Path) -> None:
    """Whoever begins anew in a folder in use is refused before anything is removed."""
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with RunLock(tmp_path), pytest.raises(CheckpointError, match="is in use by"):
        run(tiny_folder, str(tmp_path), resume=False)
    assert (tmp_path / "checkpoints" / "step-00000001").is_dir()
