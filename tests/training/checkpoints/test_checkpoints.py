"""A run written down and read back; the whole story is in `test_trainer` and `test_killed_runs`."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secondpass import CrossEncoder
from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.checkpoints import checkpoints
from secondpass.training.checkpoints.checkpoints import (
    LATER_PARTS,
    Checkpoint,
    Checkpoints,
    forget_checkpoints,
    other_run,
)
from secondpass.training.losses.ranking import MarginMSE
from secondpass.training.measuring.before_after import DevRanking
from secondpass.training.running.plan import planned
from secondpass.training.running.run_watch import FREE, LATER, RunLock, identity_of
from secondpass.training.settings import TrainingSettings
from secondpass.training.weights.optimisation import fingerprint_of_weights
from secondpass.windows import Windows
from tests.training.toy_run import SETTINGS, run, toy_groups


class OwnLoss:
    """A loss without a `repr` of its own: Python's says where it is in memory."""

    labels, shortest, needs_contrast = "score", 1, False

    def __call__(self, logits, labels, mask):
        """The labels do not matter."""
        return logits[mask].square()


def test_weights_have_a_fingerprint(tiny_folder, own_tiny):
    """The same for the same weights, another when one number or one type differs."""
    first = fingerprint_of_weights(own_tiny.model)
    assert first == fingerprint_of_weights(CrossEncoder(tiny_folder, device="cpu").model)
    with torch.no_grad():
        own_tiny.model.classifier.bias += 1e-6
    assert fingerprint_of_weights(own_tiny.model) != first
    assert fingerprint_of_weights(own_tiny.model.to(torch.bfloat16)) != first


def test_identity_holds_what_decides_the_weights(own_tiny):
    """Every setting but the free ones, the groups, dev groups and measure, the model, what it reads, a loss object."""
    groups, dev = toy_groups(1, 10), DevRanking(toy_groups(2, 5))

    def identity(settings=SETTINGS, groups=groups, dev=dev, loss=None):
        return identity_of(planned(groups, own_tiny.tokens, settings), own_tiny, dev, loss)

    assert identity() == identity()
    assert set(identity()["settings"]) == set(TrainingSettings.__dataclass_fields__) - {*FREE, *LATER}
    assert identity(replace(SETTINGS, keep=9)) == identity()
    assert identity(replace(SETTINGS, seed=9)) != identity()
    assert identity(groups=toy_groups(1, 11)) != identity()
    assert identity(dev=DevRanking(toy_groups(3, 5))) != identity()
    assert identity(dev=DevRanking(toy_groups(2, 5), "RR@10")) != identity()
    assert identity(loss=MarginMSE()) == identity(loss=MarginMSE()) != identity()
    assert identity(loss=MarginMSE(pairs="first")) != identity(loss=MarginMSE())
    assert identity(loss=OwnLoss()) == identity(loss=OwnLoss()) != identity()
    before = identity()
    own_tiny.max_length = 32
    assert identity()["max_length"] == 32 != before["max_length"]
    own_tiny.max_length = None
    assert identity() == before
    own_tiny.truncation = "only_document"
    assert (identity()["truncation"], before["truncation"]) == ("only_document", "longest_first")
    own_tiny.truncation = Windows(16)
    assert identity() == identity() != before


def test_settings_that_came_later_do_not_break_older_checkpoints(own_tiny):
    """At the value that stands for what was done before they are no part of the identity; at any other they are."""
    groups = toy_groups(1, 10)
    for name, before in LATER.items():
        assert getattr(TrainingSettings(), name) == before
    changed = replace(SETTINGS, minutes=5.0, beta2=0.98)
    identity = identity_of(planned(groups, own_tiny.tokens, changed), own_tiny, None, None)
    assert (identity["settings"]["minutes"], identity["settings"]["beta2"]) == (5.0, 0.98)


def test_what_older_versions_did_not_write_does_not_break_their_runs(own_tiny):
    """Parts that an older identity lacks are no difference; those that it has are, and any other that it lacks."""
    here = identity_of(planned(toy_groups(1, 10), own_tiny.tokens, SETTINGS), own_tiny, None, None)
    assert set(LATER_PARTS) < set(here)
    old = {name: value for name, value in here.items() if name not in LATER_PARTS}
    assert other_run(old, here) == []
    assert other_run({**here, "truncation": "error"}, here) == ['truncation: "error" there, "longest_first" here']
    assert other_run({**old, "steps": 1}, here) == [f"steps: 1 there, {here['steps']} here"]
    assert other_run({name: value for name, value in here.items() if name != "groups"}, here)
    assert other_run(None, here)


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


IDENTITY = {"settings": {"learning_rate": 2e-5, "seed": 1}, "data": "sha256:abc"}


def checkpoint(step: int, size: int = 4) -> Checkpoint:
    """One whose numbers tell its step."""
    tensors = {
        "model": {"weight": torch.full((size,), float(step)), "step": torch.tensor(step)},
        "random": {"torch": torch.get_rng_state()},
    }
    return Checkpoint(step, tensors, {"position": [step, 0.1], "best": None})


def in_folder(folder, keep: int = 2, identity=IDENTITY) -> Checkpoints:
    """Give the checkpoints of a run."""
    return Checkpoints(folder, keep, identity)


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def newest_step(folder: Path) -> int | None:
    """Read the newest one and give its step."""
    found = in_folder(folder).newest()
    return None if found is None else found.step


def test_nothing_yet(tmp_path):
    """No folder, or an empty one: no checkpoint, and none is made."""
    assert in_folder(tmp_path / "run").newest() is None
    assert not (tmp_path / "run").exists()
    assert in_folder(tmp_path).newest() is None


def test_comes_back_exactly(tmp_path):
    """Tensors of every kind in their sets, JSON to the last bit."""
    weight = torch.randn(5, 3)
    tensors = {
        "model": {"a": weight, "tied": weight, "t": weight.T, "half": weight.to(torch.bfloat16), "0d": torch.tensor(7)},
        "best": {},
        "average_2": {"ü": torch.randn(2, dtype=torch.float64)},
    }
    state = {"loss": 0.1 + 0.2, "none": None, "nan": [float("-inf")], "nested": {"text": "\ud800é", "huge": 2**100}}
    path = in_folder(tmp_path / "a" / "b").save(Checkpoint(7, tensors, state))
    assert path == tmp_path / "a" / "b" / "step-00000007"
    found = in_folder(tmp_path / "a" / "b").newest()
    assert found is not None
    assert (found.step, found.state) == (7, state)
    assert found.tensors.keys() == tensors.keys()
    for name, stored in tensors.items():
        assert found.tensors[name].keys() == stored.keys()
        for key, tensor in stored.items():
            assert found.tensors[name][key].dtype == tensor.dtype
            assert torch.equal(found.tensors[name][key], tensor)


def test_files_are_no_pickles_and_readable_by_others(tmp_path):
    """safetensors and JSON, with the rights that the umask gives."""
    before = os.umask(0o022)
    try:
        path = in_folder(tmp_path).save(checkpoint(1))
    finally:
        os.umask(before)
    assert names(path) == ["manifest.json", "model.safetensors", "random.safetensors", "state.json"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o644}
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_the_last_are_kept(tmp_path):
    """By step, also beyond eight digits."""
    run = in_folder(tmp_path, keep=3)
    for step in (0, 9, 10, 99_999_999, 100_000_000):
        run.save(checkpoint(step))
    assert names(tmp_path) == ["step-00000010", "step-100000000", "step-99999999"]
    assert newest_step(tmp_path) == 100_000_000


def test_other_files_of_the_folder_stay(tmp_path):
    """A model, the lock, a log, what a save of a model has left, a file that is called like a checkpoint."""
    (tmp_path / "model.safetensors").touch()
    (tmp_path / ".unfinished-abc").mkdir()
    (tmp_path / "step-00000000").touch()
    (tmp_path / "step-best").mkdir()
    run = in_folder(tmp_path, keep=1)
    for step in (1, 2):
        run.save(checkpoint(step))
    assert names(tmp_path) == [
        ".unfinished-abc",
        "model.safetensors",
        "step-00000000",
        "step-00000002",
        "step-best",
    ]


def test_the_same_step_again(tmp_path):
    """The later one counts, whatever is kept."""
    run = in_folder(tmp_path, keep=1)
    run.save(checkpoint(4))
    run.save(Checkpoint(4, {}, {"again": True}))
    found = in_folder(tmp_path).newest()
    assert found is not None
    assert found.state == {"again": True}
    assert names(tmp_path) == ["step-00000004"]


def test_one_that_was_being_replaced_counts(tmp_path):
    """A kill between the two renames leaves the old one under another name: it is read, and taken back by a save."""
    run = in_folder(tmp_path, keep=1)
    run.save(checkpoint(4)).rename(tmp_path / ".replaced-step-00000004")
    assert newest_step(tmp_path) == 4
    in_folder(tmp_path, keep=2).save(checkpoint(5))
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_stale_leftovers_are_swept(tmp_path):
    """What killed saves and removals have left goes with the next save."""
    for name in (".unfinished-step-00000001-0a1b2c3d", ".removed-step-00000001", ".replaced-step-00000003"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / "step-00000003").mkdir()
    run = in_folder(tmp_path)
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        run.newest()
    run.save(checkpoint(2))
    assert names(tmp_path) == ["step-00000002"]


def damage(path: Path, how: str) -> None:
    """Do to a checkpoint what disks and people do."""
    model = path / "model.safetensors"
    if how == "one bit":
        content = bytearray(model.read_bytes())
        content[-1] ^= 1
        model.write_bytes(content)
    elif how == "cut":
        os.truncate(model, model.stat().st_size // 2)
    elif how == "zeros":
        model.write_bytes(bytes(model.stat().st_size))
    elif how == "missing":
        model.unlink()
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "manifest cut":
        os.truncate(path / "manifest.json", 100)
    elif how == "state":
        (path / "state.json").write_text("{}")
    elif how == "folder for a file":
        model.unlink()
        model.mkdir()
    elif how == "renamed":
        path.rename(path.with_name("step-00000099"))


@pytest.mark.parametrize(
    "how",
    ["one bit", "cut", "zeros", "missing", "no manifest", "manifest cut", "state", "folder for a file", "renamed"],
)
def test_damaged_one_is_passed_over(tmp_path, caplog, how):
    """With a warning that names it; the run goes on from the one before, and the damaged one goes."""
    run = in_folder(tmp_path)
    run.save(checkpoint(10))
    damage(run.save(checkpoint(20)), how)
    again = in_folder(tmp_path)
    found = again.newest()
    assert found is not None
    assert found.step == 10
    assert torch.equal(found.tensors["model"]["weight"], torch.full((4,), 10.0))
    assert "is passed over: " in caplog.text
    again.save(checkpoint(15))
    assert names(tmp_path) == ["step-00000010", "step-00000015"]


def test_damaged_ones_do_not_push_out_whole_ones(tmp_path):
    """With keep=1 a damaged later checkpoint does not cost the one just saved."""
    run = in_folder(tmp_path, keep=2)
    run.save(checkpoint(10))
    damage(run.save(checkpoint(20)), "cut")
    again = in_folder(tmp_path, keep=1)
    assert again.newest() is not None
    again.save(checkpoint(11))
    assert names(tmp_path) == ["step-00000011"]


def test_only_damaged_ones(tmp_path):
    """Beginning anew would throw away what the user believes to have: it is for them to say."""
    run = in_folder(tmp_path)
    damage(run.save(checkpoint(10)), "cut")
    damage(run.save(checkpoint(20)), "state")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints in .* is whole"):
        in_folder(tmp_path).newest()


def test_other_identity(tmp_path):
    """The message names key and both values."""
    in_folder(tmp_path).save(checkpoint(10))
    other = {"settings": {"learning_rate": 1e-5, "seed": 1}, "data": "sha256:abc"}
    with pytest.raises(CheckpointError, match=r"another run: settings\.learning_rate: 2e-05 there, 1e-05 here$"):
        in_folder(tmp_path, identity=other).newest()
    with pytest.raises(CheckpointError, match=r"settings\.learning_rate: 2e-05 there, 1e-05 here$"):
        in_folder(tmp_path, identity=other).save(checkpoint(11))
    assert newest_step(tmp_path) == 10


def test_identity_is_taken_when_it_is_made(tmp_path):
    """And compared as JSON: tuples are lists, 1 is 1.0."""
    identity = {"targets": ("a", "b"), "alpha": 1}
    run = in_folder(tmp_path, identity=identity)
    identity["alpha"] = 2
    run.save(checkpoint(1))
    found = in_folder(tmp_path, identity={"targets": ["a", "b"], "alpha": 1.0}).newest()
    assert found is not None


def test_later_checkpoints_are_not_written_over(tmp_path):
    """A run that began anew in the folder of a longer one is told so."""
    in_folder(tmp_path).save(checkpoint(120))
    with pytest.raises(CheckpointError, match="holds step 120 already, later than step 10"):
        in_folder(tmp_path).save(checkpoint(10))
    assert names(tmp_path) == ["step-00000120"]


def test_other_versions_are_told(tmp_path, caplog, monkeypatch):
    """Another torch may round otherwise: the run goes on, with a warning."""
    monkeypatch.setattr(checkpoints, "current_versions", lambda: {"torch": "1.0"})
    in_folder(tmp_path).save(checkpoint(1))
    monkeypatch.undo()
    assert newest_step(tmp_path) == 1
    assert 'torch: "1.0" there' in caplog.text


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Checkpoint(-1, {}, {}), "step=-1 is not a whole number"),
        (Checkpoint(True, {}, {}), "step=True"),
        (Checkpoint(1.5, {}, {}), r"step=1\.5"),  # type: ignore[arg-type]
        (Checkpoint(1, {"../x": {}}, {}), r"tensors has the set '\.\./x'"),
        (Checkpoint(1, {"model": {"a": 1}}, {}), r"tensors\['model'\]\['a'\] is int"),  # type: ignore[dict-item]
        (Checkpoint(1, {"model": torch.ones(1)}, {}), r"tensors\['model'\] is Tensor"),  # type: ignore[dict-item]
        (Checkpoint(1, [], {}), "tensors is list"),  # type: ignore[arg-type]
        (Checkpoint(1, {}, {"a": [torch.ones(1)]}), r"state\.a\[0\] is Tensor"),
        (Checkpoint(1, {}, {"a": {1: 2}}), r"state\.a has the key 1"),
    ],
)
def test_refused(tmp_path, made, words):
    """What would not come back is refused before anything is written."""
    with pytest.raises(InvalidInput, match=words):
        in_folder(tmp_path / "run").save(made)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("keep", "identity"), [(0, {}), (1.5, {}), (True, {}), (1, {"a": object()}), (1, {1: 2})])
def test_refused_arguments(tmp_path, keep, identity):
    """keep is a positive int, identity JSON."""
    with pytest.raises(InvalidInput):
        Checkpoints(tmp_path, keep, identity)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_that_cannot_be(tmp_path, place):
    """A file in the way: CheckpointError with the folder's name."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=f"step 1 cannot be saved to {tmp_path}/{place}"):
        in_folder(tmp_path / place).save(checkpoint(1))
    assert (tmp_path / "file").read_text() == "x"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_full_disk(small_disk):
    """The message names folder and reason, nothing is left of the try, the last checkpoint is untouched and goes on."""
    folder = small_disk / "run"
    run = in_folder(folder)
    run.save(checkpoint(1, 50_000))
    (small_disk / "other").write_bytes(bytes(700_000))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=rf"step 2 cannot be saved to {folder}: .*No space left"):
        run.save(checkpoint(2, 100_000))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert names(folder) == ["step-00000001"]
    assert newest_step(folder) == 1
    (small_disk / "other").unlink()
    run.save(checkpoint(3, 100_000))
    assert names(folder) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("limit", [10, 300, 3_000])
def test_file_size_limit(tmp_path, limit):
    """The same under a limit of the process's own, whichever of the files meets it."""
    run = in_folder(tmp_path)
    run.save(checkpoint(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError, match=r"step 2 cannot be saved to .*File too large"):
            run.save(checkpoint(2, 10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-00000001"]
    assert newest_step(tmp_path) == 1
    run.save(checkpoint(2, 10_000))
    assert newest_step(tmp_path) == 2


def test_interrupt_while_saving(tmp_path, monkeypatch):
    """Ctrl-C in the middle leaves nothing behind."""
    run = in_folder(tmp_path)
    run.save(checkpoint(1))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.save(checkpoint(2))
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    run.save(checkpoint(2))
    assert newest_step(tmp_path) == 2


def test_threads(tmp_path):
    """Saves of several threads wait for each other."""
    run = in_folder(tmp_path, keep=1)
    threads = [threading.Thread(target=run.save, args=(checkpoint(5),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert newest_step(tmp_path) == 5
    assert names(tmp_path) == ["step-00000005"]
