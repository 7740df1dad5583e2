"""The safetensors files of a folder: what their heads tell of its model, and arrays that are read when asked for."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from secondpass.errors import ModelLoadError
from secondpass.forwards.description import CompactRows, NotDescribed, StoredArray
from secondpass.models.config import read_if_present, read_json
from secondpass.system import READ, read_at

logger = logging.getLogger(__name__)

COMPACT = "model.int8.safetensors"
# Behind the name of a matrix there, the name of its scales.
SCALE = ".scale"
# In a matrix of less than eight bits a number, so many of a row share a scale.
GROUP = 64
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", ".metadata", "*.distcp")
# What the ONNX models of FlashRank (flashrank/Config.py and README, November 2024) and fastembed (supported_onnx_models
# of its cross-encoders, August 2026) were exported from, by the name that their folders have.
ONNX_ORIGINALS = {
    "ms-marco-TinyBERT-L-2-v2": "cross-encoder/ms-marco-TinyBERT-L2-v2",
    "ms-marco-MiniLM-L-6-v2": "cross-encoder/ms-marco-MiniLM-L6-v2",
    "ms-marco-MiniLM-L-12-v2": "cross-encoder/ms-marco-MiniLM-L12-v2",
    "ce-esci-MiniLM-L12-v2": "metarank/ce-esci-MiniLM-L12-v2",
    "miniReranker_arabic_v1": "prithivida/miniReranker_arabic_v1",
    "bge-reranker-base": "BAAI/bge-reranker-base",
    "jina-reranker-v1-tiny-en": "jinaai/jina-reranker-v1-tiny-en",
    "jina-reranker-v1-turbo-en": "jinaai/jina-reranker-v1-turbo-en",
    "jina-reranker-v2-base-multilingual": "jinaai/jina-reranker-v2-base-multilingual",
}


def weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """Return the safetensors files of a folder: one, or the shards its index names.

    Raises:
        ModelLoadError: there are none (pickles are not read), one is missing, or the index leaves the folder.
    """
    name = f"model.{variant}" if variant else "model"
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if (folder / "adapter_config.json").is_file():
        raise ModelLoadError(f"{folder} holds an adapter (adapter_config.json): merge it into its model first")
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise ModelLoadError(_no_weights(folder, single.name))
    shards = read_json(index).get("weight_map")
    named = list(shards.values()) if isinstance(shards, dict) and shards else [""]
    for shard in named:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.\-]+\.safetensors", shard):
            raise ModelLoadError(f"{index} names {shard!r}, which is no safetensors file of its folder")
    names = sorted(set(named))
    for shard in names:
        if not (folder / shard).is_file():
            raise ModelLoadError(f"{folder} lacks {shard}, which its index names")
    return tuple(folder / shard for shard in names)


def _no_weights(folder: Path, name: str) -> str:
    if next(folder.glob("*.onnx"), None) or next(folder.glob("onnx/*.onnx"), None):
        return f"{folder} holds an ONNX model, and only safetensors are read: {_onnx_original(folder)}"
    made = _auto_class(folder)
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        return (
            f"{folder} holds no {name} but pickle files, which can run code and are not read; convert once, where you "
            f"trust them: {made}.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return (
        f"{folder} holds no {name} (only safetensors are read; a checkpoint of pickles such as pytorch_model.bin is "
        f"converted with {made}.from_pretrained(NAME).save_pretrained(FOLDER))"
    )


def _auto_class(folder: Path) -> str:
    """The class of transformers that reads all weights of a folder and makes none up."""
    named = read_if_present(folder / "config.json").get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if architecture.endswith("ForCausalLM"):
        return "AutoModelForCausalLM"
    return "AutoModel" if architecture.endswith("Model") else "AutoModelForSequenceClassification"


def _onnx_original(folder: Path) -> str:
    """What to load instead of an ONNX model, by the folders that it is in ("models--NAME--NAME" in a hub's cache)."""
    names = (part.split("--")[-1] for part in reversed(folder.absolute().parts))
    original = next((ONNX_ORIGINALS[name] for name in names if name in ONNX_ORIGINALS), None)
    if original is not None:
        return f"load {original!r}, from which it was made"
    return "load the model from which it was made, a folder or hub name with model.safetensors and config.json"


def stored_sizes(files: tuple[Path, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes by name from the headers of the files, which takes milliseconds.

    Raises:
        ModelLoadError: one cannot be read whole; the message has its path.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with whole(path), safe_open(path, framework="np", backend="pread") as file:
            sizes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    return sizes


def is_compact(folder: Path) -> bool:
    """Whether a folder's weights are int8 with scales."""
    return (folder / COMPACT).is_file() and not (folder / "model.safetensors").is_file()


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Say of a file that the library cannot read that it is broken: ModelLoadError with its path."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ModelLoadError(f"{path} is broken: {reason}") from error


def few(keys: Sequence[str]) -> str:
    """The first of many names, for a message."""
    return ", ".join(keys[:3]) + (" and others" if len(keys) > 3 else "")


def tell_unused(folder: Path, names: Sequence[str]) -> None:
    """Log a warning of stored weights that a model has no place for, where there are some."""
    if names:
        logger.warning("%s: %d stored weights have no place in the model: %s", folder, len(names), few(names))


# ---- Numbers of less than eight bits, eight of them in as many bytes as one has bits.
def packed(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Levels [rows, n * GROUP], below 2**bits, as bytes [rows, n * GROUP * bits / 8], the first in the lowest bits."""
    flags = np.unpackbits(levels[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(flags.reshape(len(levels), -1), axis=1, bitorder="little")


def scaled(raw: npt.NDArray[Any], steps: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A compact matrix as float32 [rows, width, ...].

    Args:
        raw: int8 [rows, width, ...], or bytes of `packed`, of which a level n stands for n - 2**(bits - 1) steps.
        steps: of each row [rows, ...], or of each `GROUP` numbers of one [rows, width / GROUP].

    Raises:
        ValueError: their shapes do not belong together.
    """
    shape = scaled_shape(raw.dtype == np.uint8, raw.shape, steps.shape)
    if raw.dtype != np.uint8:
        made = raw.astype(np.float32)
        made *= steps.astype(np.float32)[:, None]
        return made
    bits = 8 * raw.shape[1] // shape[1]
    octets = raw.reshape(shape[0], -1, bits)
    levels = np.empty((*octets.shape[:2], 8), np.uint8)
    for place in range(8):
        first, shift = divmod(place * bits, 8)
        levels[..., place] = octets[..., first] >> shift
        if shift + bits > 8:
            levels[..., place] |= octets[..., first + 1] << (8 - shift)
    levels &= 2**bits - 1
    made = levels.reshape(*steps.shape, GROUP).astype(np.float32)
    made -= 2 ** (bits - 1)
    made *= steps.astype(np.float32)[..., None]
    return made.reshape(shape)


def scaled_shape(is_packed: bool, raw: tuple[int, ...], steps: tuple[int, ...]) -> tuple[int, ...]:
    """Of a compact matrix, by the shapes of its numbers and scales; ValueError where they do not belong together."""
    if not is_packed and len(raw) > 1 and steps == raw[:1] + raw[2:]:
        return raw
    if is_packed and len(raw) == len(steps) == 2 and raw[0] == steps[0] and steps[1] > 0:
        bits, rest = divmod(8 * raw[1], steps[1] * GROUP)
        if not rest and 1 < bits < 8:
            return raw[0], steps[1] * GROUP
    raise ValueError(f"numbers of shape {[*raw]} have scales of shape {[*steps]}")


# ---- A config may ask for anything: what it asks for must be in the weights.
#
# Numbers of layers in any config, of which lists are made before there is a model, and the most of them where layers
# share their weights.
LAYER_COUNTS = re.compile(r"(.*_)?n?_?layers?|num_hidden_groups|inner_group_num|block_(sizes|repeats)")
MOST_LAYERS = 1024


def check_counts(path: Path, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a config.json with far more layers or labels than the weights have, before anything is made of it.

    Raises:
        ModelLoadError: one is beyond what `sizes`, the shapes of the weights, allow; or the file is no JSON object.
    """
    largest = max((size for shape in sizes.values() for size in shape), default=0)
    stack: list[tuple[str, Any]] = [("", read_json(path))]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list):
            stack += [(key, item) for item in value]
        elif isinstance(value, int) and key.endswith(("_head", "_heads")) and value < 1:
            raise ModelLoadError(f"{path}: {key} is {value}")
        elif isinstance(value, int) and key == "num_labels" and value > largest:
            raise ModelLoadError(f"{path}: num_labels is {value}, and no stored weight has so many rows")
        elif isinstance(value, int) and LAYER_COUNTS.fullmatch(key) and value > max(MOST_LAYERS, len(sizes)):
            raise ModelLoadError(f"{path}: {key} is {value}, and there are {len(sizes)} stored weights")


# ---- Files that stay open, and what is in them without torch.
#
# Numbers by their names in the head of a file; those of bfloat16 are the upper halves of float32's.
FLOATING = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Those of matrices that have scales beside them, see `building.compressed`.
SCALED = {"I8": "|i1", "U8": "|u1"}
TYPES = {**FLOATING, **SCALED}


class HeldFiles:
    """Files of a folder that stay open, so that they can be read after the folder has gone or has got others.

    Raises:
        ModelLoadError: one cannot be opened, or when it is read: was written to meanwhile.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self._beside = {*os.listdir(folder)}
        self._open: dict[str, tuple[int, os.stat_result]] = {}
        self._copies: dict[str, bytes] = {}
        for name in names:
            try:
                place = os.open(folder / name, READ)
            except OSError as error:
                raise ModelLoadError(f"{folder / name} cannot be read: {error.strerror}") from error
            # not at the end of the interpreter, which closes them itself
            weakref.finalize(self, os.close, place).atexit = False
            self._open[name] = place, os.fstat(place)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the files' contents with it."""
        copies = {name: bytes(self.bytes_of(name, 0, self.size(name))) for name in self.names()}
        return {"folder": self.folder, "_beside": set(), "_open": {}, "_copies": copies}

    def names(self) -> list[str]:
        """Of all files, as they stand below the folder."""
        return [*self._open, *self._copies]

    def size(self, name: str) -> int:
        """In bytes."""
        return self._open[name][1].st_size if name in self._open else len(self._copies[name])

    def path_of(self, name: str) -> Path:
        """By which the open file is found, whatever has its name by now; its own where the system has no such paths."""
        place = Path(f"/proc/self/fd/{self._open[name][0]}")
        return place if place.exists() else self.folder / name

    def bytes_of(self, name: str, begin: int, size: int) -> memoryview:
        """Part of a file; a copy that is its caller's."""
        if name in self._copies:
            return memoryview(bytearray(self._copies[name][begin : begin + size]))
        place, before = self._open[name]
        made = memoryview(bytearray(size))
        read = 0
        while read < size:
            step = read_at(place, made[read : read + 2**30], begin + read)
            if step == 0:
                break
            read += step
        now = os.fstat(place)
        if read < size or (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise ModelLoadError(f"{self.folder / name} was written to after it was opened: load the model again")
        return made

    @contextmanager
    def restored(self) -> Iterator[Path]:
        """The folder, or where it is no longer the one that was opened, another with the same files."""
        if self._open and self._is_same():
            yield self.folder
            return
        with tempfile.TemporaryDirectory(prefix="secondpass-") as folder:
            self.write(Path(folder))
            yield Path(folder)

    def write(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Write all of them, or some, below another folder."""
        for name in self.names() if names is None else names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.bytes_of(name, 0, self.size(name)))

    def _is_same(self) -> bool:
        """Whether the files are where they were, and no other has come beside them, which torch might read."""
        try:
            now = [os.stat(self.folder / name) for name in self._open]
            added = {*os.listdir(self.folder)} - self._beside
        except OSError:
            return False
        return not added and [*map(_mark, now)] == [_mark(before) for _, before in self._open.values()]


def _mark(seen: os.stat_result) -> tuple[int, ...]:
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def arrays_of(files: HeldFiles, name: str, compact: bool = False) -> dict[str, StoredArray]:
    """The weights of a safetensors file by name, float32 whatever they are stored as.

    `compact` ones are matrices with scales, see `building.compressed`. Types that no weight of ours has are left out.

    Raises:
        ModelLoadError: the head of the file does not say what is in it.
        NotDescribed: scales are of another kind than those that we write.
    """
    path = files.folder / name
    try:
        size = int.from_bytes(files.bytes_of(name, 0, 8), "little")
        if size > files.size(name) - 8:
            raise ValueError("its head is longer than the file")
        head = json.loads(bytes(files.bytes_of(name, 8, size)))
        found = {key: _Place.of(entry, 8 + size, files.size(name)) for key, entry in head.items() if key[:2] != "__"}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"{path} is broken: {error}") from error
    made = {}
    for key, place in found.items():
        if place.kind in SCALED and not (compact and found.get(key + SCALE) is not None):
            continue
        if compact and key.endswith(SCALE) and getattr(found.get(key.removesuffix(SCALE)), "kind", None) in SCALED:
            continue
        if place.kind in TYPES:
            scale = found[key + SCALE] if place.kind in SCALED else None
            shape = place.shape
            if scale is not None:
                try:
                    shape = scaled_shape(place.kind == "U8", shape, scale.shape if scale.kind in FLOATING else ())
                except ValueError as error:
                    raise NotDescribed(f"{key + SCALE} of {name}: {error}") from None
            rows = None if scale is None else CompactRows(partial(_compact, files, name, place, scale), scaled)
            made[key] = StoredArray(shape, partial(_numbers, files, name, place, scale), rows)
    return made


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the numbers of one array are in a file."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    size: int

    @classmethod
    def of(cls, entry: Mapping[str, Any], start: int, end: int) -> _Place:
        begin, behind = (start + int(offset) for offset in entry["data_offsets"])
        shape = tuple(int(size) for size in entry["shape"])
        kind = str(entry["dtype"])
        if not start <= begin <= behind <= end or min(shape, default=1) < 0:
            raise ValueError("an array lies outside of it")
        if kind in TYPES and behind - begin != math.prod(shape) * np.dtype(TYPES[kind]).itemsize:
            raise ValueError("an array has another size than its shape")
        return cls(kind, shape, begin, behind - begin)


def _raw(files: HeldFiles, name: str, place: _Place) -> npt.NDArray[Any]:
    return np.frombuffer(files.bytes_of(name, place.begin, place.size), TYPES[place.kind]).reshape(place.shape)


def _compact(files: HeldFiles, name: str, place: _Place, scale: _Place) -> tuple[npt.NDArray[Any], ...]:
    return _raw(files, name, place), _numbers(files, name, scale, None)


def _numbers(files: HeldFiles, name: str, place: _Place, scale: _Place | None) -> npt.NDArray[np.float32]:
    if scale is not None:
        return scaled(*_compact(files, name, place, scale))
    raw = _raw(files, name, place)
    if place.kind == "BF16":
        return (raw.astype("<u4") << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)
