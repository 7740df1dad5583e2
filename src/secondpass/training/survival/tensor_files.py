"""Named tensors to one safetensors file and back, bit by bit.

safetensors takes no tensors that share memory or lie scattered in it: tied ones are stored once and come back tied,
views and transposed ones are stored as copies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from secondpass.errors import InvalidInput

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
