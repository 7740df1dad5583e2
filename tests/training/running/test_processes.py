"""Two real processes train one model, and end where one process ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secondpass.training.running.loop import ALONE, joined
from secondpass.training.settings import LoraSettings
from tests import fork_server
from tests.small_collection import write_json_lines
from tests.training.toy_run import SETTINGS, run, toy_groups

ROOT = Path(__file__).parents[3]


def launched(program: list[str], count: int, port: int = 29511) -> list[fork_server.Popen]:
    """A program in `count` processes, with a launcher's environment; gloo keeps to the loopback interface."""
    shared = {"WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    return [
        fork_server.Popen(
            [sys.executable, *program],
            cwd=ROOT,
            env=os.environ | shared | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def free_port() -> int:
    """Where processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def begun(model: str, output: Path, count: int, **settings) -> list[fork_server.Popen]:
    """The toy task in `count` processes that meet in a file."""
    output.mkdir(exist_ok=True)
    (output / ".store").unlink(missing_ok=True)
    program = ["-m", "tests.training.toy_run", model, str(output)]
    return launched([*program, "--settings", json.dumps(settings), "--store", str(output / ".store")], count)


def ended(processes: list[fork_server.Popen], code: int = 0) -> list[str]:
    """What they wrote to stderr, once all have ended with this code."""
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), errors[0][-2000:]
    return errors


def averages(output: Path) -> dict[str, torch.Tensor]:
    """The averaged weights at the end of a run: they hold every step, whichever was the best."""
    return load_file(sorted((output / "checkpoints").glob("step-*/average.safetensors"))[-1])


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of any weight."""
    assert one.keys() <= other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# Adam makes as much of a gradient of nothing but rounding as of any other: the difference goes with the learning rate.
# Of the size that a CPU has by default, a micro-batch is a whole step.
EXACT = {
    "precision": "fp32", "dropout": 0.0, "learning_rate": 2e-4, "keep": 2, "epochs": 10, "evaluate_every": 10,
    "micro_batch_tokens": None,
}  # fmt: skip


class StoppedError(Exception):
    """A run was stopped in the midst of it."""


def stopping_at(step: int):
    """A watch that ends the run there."""

    def watch(entry):
        if entry["step"] >= step:
            raise StoppedError

    return watch


def test_several_processes_give_the_single_process_result(tiny_folder, tmp_path):
    """A step of two processes is that of one with the whole of their batch: after 50, weights and scores agree to 1e-5.

    They differ from the start. So it is where both were killed, one went on and was stopped, and two ended it.
    """
    _, report = run(tiny_folder, str(tmp_path / "alone"), replace(SETTINGS, **EXACT))
    ended(begun(tiny_folder, tmp_path / "both", 2, **EXACT))
    output = tmp_path / "killed"
    killed = begun(tiny_folder, output, 2, **EXACT)
    end = time.monotonic() + 120
    while not list(output.glob("checkpoints/step-*/manifest.json")):
        assert time.monotonic() < end
        time.sleep(0.01)
    for process in killed:
        process.kill()
        process.communicate()
    with pytest.raises(StoppedError):
        run(tiny_folder, str(output), replace(SETTINGS, **EXACT), watch=stopping_at(30))
    ended(begun(tiny_folder, output, 2, **EXACT))
    alone = averages(tmp_path / "alone")
    for folder in (tmp_path / "both", output):
        steps, scores = json.loads((folder / "report.json").read_text())
        assert steps == report.steps >= 50
        assert [score for _, score in scores] == pytest.approx([score for _, score in report.scores], abs=1e-5)
        assert largest_difference(alone, averages(folder)) < 1e-5
    assert largest_difference(alone, load_file(Path(tiny_folder) / "model.safetensors")) > 1e-3


def test_low_rank_additions_are_those_of_a_single_process(tiny_folder, tmp_path):
    """Each process begins with the same ones, whatever it draws afterwards."""
    pytest.importorskip("peft")
    quick = EXACT | {"epochs": 3, "evaluate_every": 0}
    run(tiny_folder, str(tmp_path / "alone"), replace(SETTINGS, **quick, lora=LoraSettings(rank=2)))
    ended(begun(tiny_folder, tmp_path / "both", 2, **quick, lora={"rank": 2}))
    alone = averages(tmp_path / "alone")
    assert any("lora_A" in name for name in alone)
    assert largest_difference(alone, averages(tmp_path / "both")) < 1e-5


def test_processes_end_together(tiny_folder, tmp_path):
    """At the end of patience, of the time by the first one's clock, and of finite numbers: none waits for another."""
    quiet = {"dropout": 0.0, "epochs": 30, "evaluate_every": 1}
    ended(begun(tiny_folder, tmp_path / "patience", 2, **quiet, learning_rate=1e-12, patience=2))
    assert json.loads((tmp_path / "patience" / "report.json").read_text())[0] == 2
    ended(begun(tiny_folder, tmp_path / "time", 2, **quiet, minutes=0.02))
    assert 1 <= json.loads((tmp_path / "time" / "report.json").read_text())[0] < 180
    for told in ended(begun(tiny_folder, tmp_path / "nan", 2, **quiet, loss_options={"sigma": 1e38}), code=1):
        assert "TrainingError: epoch 0, step" in told


# The first process measures for longer than torch's processes wait for each other unless they are told to.
SLOW = """
import sys, time
from datetime import timedelta
from pathlib import Path
from torch.distributed import distributed_c10d
from secondpass.training.configured import prepare, run
from secondpass.training.measuring.before_after import AFTER, DevRanking
from secondpass.training.yaml import read_config

distributed_c10d.default_pg_timeout = timedelta(seconds=1)
ranked = DevRanking.run

def slowly(self, encoder, name):
    time.sleep(0 if name == AFTER else 2)
    return ranked(self, encoder, name)

DevRanking.run = slowly
run(prepare(read_config(Path(sys.argv[1]))), show_progress_bar=False)
"""


def test_processes_wait_for_the_first_one_to_measure(tiny_folder, tmp_path):
    """Before the run, where they are to be joined, and at each evaluation: however long it takes."""
    pytest.importorskip("ir_measures")
    pytest.importorskip("bm25s")
    for name, seed, size in (("train", 1, 12), ("dev", 2, 4)):
        rows = [
            {"query": f"{group.query} {number}", "documents": group.documents, "labels": group.labels}
            for number, group in enumerate(toy_groups(seed, size))
        ]
        write_json_lines(tmp_path / f"{name}.jsonl", rows)
    config = {
        "model": {"name": tiny_folder, "device": "cpu"},
        "data": {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("train", "dev")},
        "settings": {"tokens_per_step": 300, "precision": "fp32"},
        "output": {"folder": str(tmp_path / "out")},
    }
    (tmp_path / "train.yaml").write_text(json.dumps(config), encoding="utf-8")
    ended(launched(["-c", SLOW, str(tmp_path / "train.yaml")], 2, free_port()))
    assert {"README.md", "model.safetensors", "finished.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


# Each process begins with another bias of the head.
APART = """
import os, sys, torch
from secondpass import CrossEncoder
from secondpass.training.trainer import train
from tests.training.toy_run import SETTINGS, toy_groups

encoder = CrossEncoder(sys.argv[1], device="cpu")
with torch.no_grad():
    encoder.model.classifier.bias += int(os.environ["RANK"])
train(encoder, toy_groups(1, 8), SETTINGS, show_progress_bar=False)
"""


def test_processes_that_begin_apart_are_refused(tiny_folder):
    """Gradients that are summed would be of different models: every process says so before the first step."""
    for told in ended(launched(["-c", APART, tiny_folder], 2, free_port()), code=1):
        assert "InvalidInput: encoder has other weights in other processes" in told


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
