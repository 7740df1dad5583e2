"""Two real processes train one model, and end where one process ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secondpass.training.running.loop import ALONE, joined
from tests import fork_server
from tests.training.toy_run import SETTINGS, run

ROOT = Path(__file__).parents[3]


def together(model: str, output: Path, count: int, **settings) -> None:
    """Run the toy task in `count` processes that meet in a file; gloo keeps to the loopback interface."""
    output.mkdir()
    shared = {"WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "ACCELERATE_USE_CPU": "true"}
    program = [sys.executable, "-m", "tests.training.toy_run", model, str(output)]
    options = ["--settings", json.dumps(settings), "--store", str(output / ".store")]
    started = [
        fork_server.Popen(
            [*program, *options],
            cwd=ROOT,
            env=os.environ | shared | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0] * count, errors[0][-2000:]


def averages(output: Path) -> dict[str, torch.Tensor]:
    """The averaged weights at the end of a run: they hold every step, whichever was the best."""
    return load_file(sorted((output / "checkpoints").glob("step-*/average.safetensors"))[-1])


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of any weight."""
    assert one.keys() <= other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("count", [2])
def test_several_processes_give_the_single_process_result(tiny_folder, tmp_path, count):
    """The same global batches: weights and dev scores agree to 1e-5, and differ from the start."""
    exact = {"dropout": 0.0, "learning_rate": 3e-4, "keep": 2}
    _, report = run(tiny_folder, str(tmp_path / "alone"), replace(SETTINGS, **exact))
    together(tiny_folder, tmp_path / "both", count, **exact)
    steps, scores = json.loads((tmp_path / "both" / "report.json").read_text())
    assert steps == report.steps > 10
    assert [score for _, score in scores] == pytest.approx([score for _, score in report.scores], abs=1e-5)
    alone, both = averages(tmp_path / "alone"), averages(tmp_path / "both")
    assert largest_difference(alone, both) < 1e-5
    assert largest_difference(both, load_file(Path(tiny_folder) / "model.safetensors")) > 1e-3


def test_alone_everything_is_as_it_was(monkeypatch):
    """Without a launcher nothing is joined, and sums and broadcasts are the values themselves."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert joined(torch.device("cpu")) is ALONE
    tensor = torch.ones(3)
    ALONE.add_up([tensor])
    assert tensor.tolist() == [1.0, 1.0, 1.0]
    assert ALONE.from_first("x") == "x"
    assert ALONE.gathered("x") == ["x"]
    assert ALONE.first
