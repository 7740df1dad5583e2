"""Checkpoints of a run: folders that are whole or not there, whenever the process is killed or the disk is full.

A checkpoint is written beside the others under a name that nobody reads, every file synced, the manifest with sizes and
SHA-256 last, and renamed into place; only then older ones go.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.text import positive_int
from secondpass.training.checkpoints import manifests
from secondpass.training.checkpoints.manifests import (
    DamagedCheckpoint,
    Manifest,
    check_tensors,
    plain_json,
    read_json,
    read_tensors,
    remove_folder,
    sync,
    write_json,
    write_tensors,
)
from secondpass.training.checkpoints.state import (
    optimizer_state,
    random_state,
    restore_optimizer,
    restore_random_state,
    restore_scaler,
    restore_schedule,
    scaler_state,
    schedule_state,
)
from secondpass.training.data.groups import fingerprint
from secondpass.training.measuring.before_after import DevRanking
from secondpass.training.running.loop import Run
from secondpass.training.running.model_state import Ready
from secondpass.training.running.plan import Plan
from secondpass.training.running.processes import Processes
from secondpass.training.weights.averages import WeightAverages

logger = logging.getLogger(__name__)

STEP = re.compile(r"step-(\d{8,})")
SET = re.compile(r"[a-z][a-z0-9_]*")
STATE, TENSORS = "state.json", ".safetensors"
UNFINISHED, REPLACED, REMOVED = ".unfinished-", ".replaced-", ".removed-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    Attributes:
        step: steps done.
        tensors: named sets of named tensors, such as "model", "optimizer", "best", "average", "random"; on any device,
            on the CPU when they come back.
        state: JSON values, such as the position in the data and the best score.
    """

    step: int
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder; see `run_lock` for keeping other runs out of it.

    Args:
        folder: made when first saved to; nothing else of it is touched.
        keep: how many are kept; while one is saved there is one more.
        identity: JSON; what must be the same for a run to go on: settings, fingerprints of data and model.

    Raises:
        InvalidInput: `keep` is no positive int, `identity` no JSON.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int, identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._keep = positive_int(keep, "keep")
        self._identity: dict[str, Any] = plain_json(identity, "identity")
        self._damaged: set[int] = set()
        self._saving = threading.Lock()

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write `checkpoint`, then remove all but the last `keep`; give its folder. One of the same step is replaced.

        Raises:
            InvalidInput: something in it cannot be stored.
            CheckpointError: it cannot be written, or the folder holds another run's checkpoints or later ones; those
                before it are as they were.
        """
        state = _checked(checkpoint)
        with self._saving, self._named_errors(checkpoint.step):
            self._make_folder()
            self._sweep()
            self._refuse_foreign(checkpoint.step)
            place = self.folder / f"step-{checkpoint.step:08d}"
            unfinished = self.folder / f"{UNFINISHED}{place.name}-{secrets.token_hex(4)}"
            try:
                unfinished.mkdir()
                _write(unfinished, checkpoint, state)
                manifests.write_manifest(unfinished, checkpoint.step, self._identity)
                sync(unfinished)
                self._put_in_place(unfinished, place)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            self._damaged.discard(checkpoint.step)
            self._remove_older()
        return place

    def newest(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; None if there never was one.

        A damaged one is passed over with a warning, and goes when the next is saved.

        Raises:
            CheckpointError: it belongs to a run with another identity (the message names what differs), or there are
                only damaged ones, or they cannot be read.
        """
        self._damaged.clear()
        found = self._found()
        for step, path in sorted(found.items(), reverse=True):
            try:
                manifest = manifests.read_manifest(path)
                self._refuse_other_identity(path, manifest)
                if manifest.step != step:
                    raise DamagedCheckpoint(f"it is of step {manifest.step}")
                return _read(path, manifest)
            except PermissionError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
            except (DamagedCheckpoint, OSError, ValueError, KeyError, SafetensorError) as error:
                if isinstance(error, CheckpointError) and not isinstance(error, DamagedCheckpoint):
                    raise
                logger.warning("%s is passed over: %s", path, " ".join(str(error).split()))
                self._damaged.add(step)
        if found:
            raise CheckpointError(
                f"none of the {len(found)} checkpoints in {self.folder} is whole: to begin anew, empty the folder"
            )
        return None

    @contextmanager
    def _named_errors(self, step: int) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except (OSError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be saved to {self.folder}: {reason}; those before it are as "
                "they were"
            ) from error

    def _found(self) -> dict[int, Path]:
        """All checkpoints by step, damaged ones too; one that was being replaced counts until the new one is there."""
        made: dict[int, Path] = {}
        if not self.folder.is_dir():
            return made
        for path in sorted(self.folder.iterdir()):  # ".replaced-" sorts before "step-"
            match = STEP.fullmatch(path.name.removeprefix(REPLACED))
            if match and path.is_dir():
                made[int(match[1])] = path
        return made

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            sync(self.folder.absolute().parent)

    def _sweep(self) -> None:
        """Remove what killed saves have left, and take back what one had set aside."""
        for path in list(self.folder.iterdir()):
            for prefix in (UNFINISHED, REMOVED):
                # whatever else begins so is not ours
                if path.name.startswith(f"{prefix}step-"):
                    shutil.rmtree(path, ignore_errors=True)
            name = path.name.removeprefix(REPLACED)
            if name != path.name and STEP.fullmatch(name):
                place = self.folder / name
                if place.exists():
                    remove_folder(path, self.folder / f"{REMOVED}{name}")
                else:
                    path.rename(place)

    def _refuse_foreign(self, step: int) -> None:
        """Raise rather than write among checkpoints that are not this run's past."""
        for other, path in self._found().items():
            if other in self._damaged:
                continue
            try:
                self._refuse_other_identity(path, manifests.read_manifest(path))
            except DamagedCheckpoint:
                self._damaged.add(other)
                continue
            if other > step:
                raise CheckpointError(
                    f"{self.folder} holds step {other} already, later than step {step}: go on from there, or empty the "
                    "folder"
                )

    def _refuse_other_identity(self, path: Path, manifest: Manifest) -> None:
        found = manifests.differences(manifest.identity, self._identity)
        if found:
            raise CheckpointError(f"{path} belongs to another run: {manifests.listed(found)}")

    def _put_in_place(self, unfinished: Path, place: Path) -> None:
        replaced = self.folder / f"{REPLACED}{place.name}"
        again = place.exists()
        if again:
            place.rename(replaced)
        try:
            unfinished.rename(place)
        except BaseException:
            if again:
                replaced.rename(place)
            raise
        sync(self.folder)
        if again:
            self._remove(replaced, place.name)

    def _remove_older(self) -> None:
        found = self._found()
        whole = sorted(set(found) - self._damaged)
        for step in sorted({*whole[: -self._keep], *(self._damaged & set(found))}):
            self._remove(found[step], found[step].name)
        self._damaged.clear()

    def _remove(self, path: Path, name: str) -> None:
        """The new checkpoint is in place: what cannot be removed is no reason to stop."""
        try:
            remove_folder(path, self.folder / f"{REMOVED}{name}")
        except OSError as error:
            logger.warning("%s cannot be removed: %s", path, error)


def _checked(checkpoint: Checkpoint) -> dict[str, Any]:
    step = checkpoint.step
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise InvalidInput(f"step={step!r} is not a whole number from 0 on")
    if not isinstance(checkpoint.tensors, Mapping):
        raise InvalidInput(f"tensors is {type(checkpoint.tensors).__name__}, not a mapping of sets of tensors")
    for name, tensors in checkpoint.tensors.items():
        if not isinstance(name, str) or not SET.fullmatch(name):
            raise InvalidInput(f"tensors has the set {name!r}: names are lower-case letters, digits and underscores")
        check_tensors(tensors, f"tensors[{name!r}]")
    state: dict[str, Any] = plain_json(checkpoint.state, "state")
    return state


def _write(folder: Path, checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
    write_json(folder / STATE, state)
    for name, tensors in checkpoint.tensors.items():
        path = folder / f"{name}{TENSORS}"
        write_tensors(path, tensors)
        # safetensors makes files that only their owner can read
        path.chmod((folder / STATE).stat().st_mode)
    for path in folder.iterdir():
        sync(path)


def _read(path: Path, manifest: Manifest) -> Checkpoint:
    manifests.check_files(path, manifest)
    changed = manifests.differences(manifest.versions, manifests.current_versions())
    if changed:
        logger.warning("%s: the run goes on, but may not end as it would have: %s", path, manifests.listed(changed))
    names = [name.removesuffix(TENSORS) for name in manifest.files if name.endswith(TENSORS)]
    tensors = {name: read_tensors(path / f"{name}{TENSORS}") for name in names}
    return Checkpoint(manifest.step, tensors, read_json(path / STATE))


# ---- A run to a checkpoint and back: everything that makes the rest of it the same.
FOLDER = "checkpoints"
# Settings that a run may change on its way: they decide what is written and how much memory is used, not the weights.
FREE = ("keep", "log_every", "save_every", "micro_batch_tokens")
# Settings that came later, with the value that stands for what was done before: where they have it they are left out,
# so that a checkpoint of an older version goes on.
LATER: Mapping[str, object] = {"minutes": None, "beta2": 0.999}


class Remembering(Protocol):
    """What beside the weights a run remembers."""

    def as_json(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        ...


def identity_of(plan: Plan, model: torch.nn.Module, device: torch.device, evaluator: Any) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, data, first weights, and how it is measured."""
    settings = {
        name: value
        for name, value in plan.settings.as_json().items()
        if name not in FREE and (name not in LATER or value != LATER[name])
    }
    return {
        "settings": settings,
        "groups": fingerprint(plan.groups),
        "dev": fingerprint(evaluator.groups) if isinstance(evaluator, DevRanking) else type(evaluator).__name__,
        "model": fingerprint_of_weights(model),
        "device": device.type,
        "steps": plan.total,
    }


def fingerprint_of_weights(model: torch.nn.Module) -> str:
    """SHA-256 of all weights and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class RunStorage:
    """The checkpoints of one run.

    Args:
        folder: the run's output folder; checkpoints are in `checkpoints/` there.
        keep: how many are kept.
        identity: see `identity_of`.
        ready: the model in training, with its random numbers.
        averages: the moving average of the weights, if there is one.
        processes: the first one writes, all read; each has random numbers of its own.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        identity: Mapping[str, Any],
        ready: Ready,
        averages: WeightAverages | None,
        processes: Processes,
    ) -> None:
        self._checkpoints = Checkpoints(folder / FOLDER, keep, identity)
        self._ready = ready
        self._averages = averages
        self._processes = processes

    def save(self, run: Run, watch: Remembering, place: tuple[int, int]) -> None:
        """Write down where the run is; `place` is the epoch and the step of it to go on with.

        Raises:
            CheckpointError: it cannot be written; the checkpoint before is still there.
        """
        optimizer, optimizer_json = optimizer_state(run.optimisation.optimizer)
        random, random_json = random_state(self._ready.generators)
        arrays = {name: value.numpy() for name, value in random.items()}
        everywhere = self._processes.gathered((arrays, random_json))
        if not self._processes.first:
            return
        tensors: dict[str, Mapping[str, torch.Tensor]] = {
            "model": run.encoder.model.state_dict(),
            "optimizer": optimizer,
            "best": run.best.weights,
            "random": {
                f"{rank}.{name}": torch.from_numpy(value)
                for rank, (made, _) in enumerate(everywhere)
                for name, value in made.items()
            },
        }
        if self._averages is not None:
            tensors["average"] = self._averages.tensors()
        state = {
            "epoch": place[0],
            "step": place[1],
            "best_score": run.best.score,
            "optimizer": optimizer_json,
            "schedule": schedule_state(run.optimisation.schedule),
            "scaler": scaler_state(run.optimisation.scaler),
            "random": [json for _, json in everywhere],
            "watch": watch.as_json(),
        }
        self._checkpoints.save(Checkpoint(run.total, tensors, state))

    def restore(self, run: Run, watch: Remembering) -> int | None:
        """Put `run` where the newest checkpoint is; gives its step, None if there is no checkpoint.

        Raises:
            CheckpointError: it belongs to another run; the message says what differs.
        """
        found = self._checkpoints.newest()
        if found is None:
            return None
        state, rank = found.state, self._processes.rank
        run.encoder.model.load_state_dict(found.tensors["model"])
        restore_optimizer(run.optimisation.optimizer, found.tensors["optimizer"], state["optimizer"])
        restore_schedule(run.optimisation.schedule, state["schedule"])
        restore_scaler(run.optimisation.scaler, state["scaler"])
        if self._averages is not None:
            self._averages.restore(found.tensors["average"])
        run.best.load(state["best_score"], found.tensors["best"])
        if run.best.score is not None:
            run.encoder.best_score = run.best.score
        run.epoch, run.step, run.total = state["epoch"], state["step"], found.step
        watch.load(state["watch"])
        prefix = f"{rank}."
        own = {
            name.removeprefix(prefix): value
            for name, value in found.tensors["random"].items()
            if name.startswith(prefix)
        }
        restore_random_state(own, state["random"][rank], self._ready.generators)
        return found.step


# ---- A folder made ready for a run that begins anew.
def forget_checkpoints(folder: str | os.PathLike[str]) -> None:
    """Remove the checkpoints of earlier runs in an output folder; the model, log and card in it stay until replaced.

    The caller holds the folder's `RunLock`.

    Raises:
        CheckpointError: they cannot be removed.
    """
    checkpoints = Path(folder) / FOLDER
    if not checkpoints.is_dir():
        return
    try:
        remove_folder(checkpoints, checkpoints.with_name(f".removed-{FOLDER}"))
    except OSError as error:
        raise CheckpointError(f"{checkpoints} cannot be removed: {error.strerror or error}") from error
