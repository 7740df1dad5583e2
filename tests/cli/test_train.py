"""`secondpass train`: from a file to a model, what it says on the way, and how it ends when it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")

from secondpass import CrossEncoder
from secondpass.training.yaml import example_text, read_config
from tests import fork_server
from tests.cli.conftest import Run, command, only_line
from tests.small_collection import write_beir, write_json_lines
from tests.training.toy_run import toy_groups

SETTINGS = "settings: {epochs: 2, tokens_per_step: 300, learning_rate: 1.0e-3, precision: fp32, save_every: 2}\n"
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

ONE_STEP = ("-s", "settings.max_steps=1")


@pytest.fixture
def config(tmp_path: Path, tiny_folder: str) -> Path:
    """A configuration of the tiny model and toy data with a dev set."""
    for name, seed, size in (("train", 1, 30), ("dev", 2, 12)):
        rows = [
            {"query": f"{group.query} {name} {number}", "documents": group.documents, "labels": group.labels}
            for number, group in enumerate(toy_groups(seed, size))
        ]
        write_json_lines(tmp_path / f"{name}.jsonl", rows)
    file = tmp_path / "c.yaml"
    data = "data: {train: {path: train.jsonl}, dev: {path: dev.jsonl}}\noutput: {folder: out}\n"
    file.write_text(f"model: {{name: {tiny_folder}, device: cpu}}\n{data}{SETTINGS}")
    return file


def test_a_whole_run(run: Run, config: Path, tmp_path: Path) -> None:
    """Counts come first, then the scores, then what changed with its interval, and where the model is."""
    done = run("train", config, "--quiet")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["training data:", "  30 groups, 103 documents (2 to 5 a group, median 3)"]
    assert lines[4] == "dev: 12 queries, 50 candidates"
    assert lines[5].startswith("step 0: dev nDCG@10 0.")
    assert sum(line.startswith("step ") for line in lines) == 3
    (row,) = (line for line in lines if line.startswith("dev ") and "nDCG@10" in line)
    # data, measure, no first pass, before, after, change, its interval, p: nothing is cut at 80 columns.
    assert re.fullmatch(r"dev +nDCG@10 +\S +0\.\d{3} +0\.\d{3} +[+-]0\.\d{3} +\S+ to \S+ +(< )?\d\.\d+", row.strip())
    assert f"model: {tmp_path / 'out'}" in lines
    assert f"card: {tmp_path / 'out' / 'README.md'}" in lines
    assert done.stderr == ""
    CrossEncoder(str(tmp_path / "out"), device="cpu").rank("a cat", ["the cat"])


def test_evaluations_are_told_by_the_measure_that_chooses(run: Run, config: Path, tmp_path: Path) -> None:
    """The first of the test set's measures is dev's too."""
    write_beir(tmp_path / "beir")
    (tmp_path / "first.trec").write_text("q1 Q0 d1 1 2 x\nq1 Q0 d2 2 1 x\n")
    test = f"{{path: {tmp_path / 'beir'}, run: {tmp_path / 'first.trec'}, measures: [RR@5, nDCG@10]}}"
    done = run("train", config, "--quiet", "-s", f"data.test={test}", *ONE_STEP)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"^step 0: dev RR@5 [01]\.\d{4}, the best so far$", done.stdout, re.MULTILINE)
    assert "dev nDCG@10" not in done.stdout


def test_a_run_that_changed_nothing_says_so_last(run: Run, config: Path, tmp_path: Path) -> None:
    """Weights that no step made better are given back, and the last line and the card say it; asked again as well."""
    for expected in ("1 steps, ", "all of them before"):
        done = run("train", config, "--quiet", "--storage", "int8", "-s", "settings.learning_rate=1e-30", *ONE_STEP)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("Training changed nothing: no step was better on dev")
        assert expected in done.stdout
    assert "**Training changed nothing" in (tmp_path / "out" / "README.md").read_text()
    assert [file.name for file in (tmp_path / "out").glob("*.safetensors")] == ["model.int8.safetensors"]
    refused = run("train", config, "--quiet")
    assert "belongs to another run" in only_line(refused)
    assert only_line(refused).endswith("to begin anew: --no-resume")


def test_a_fault_is_said_once(run: Run, config: Path, tmp_path: Path) -> None:
    """In the words of the configuration: of a table that is not understood once, of what was dropped in one place."""
    table = tmp_path / "clicks.csv"
    table.write_text("query,document,gold\na,x,1\nb,y,0\nc,z,1\n")
    refused = only_line(run("train", config, "-s", f"data.train.path={table}"))
    assert refused.count("gold") == 1
    assert 'columns: {"label": null}' in refused
    table.write_text("query,document\na,x\nb,y\n")
    assert 'settings.loss: "info_nce"' in only_line(run("train", config, "-s", f"data.train.path={table}"))
    write_json_lines(tmp_path / "some.jsonl", [{"query": "a", "documents": ["b", "c"], "labels": [1, number]}
                                               for number in (0, 1)])  # fmt: skip
    options = ("-s", f"data.train.path={tmp_path / 'some.jsonl'}", "-s", "settings.loss=ranknet", "--dry-run")
    done = run("train", config, *options)
    assert done.exit_code == 0, done.stderr
    assert done.output.count("dropped") == 1
    assert "dropped: 1 of 2 groups, whose labels are all equal; the first: " in done.stdout


def test_dry_run(run: Run, config: Path, tmp_path: Path) -> None:
    """Everything is read and counted, nothing is written, and the steps are those that the run then makes."""
    before = sorted(tmp_path.iterdir())
    done = run("train", config, "--dry-run", "--set", "settings.epochs=3")
    assert done.exit_code == 0, done.stderr
    assert "nothing was written" in done.stdout
    assert sorted(tmp_path.iterdir()) == before
    (steps,) = re.findall(r"^steps: (\d+) in 3 epochs", done.stdout, re.MULTILINE)
    made = run("train", config, "--quiet", "--set", "settings.epochs=3")
    assert f"\n{steps} steps, " in made.stdout


def test_options_change_the_file(run: Run, config: Path, tmp_path: Path) -> None:
    """--set and --output go before the file; an output folder is seen from where the program runs."""
    folder = tmp_path / "a: b, 'c'"
    done = run("train", config, "-s", "settings.max_steps=1", "-s", "data.dev=[]", "-o", folder, "--quiet")
    assert done.exit_code == 0, done.stderr
    assert read_config(folder / "train.yaml").settings.max_steps == 1
    assert "step 0" not in done.stdout
    assert "1 steps" in done.stdout
    assert not (tmp_path / "out").exists()


def test_the_example_is_printed(run: Run) -> None:
    """--example needs no file, and is the documented one."""
    done = run("train", "--example")
    assert (done.exit_code, done.stdout) == (0, example_text())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "CONFIG is missing"),
        (["absent.yaml"], "absent.yaml: no such file"),
        (["{}", "--set", "settings.epoch=1"], "did you mean settings.epochs?"),
        (["{}", "--set", "settings.epochs"], "not KEY=VALUE"),
        (["{}", "--set", "data.train.path=none.jsonl"], "none.jsonl: no such file"),
        (["{}", "--set", "settings.loss=nothing"], "loss='nothing' is none of"),
        (["{}", "--set", "data.dev.path=train.jsonl", "--set", "data.dev_share=0.5"], "dev_share goes without dev"),
    ],
)
def test_what_is_refused_is_one_line(run: Run, config: Path, arguments: list[str], reason: str) -> None:
    """Exit code 2, and what is wrong."""
    done = run("train", *(argument.replace("{}", str(config)) for argument in arguments))
    assert done.exit_code == 2, done.stdout
    assert reason in only_line(done)


def test_another_run_in_the_folder(run: Run, config: Path) -> None:
    """Other settings do not go on in it: exit code 1; --no-resume begins anew."""
    assert run("train", config, "--quiet").exit_code == 0
    refused = run("train", config, "--quiet", "--set", "settings.seed=1")
    assert refused.exit_code == 1
    assert "belongs to another run" in only_line(refused)
    anew = run("train", config, "--quiet", "--set", "settings.seed=1", "--no-resume")
    assert anew.exit_code == 0, anew.stderr


def wait_for_step(process: fork_server.Popen, least: int) -> int:
    """Read what the program says until an evaluation at step `least` or later, and return that step."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step ") and (step := int(line.split()[1].strip(":").replace(",", ""))) >= least:
            return step
    pytest.fail(f"the program ended: {process.communicate()[1]}")


@pytest.fixture
def slow(interruptible: None, config: Path) -> Iterator[fork_server.Popen]:
    """The program at work on more steps than it will make."""
    arguments = ("train", config, "--quiet", "--set", "settings.epochs=300", "--set", "settings.evaluate_every=5")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = fork_server.Popen(command(*arguments), env=environment, **PIPES)
    yield process
    process.kill()
    process.communicate()


def test_stopped_by_hand(slow: fork_server.Popen, tmp_path: Path) -> None:
    """Ctrl-C ends with code 130, the checkpoint and the command that goes on; that command does go on."""
    wait_for_step(slow, 10)
    slow.send_signal(signal.SIGINT)
    _, errors = slow.communicate(timeout=60)
    assert slow.returncode == 130, errors
    (line,) = (line for line in errors.splitlines() if line.startswith("secondpass: "))
    assert f"the last checkpoint is {tmp_path / 'out' / 'checkpoints' / 'step-'}" in line
    assert f"`secondpass train {tmp_path / 'out' / 'train.yaml'}` goes on from it" in line
    assert "Traceback" not in errors
    with fork_server.Popen(command("train", tmp_path / "out" / "train.yaml"), **PIPES) as again:
        assert wait_for_step(again, 0) > 10
        again.kill()
