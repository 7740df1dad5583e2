"""Checkpoints of a run: folders that are whole or not there, whenever the process is killed or the disk is full.

A checkpoint is written beside the others under a name that nobody reads, every file synced, the manifest with sizes and
SHA-256 last, and renamed into place; only then older ones go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.text import positive_int
from secondpass.training.checkpoints.state import check_tensors, read_tensors, write_tensors

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
STEP = re.compile(r"step-(\d{8,})")
SET = re.compile(r"[a-z][a-z0-9_]*")
STATE, TENSORS = "state.json", ".safetensors"
UNFINISHED, REPLACED, REMOVED = ".unfinished-", ".replaced-", ".removed-"
NAME = "manifest.json"
FORMAT, FORMAT_VERSION = "secondpass checkpoint", 1
PART = re.compile(r"[a-z][a-z0-9_]*\.(safetensors|json)")
LIBRARIES = ("secondpass", "torch", "numpy")
# Parts of an identity that older versions did not write.
LATER_PARTS = ("loss", "max_length", "measure", "truncation")
LONGEST_SHOWN = 80
MOST_SHOWN = 4


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
    """The checkpoints of one run in one folder; see `RunLock` for keeping other runs out of it.

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
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                sync(self.folder.absolute().parent)
            self._sweep()
            self._refuse_foreign(checkpoint.step)
            place = self.folder / f"step-{checkpoint.step:08d}"
            unfinished = self.folder / f"{UNFINISHED}{place.name}-{secrets.token_hex(4)}"
            try:
                unfinished.mkdir()
                _write(unfinished, checkpoint, state)
                write_manifest(unfinished, checkpoint.step, self._identity)
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
                manifest = read_manifest(path)
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
            whole = f"none of the {len(found)} checkpoints in {self.folder} is whole"
            raise CheckpointError(f"{whole}: to begin anew, empty the folder")
        return None

    @contextmanager
    def _named_errors(self, step: int) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except (OSError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            place = f"the checkpoint of step {step} cannot be saved to {self.folder}"
            raise CheckpointError(f"{place}: {reason}; those before it are as they were") from error

    def _found(self) -> dict[int, Path]:
        """All checkpoints by step, damaged ones too; one that was being replaced counts until the new one is there."""
        made: dict[int, Path] = {}
        paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for path in paths:  # ".replaced-" sorts before "step-"
            match = STEP.fullmatch(path.name.removeprefix(REPLACED))
            if match and path.is_dir():
                made[int(match[1])] = path
        return made

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
                self._refuse_other_identity(path, read_manifest(path))
            except DamagedCheckpoint:
                self._damaged.add(other)
                continue
            if other > step:
                hint = "go on from there, or empty the folder"
                raise CheckpointError(f"{self.folder} holds step {other} already, later than step {step}: {hint}")

    def _refuse_other_identity(self, path: Path, manifest: Manifest) -> None:
        found = other_run(manifest.identity, self._identity)
        if found:
            raise CheckpointError(f"{path} belongs to another run: {listed(found)}")

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
    return plain_json(checkpoint.state, "state")  # type: ignore[no-any-return]


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
    check_files(path, manifest)
    changed = differences(manifest.versions, current_versions())
    if changed:
        logger.warning("%s: the run goes on, but may not end as it would have: %s", path, listed(changed))
    names = [name.removesuffix(TENSORS) for name in manifest.files if name.endswith(TENSORS)]
    tensors = {name: read_tensors(path / f"{name}{TENSORS}") for name in names}
    return Checkpoint(manifest.step, tensors, read_json(path / STATE))


def forget_checkpoints(folder: str | os.PathLike[str]) -> None:
    """Remove the checkpoints of earlier runs in an output folder; the model, log and card in it stay until replaced.

    What a process left that was killed while it saved the model or removed checkpoints goes too. The caller holds the
    folder's `RunLock`.

    Raises:
        CheckpointError: they cannot be removed.
    """
    checkpoints = Path(folder) / FOLDER
    removed = checkpoints.with_name(f".removed-{FOLDER}")
    try:
        if checkpoints.is_dir():
            remove_folder(checkpoints, removed)
        for left in (removed, *Path(folder).glob(f"{UNFINISHED}*")):
            if left.is_dir():
                shutil.rmtree(left)
    except OSError as error:
        raise CheckpointError(f"{checkpoints} cannot be removed: {error.strerror or error}") from error


class DamagedCheckpoint(CheckpointError):
    """A checkpoint is not as it was written: cut off, changed, or files are missing."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says about itself, written last.

    Attributes:
        step: steps done.
        identity: what makes two runs the same run; JSON.
        versions: of the libraries that wrote it.
        files: names in the folder to their size in bytes and SHA-256.
    """

    step: int
    identity: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, tuple[int, str]]


def plain_json(value: object, name: str) -> Any:
    """Copy a JSON value, tuples as lists.

    Raises:
        InvalidInput: it, or something in it, is no JSON; the message names its place, beginning with `name`.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInput(f"{name} has the key {key!r}, not a str")
        return {key: plain_json(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(entry, f"{name}[{place}]") for place, entry in enumerate(value)]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise InvalidInput(f"{name} is {type(value).__name__}, which JSON does not have")


@cache
def current_versions() -> dict[str, str]:
    """Versions on which the exact numbers of a run depend."""
    made = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            made[library] = version(library)
        except PackageNotFoundError:
            made[library] = "unknown"
    return made


def write_manifest(folder: Path, step: int, identity: Mapping[str, Any]) -> None:
    """Describe the files that are in `folder` now, and wait until the disk has it.

    Raises:
        OSError: a file cannot be read or the manifest not written.
    """
    files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())}
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": step,
        "identity": identity,
        "versions": current_versions(),
        "files": files,
    }
    write_json(folder / NAME, content | {"seal": _seal(content)})
    sync(folder / NAME)


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest that is whole; the other files are not looked at.

    Raises:
        DamagedCheckpoint: it is missing or changed.
        CheckpointError: it is of a newer version.
    """
    try:
        content = read_json(folder / NAME)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedCheckpoint(f"{folder} has no {NAME}") from None
    except ValueError as error:
        raise DamagedCheckpoint(f"{folder / NAME} is no JSON: {error}") from None
    if not isinstance(content, dict) or content.pop("seal", None) != _seal(content):
        raise DamagedCheckpoint(f"{folder / NAME} was changed after it was written")
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} is a {content.get('format')} of version {content.get('format_version')}, this secondpass reads "
            f"a {FORMAT} of version {FORMAT_VERSION}"
        )
    files = {name: (entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()}
    return Manifest(content["step"], content["identity"], content["versions"], files)


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest.

    Raises:
        DamagedCheckpoint: one is missing, or its size or content is another.
        OSError: one cannot be read.
    """
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if not PART.fullmatch(name) or not path.is_file():
            raise DamagedCheckpoint(f"{folder} has no file {name}")
        if path.stat().st_size != size:
            raise DamagedCheckpoint(f"{path} has {path.stat().st_size} bytes instead of {size}")
        if sha256_of(path) != digest:
            raise DamagedCheckpoint(f"{path} has other content than was written")


def other_run(there: Any, here: Mapping[str, Any]) -> list[str]:
    """Where a run that was written down differs from this one; a `LATER_PART` that it lacks tells nothing of it."""
    known = {name for name in here if name not in LATER_PARTS or (isinstance(there, dict) and name in there)}
    return differences(there, {name: value for name, value in here.items() if name in known})


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Say where two JSON values differ: "settings.learning_rate: 2e-05 there, 1e-05 here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        found: list[str] = []
        for key in sorted({*there, *here}):
            inner = f"{name}.{key}" if name else key
            if key not in here:
                found.append(f"{inner}: {_shown(there[key])} there, absent here")
            elif key not in there:
                found.append(f"{inner}: absent there, {_shown(here[key])} here")
            else:
                found += differences(there[key], here[key], inner)
        return found
    # 1 and 1.0 are one number, 1 and true are not one value, and NaN is NaN
    if json.dumps(there) == json.dumps(here) or (there == here and not {type(there), type(here)} & {bool, list}):
        return []
    return [f"{name}: {_shown(there)} there, {_shown(here)} here"]


def listed(found: list[str]) -> str:
    """Join the first few differences."""
    more = len(found) - MOST_SHOWN
    return "; ".join(found[:MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


# ---- Files that are on the disk when we say so, and folders that are never seen half removed.
def write_json(path: Path, content: object) -> None:
    """Write `content` in ASCII; `sync` it afterwards.

    Raises:
        OSError: it cannot be written.
    """
    path.write_text(json.dumps(content) + "\n", encoding="ascii")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON.
    """
    return json.loads(path.read_text(encoding="ascii"))


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or the names in a folder.

    Raises:
        OSError: the disk is full or broken.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_folder(folder: Path, removed: Path) -> None:
    """Remove `folder` by way of the name `removed`, so that no kill leaves half of it under its own name.

    Raises:
        OSError: it cannot be removed; it may be gone under its own name already.
    """
    if removed.exists():
        shutil.rmtree(removed)
    folder.rename(removed)
    sync(removed.parent)
    shutil.rmtree(removed)
