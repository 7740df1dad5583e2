"""Checkpoints of a run: folders that are whole or not there, whenever the process is killed or the disk is full.

A checkpoint is written beside the others under a name that nobody reads, every file synced, the manifest with sizes and
SHA-256 last, and renamed into place; only then older ones go.
"""

from __future__ import annotations

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
from typing import Any

import torch
from safetensors import SafetensorError

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.limits import positive_int
from secondpass.training.survival import manifests
from secondpass.training.survival.files import read_json, remove_folder, sync, write_json
from secondpass.training.survival.manifests import DamagedCheckpoint, Manifest, plain_json
from secondpass.training.survival.tensor_files import check_tensors, read_tensors, write_tensors

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
