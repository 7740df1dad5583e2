"""The whole recipe on tiny models and a few dozen texts: killed in the middle, gone on with, and measured."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.pocket import stages
from recipes.pocket.__main__ import app
from recipes.pocket.stages import LOG, MODELS, PACKAGE, Recipe, file_digest, is_finished, logged
from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.training import read_groups
from tests import fork_server
from tests.recipes.small_data import write_all, write_teachers

SHARE = 0.01
TRAININGS = ("student", "mini-states", "mini")
PATIENCE = 600


def _embedded() -> list[str]:
    files = [*(path for name, _ in MODELS.values() for path in sorted((PACKAGE / name).glob("*"))), LOG]
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files if path.is_file()]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Where everything is; the teachers are tiny."""
    folder = tmp_path_factory.mktemp("pocket")
    write_teachers(folder / "work")
    data = write_all(folder / "data")
    return Recipe(data, folder / "work", share=SHARE, output=folder / "made", log=folder / "log.jsonl")


def _wait_for(process: fork_server.Popen, pattern: str, folder: Path) -> None:
    """Wait until a file of that name is there."""
    end = time.monotonic() + PATIENCE
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def killed(recipe: Recipe) -> dict[str, bytes]:
    """Start the one command, kill it in the student's training; give what it left that must not be made again."""
    options = {"data": recipe.data, "work": recipe.work, "output": recipe.output, "log": recipe.log, "share": SHARE}
    command = [
        sys.executable,
        "-m",
        "recipes.pocket",
        "train",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    root = Path(__file__).parents[2]
    with fork_server.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        _wait_for(process, "student/checkpoints/step-*/manifest.json", recipe.work)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not is_finished(recipe.work / "student")
    return {
        name: (recipe.work / name).read_bytes()
        for name in ("start/model.safetensors", "student.jsonl", "tokenizer.json")
    }


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
    for name in (*TRAININGS, "start", "mini-start"):
        assert is_finished(made.work / name), name
    for name in TRAININGS:
        log = [json.loads(line) for line in (made.work / name / "training.jsonl").read_text().splitlines()]
        steps = [entry["step"] for entry in log if entry["kind"] == "step"]
        assert steps == sorted(set(steps)), name


def test_the_log_has_what_was_published(made: Recipe) -> None:
    """Each stage's settings, development figures and digests, in order; those of the output are the files'."""
    entries = {entry["stage"]: entry for entry in logged(made.log)}
    assert list(entries) == ["start", "student", "pocket", "mini-states", "mini", "pocket_mini"]
    for name, _ in MODELS.values():
        for file, digest in entries[name]["made"]["files"].items():
            assert file_digest(made.output / name / file) == digest
    for name, _ in MODELS.values():
        assert 0 <= entries[name]["made"]["development"]["mean"] <= 1
        assert entries[name]["given"]["left_out"]["boolq"] == {"documents": 0, "queries": 0}
    assert entries["student"]["given"]["start"] == entries["start"]["made"]["weights"]


@pytest.mark.parametrize(("name", "layers"), [("pocket", 6), ("pocket_mini", 2)])
def test_the_finished_models_rank(made: Recipe, name: str, layers: int) -> None:
    """The output folders are whole models: compact weights, calibrated head, their own tokenizer."""
    encoder = CrossEncoder(str(made.output / name), device="cpu")
    ranking = encoder.rank("where is the cat", ["the cat sat", "a bank in london"])
    assert sorted(hit["corpus_id"] for hit in ranking) == [0, 1]
    assert encoder.precision == "auto"
    assert encoder.config.num_hidden_layers == layers


def test_groups_have_a_teacher_and_labels(made: Recipe) -> None:
    """The student's come from bi-encoders, pocket-mini's from pocket; both know what was judged."""
    ours, states, small = (list(read_groups(made.work / f"{name}.jsonl")) for name in TRAININGS)
    assert all(group.teaching is not None and len(group) >= 2 for group in (*ours, *small))
    assert {group.teaching.label_weight for group in ours if group.teaching} == {0.5, 1.0}
    assert {len(group) for group in states} <= {2}
    assert all(group.teaching is not None and len(set(group.teaching.scores)) > 1 for group in small)
    assert any(any(group.labels) for group in ours)
    assert any(any(group.labels) for group in small)


def test_finished_trainings_are_not_repeated(made: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call once more trains nothing and gives the same models and log."""
    before = made.log.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a training was repeated")

    monkeypatch.setattr(stages, "train", refuse)
    stages.make_all(made)
    assert made.log.read_bytes() == before


def test_a_work_folder_is_of_one_recipe(made: Recipe, tmp_path: Path) -> None:
    """Stages of another seed or share, or of nobody knows which recipe, are refused and not taken for this one's."""
    before = {file: file.stat().st_mtime_ns for file in made.work.rglob("*")}
    with pytest.raises(InvalidInput, match="seed is 17 there, 18 here"):
        stages.make_all(replace(made, seed=18))
    with pytest.raises(InvalidInput, match=f"share is {SHARE} there, 1.0 here"):
        stages.make_all(replace(made, share=1.0))
    assert {file: file.stat().st_mtime_ns for file in made.work.rglob("*")} == before
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"no recipe\.json"):
        stages.make_all(replace(made, work=tmp_path))


@pytest.mark.parametrize("given", [(), ("--output",), ("--log",)])
def test_a_trial_is_not_published(tmp_path: Path, given: tuple[str, ...]) -> None:
    """A share of the recipe needs a place of its own for the models and one for their log; else nothing is made."""
    options = [f"--data={tmp_path}", f"--work={tmp_path / 'work'}", f"--share={SHARE}"]
    found = CliRunner().invoke(app, ["train", *options, *(f"{name}={tmp_path / 'its'}" for name in given)])
    assert found.exit_code == 2
    assert "is a trial" in found.output
    assert not list(tmp_path.iterdir())


def test_the_log_tells_of_every_stage_and_its_own_groups(made: Recipe, tmp_path: Path) -> None:
    """A line that a stop has cost is made up for; what groups were made of is read beside them where it was kept."""
    copied = replace(made, work=tmp_path / "work", log=tmp_path / "log.jsonl")
    shutil.copytree(made.work, copied.work)
    before = {entry["stage"]: entry for entry in logged(copied.work / "log.jsonl")}
    for name in TRAININGS:
        kept = json.loads((copied.work / f"{name}.given.json").read_text())
        assert kept.items() <= before[name]["given"].items()
    (copied.work / "log.jsonl").unlink()
    (copied.work / "student.given.json").write_text('{"queries": "those that were drawn"}')
    (copied.work / "mini.given.json").unlink()
    stages.start(copied)
    stages.student(copied)
    stages.finish(copied, "student")
    stages.mini(copied)
    after = {entry["stage"]: entry for entry in logged(copied.work / "log.jsonl")}
    assert list(after) == ["start", "student", "pocket", "mini-states", "mini"]
    assert after["student"]["given"].pop("queries") == "those that were drawn"
    assert before["student"]["given"].pop("queries")
    assert before["student"]["given"].pop("pool")
    assert after == {name: before[name] for name in after}


def test_the_companion_is_made_of_the_pocket_there_is(made: Recipe, tmp_path: Path) -> None:
    """What the one command makes behind pocket, without the work folder; another pocket than the log's is refused."""
    own = replace(made, work=tmp_path / "work", output=tmp_path / "made", log=tmp_path / "log.jsonl")
    shutil.copytree(made.output / "pocket", own.output / "pocket")
    with pytest.raises(InvalidInput, match="has no pocket that log="):
        stages.make_companion(own)
    shutil.copy(made.log, own.log)
    options = {"data": own.data, "work": own.work, "output": own.output, "log": own.log, "share": SHARE}
    ran = CliRunner().invoke(app, ["train", "--companion", *(f"--{name}={value}" for name, value in options.items())])
    assert ran.exit_code == 0, ran.output
    ours, theirs = ({entry["stage"]: entry for entry in logged(log)} for log in (own.log, made.log))
    assert list(ours) == list(theirs)
    assert all(ours[name] == theirs[name] for name in ("start", "student", "pocket"))
    # a training's last bits are another matter
    assert ours["mini-states"]["given"] == theirs["mini-states"]["given"]
    assert stages.files_of(own.output / "pocket_mini") == ours["pocket_mini"]["made"]["files"]
    (own.output / "pocket" / "tokenizer.json").write_text("{}")
    (own.work / "log.jsonl").unlink()
    with pytest.raises(InvalidInput, match="has no pocket that log="):
        stages.make_companion(own)


def test_models_are_compared_and_measured(made: Recipe) -> None:
    """Both commands print a row for each ranker or set; what was scored is not scored again."""
    options = ["--data", str(made.data), "--work", str(made.work)]
    model = str(made.output / "pocket")
    runner = CliRunner()
    compared = runner.invoke(
        app, ["compare", *options, "--models", f"{model},{made.output / 'pocket_mini'}", "--limit", "2"]
    )
    assert compared.exit_code == 0, compared.output
    assert all(word in compared.output for word in ("BM25", "minilm + e5", "climate-fever"))
    for _ in range(2):
        found = runner.invoke(app, ["evaluate", *options, "--models", model, "--sets", "trecqa", "--limit", "1"])
        assert found.exit_code == 0, found.output
        assert "trecqa" in found.output
    (kept,) = (made.work / "scores").glob("*-all/trecqa-*.jsonl")
    assert len(kept.read_text().splitlines()) == 1
