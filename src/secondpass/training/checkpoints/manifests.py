"""The manifest of a checkpoint: written last, it says what the folder holds and which run it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from secondpass.errors import CheckpointError, InvalidInput


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


NAME = "manifest.json"
FORMAT, FORMAT_VERSION = "secondpass checkpoint", 1
PART = re.compile(r"[a-z][a-z0-9_]*\.(safetensors|json)")
LIBRARIES = ("secondpass", "torch", "numpy")
LONGEST_SHOWN = 80
MOST_SHOWN = 4


class DamagedCheckpoint(CheckpointError):
    """A checkpoint is not as it was written: cut off, changed, or files are missing."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says about itself.

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


# ---- Named tensors to one safetensors file and back, bit by bit.
#
# safetensors takes no tensors that share memory or lie scattered in it: tied ones are stored once and come back tied,
# views and transposed ones are stored as copies.
ALIASES = "aliases"
DTYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    }
)


def check_tensors(tensors: object, name: str) -> None:
    """Check that every tensor of the mapping `tensors` can be stored.

    Raises:
        InvalidInput: one is no dense tensor with values and a dtype of `DTYPES`, or its name is no text; the message
            begins with `name`.
    """
    if not isinstance(tensors, Mapping):
        raise InvalidInput(f"{name} is {type(tensors).__name__}, not a mapping of names to tensors")
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not key.isprintable():
            raise InvalidInput(f"{name} has the key {key!r}, not a printable str")
        if not isinstance(tensor, torch.Tensor):
            raise InvalidInput(f"{name}[{key!r}] is {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in DTYPES:
            layout = str(tensor.layout).removeprefix("torch.")
            where = f"{layout}, {str(tensor.dtype).removeprefix('torch.')}, on {tensor.device.type}"
            raise InvalidInput(f"{name}[{key!r}] ({where}) cannot be stored")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write checked tensors, from any device.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    from safetensors.torch import save_file

    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    memories: set[tuple[object, ...]] = set()
    for name, tensor in tensors.items():
        memory = (tensor.device, tensor.untyped_storage().data_ptr())
        place = (*memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj())
        if tensor.numel() and seen.setdefault(place, name) != name:
            aliases[name] = seen[place]
            continue
        stored[name] = _alone(tensor.detach(), memory in memories)
        memories.add(memory)
    save_file(stored, path, metadata={ALIASES: json.dumps(aliases, sort_keys=True)})


def _alone(tensor: torch.Tensor, shared: bool) -> torch.Tensor:
    """Give the same values in memory that is theirs alone, in order."""
    plain = tensor.resolve_conj().resolve_neg()
    whole = plain.numel() * plain.element_size() == plain.untyped_storage().nbytes()
    if whole and plain.is_contiguous() and not (shared and plain.numel()):
        return plain
    return plain.clone(memory_format=torch.contiguous_format)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read what `write_tensors` wrote, to the CPU, into memory of its own; tied names give one tensor.

    Raises:
        OSError, SafetensorError, ValueError, KeyError: the file cannot be read.
    """
    from safetensors import safe_open

    # Not mapped: the folder may be removed, on a server that forgets removed files, while the tensors are in use.
    with safe_open(path, framework="pt", backend="pread") as file:
        tensors: dict[str, torch.Tensor] = file.get_tensors()
        aliases = json.loads((file.metadata() or {}).get(ALIASES, "{}"))
    return tensors | {name: tensors[first] for name, first in aliases.items()}
