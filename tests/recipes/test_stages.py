"""The whole recipe on a tiny student and a few dozen texts: killed in the middle, gone on with, and measured."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModel

from recipes.pocket import stages
from recipes.pocket.evaluate import Scorer, evaluate
from recipes.pocket.stages import POCKET, Recipe, is_finished
from secondpass import CrossEncoder
from secondpass.training import read_groups
from tests import fork_server
from tests.recipes.small_data import write_all

SHARE = 0.0015
TRAININGS = ("first", "round-1", "round-2", "round-3", "judged", "masked", "voted")
PATIENCE = 600


def _embedded() -> list[str]:
    files = [path for path in sorted(POCKET.iterdir()) if path.is_file()]
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]


def _weights(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> Recipe:
    """Where everything is; the bi-encoder is the tiny model without its head."""
    folder = tmp_path_factory.mktemp("pocket")
    base = folder / "base"
    shutil.copytree(tiny_folder, base)
    (base / "model.safetensors").unlink()
    AutoModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained(base)
    data = write_all(folder / "data")
    return Recipe(data, folder / "work", base, ("minilm",), SHARE, output=folder / "made")


def _wait_for(process: fork_server.Popen, pattern: str, folder: Path) -> None:
    """Wait until a file of that name is there."""
    end = time.monotonic() + PATIENCE
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def killed(recipe: Recipe) -> dict[str, bytes]:
    """Start the one command, kill it in the second stage; give what it left that must not be made again."""
    options = {"data": recipe.data, "work": recipe.work, "base": recipe.base, "output": recipe.output}
    arguments = [f"--{name}={value}" for name, value in (options | {"teachers": "minilm", "share": SHARE}).items()]
    command = [sys.executable, "-m", "recipes.pocket", "train", *arguments]
    root = Path(__file__).parents[2]
    with fork_server.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        _wait_for(process, "round-1/checkpoints/step-*/manifest.json", recipe.work)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not is_finished(recipe.work / "second")
    names = ("first/model.safetensors", "first.jsonl", "round-1.jsonl", "tokenizer.json")
    return {name: (recipe.work / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def made(recipe: Recipe, killed: dict[str, bytes]) -> Recipe:
    """The same call again, to the end."""
    before = _embedded()
    stages.make_all(recipe)
    assert _embedded() == before
    return recipe


def test_a_killed_run_goes_on(made: Recipe, killed: dict[str, bytes]) -> None:
    """What was finished stays as it was, the training that was killed goes on from its checkpoint, the rest is made."""
    for name, content in killed.items():
        assert (made.work / name).read_bytes() == content, name
    for name in (*TRAININGS, "start", "second", "student"):
        assert is_finished(made.work / name), name
    for name in TRAININGS:
        log = [json.loads(line) for line in (made.work / name / "training.jsonl").read_text().splitlines()]
        steps = [entry["step"] for entry in log if entry["kind"] == "step"]
        assert steps == sorted(set(steps)), name


def test_the_finished_model_ranks(made: Recipe) -> None:
    """The output folder is a whole model: int8 weights, calibrated head, the trimmed tokenizer."""
    encoder = CrossEncoder(str(made.output), device="cpu")
    ranking = encoder.rank("where is the cat", ["the cat sat", "a bank in london"])
    assert sorted(hit["corpus_id"] for hit in ranking) == [0, 1]
    assert encoder.precision == "auto"
    student = CrossEncoder(str(made.work / "student"), device="cpu").model.state_dict()
    assert not (encoder.model.classifier.weight == student["classifier.weight"]).all()


def test_groups_have_a_teacher_and_labels(made: Recipe) -> None:
    """Those of the first stage come from bi-encoders, those of a round from the student; all are read back."""
    first, second = (list(read_groups(made.work / f"{name}.jsonl")) for name in ("first", "round-1"))
    assert all(group.teaching is not None and len(group) >= 2 for group in (*first, *second))
    assert {group.teaching.label_weight for group in first if group.teaching} == {0.5}
    assert {(group.teaching.weight, group.teaching.label_weight) for group in second if group.teaching} == {
        (1.0, 0.5),
        (0.5, 1.0),
    }
    assert any(any(group.labels) for group in first)


def test_finished_trainings_are_not_repeated(made: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call once more trains nothing and gives the same model."""
    before = _weights(made.output)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a training was repeated")

    monkeypatch.setattr(stages, "train", refuse)
    stages.make_all(made)
    assert _weights(made.output) == before


def test_stages_of_the_earlier_recipe_are_finished_ones(recipe: Recipe, made: Recipe, tmp_path: Path) -> None:
    """Folders "first" and "second" as its code wrote them, model and tokenizer, are gone on from."""
    for name in ("first", "second", "student"):
        shutil.copytree(made.work / ("start" if name == "first" else name), tmp_path / name)
    shutil.copy(made.work / "tokenizer.json", tmp_path)
    older = Recipe(recipe.data, tmp_path, recipe.base, ("minilm",), SHARE, output=tmp_path / "made")
    stages.make_all(older)
    assert not (tmp_path / "first.jsonl").exists()
    CrossEncoder(str(older.output), device="cpu").rank("a cat", ["the cat"])


def test_both_passes_are_measured(made: Recipe, tmp_path: Path) -> None:
    """By the library's evaluation; a second call takes what was scored; limited queries are spread."""
    with Scorer(str(made.output), fast=False, workers=1) as scorer:
        (row,) = evaluate(scorer, made.data, tmp_path, ("trecqa",), limit=4)

    def refuse(parts: list[object]) -> list[object]:
        assert parts == []
        return []

    assert (row.name, row.queries) == ("trecqa", 4)
    assert set(row.first) == set(row.second) == {"nDCG@10", "RR@10"}
    assert all(0 < value <= 1 for value in (*row.first.values(), *row.second.values()))
    assert len((tmp_path / "trecqa.jsonl").read_text().splitlines()) == 4
    assert [row] == list(evaluate(refuse, made.data, tmp_path, ("trecqa",), limit=4))  # type: ignore[arg-type]
