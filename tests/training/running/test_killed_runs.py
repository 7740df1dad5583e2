"""Runs that are killed at any moment lose no checkpoint, and end bit for bit where an undisturbed run ends.

`SECONDPASS_KILLS` sets how many runs are killed (CI: 3).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from sentence_transformers import CrossEncoder as Theirs

from secondpass import CrossEncoder
from secondpass.training.checkpoints.checkpoints import FOLDER
from secondpass.training.running.run_watch import FILE, FINISHED, LOCK, RunLock
from tests import fork_server
from tests.tiny_models import make_reranker

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("SECONDPASS_KILLS", "3"))
SETTINGS = {"tokens_per_step": 120, "epochs": 4, "save_every": 1}


def started(model: str, output: Path, settings: Mapping[str, object] = SETTINGS, *options: str) -> fork_server.Popen:
    """A run of the toy task as a process of its own."""
    program = [sys.executable, "-m", "tests.training.toy_run", model, str(output), "--settings", json.dumps(settings)]
    program += options
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return fork_server.Popen(program, cwd=ROOT, env=os.environ | quiet, stderr=subprocess.DEVNULL)


def logged(output: Path) -> list[dict[str, object]]:
    """Whole lines of the log."""
    path = output / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def whole_checkpoints(output: Path) -> list[int]:
    """Steps of the checkpoints that have a manifest."""
    return sorted(int(path.parent.name.split("-")[1]) for path in (output / FOLDER).glob("step-*/manifest.json"))


def killed_later(process: fork_server.Popen, output: Path, rng: random.Random) -> bool:
    """Wait until the run makes steps and has saved one, then a random moment, and kill it; False if it ended before."""
    before = len(logged(output))
    while process.poll() is None and (len(logged(output)) <= before or not whole_checkpoints(output)):
        time.sleep(0.02)
    time.sleep(rng.random() * 0.6)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


def comparable(entry: dict[str, object]) -> dict[str, object]:
    """A log entry without clocks."""
    clocks = ("time", "seconds", "seconds_left", "pairs_per_second")
    return {name: value for name, value in entry.items() if name not in clocks}


@pytest.fixture(scope="module")
def undisturbed(tiny_model_folder, tmp_path_factory) -> Path:
    """The output of a run that nobody killed."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert started(tiny_model_folder("bert", 1), output).wait(timeout=240) == 0
    return output


def test_killed_runs_end_where_an_undisturbed_one_ends(tiny_folder, undisturbed, tmp_path):
    """Same weights, scores and log; checkpoints only ever move forward, and none is left, nor anything else."""
    rng = random.Random(os.environ.get("SECONDPASS_KILL_SEED", "1"))
    expected = (undisturbed / "model.safetensors").read_bytes()
    kills = number = 0
    while kills < KILLS:
        number += 1
        output = tmp_path / str(number)
        output.mkdir()
        newest, done = 0, False
        while not done:
            process = started(tiny_folder, output)
            if kills < KILLS and killed_later(process, output, rng):
                kills += 1
                found = whole_checkpoints(output)
                assert found or (output / FINISHED).exists()
                assert found[-1:] >= [newest] or not found
                newest = max([newest, *found])
            else:
                assert process.wait(timeout=240) == 0
                done = True
        assert (output / "model.safetensors").read_bytes() == expected
        assert json.loads((output / "report.json").read_text()) == json.loads((undisturbed / "report.json").read_text())
        assert [comparable(entry) for entry in logged(output)] == [comparable(entry) for entry in logged(undisturbed)]
        assert {path.name for path in output.iterdir()} == {path.name for path in undisturbed.iterdir()}
        assert not (output / FOLDER).exists()


def test_low_rank_additions_to_a_causal_reranker_are_killed(tmp_path):
    """Dev ranks better, the run goes on to the same bits, and sentence-transformers gives the folder its scores."""
    model, instruction = str(make_reranker(tmp_path / "model")), ("--instruction", "find the account")
    settings = {
        "lora": {"rank": 8}, "loss": "info_nce", "learning_rate": 3e-2, "averaging": 0.0,
        "tokens_per_step": 1500, "micro_batch_tokens": None, "dropout": None, "epochs": 1, "save_every": 1,
        "evaluate_every": 0,
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for output in (whole, killed):
        output.mkdir()
    assert started(model, whole, settings, *instruction).wait(timeout=240) == 0
    steps, scores = json.loads((whole / "report.json").read_text())
    assert scores[-1][1] > scores[0][1] + 0.1
    process = started(model, killed, settings, *instruction)
    while process.poll() is None and len(whole_checkpoints(killed)) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = whole_checkpoints(killed)[-1]
    assert 0 < reached < steps
    with safe_open(next((killed / FOLDER).glob(f"step-*{reached}/model.safetensors")), "pt") as file:
        assert all(".lora_" in name for name in file.keys())
    refused = started(model, killed, settings, "--instruction", "find the cat")
    assert refused.wait(timeout=240) == 1
    assert started(model, killed, settings, *instruction).wait(timeout=240) == 0
    assert json.loads((killed / "report.json").read_text()) == [steps, scores]
    for name in ("model.safetensors", "1_LogitScore/config.json", "config_sentence_transformers.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = CrossEncoder(str(killed), device="cpu"), Theirs(str(killed), device="cpu")
    pairs = [("how to reset", "the account on a big river"), ("how to reset", "cat in the garden"), ("a", "")]
    assert ours.prompts == theirs.prompts == {"instruction": "find the account"}
    np.testing.assert_allclose(theirs.predict(pairs), ours.predict(pairs), rtol=0, atol=1e-6)
    assert not np.allclose(ours.predict(pairs, prompt=""), ours.predict(pairs), atol=1e-5)


def test_a_run_in_use_is_left_alone(tiny_folder, tmp_path):
    """A second process in the same folder is refused before it writes anything."""
    with RunLock(tmp_path):
        assert started(tiny_folder, tmp_path).wait(timeout=240) == 1
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}
