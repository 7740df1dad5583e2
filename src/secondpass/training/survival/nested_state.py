"""Nested state (dicts, lists, tuples, numbers, tensors, arrays) to named tensors and JSON, and back exactly.

What JSON does not have is an object with one key: {"$tensor": name}, {"$array": name}, {"$tuple": [...]},
{"$pairs": [[key, value], ...]} for a dict whose keys are not all plain texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from secondpass.errors import CheckpointError, InvalidInput

TENSOR, ARRAY, TUPLE, PAIRS = "$tensor", "$array", "$tuple", "$pairs"


def flattened(value: object, name: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Take a state apart.

    Args:
        value: not changed; the tensors given back are its own, not copies.
        name: its name in messages, and that with which the tensors' names begin.

    Returns:
        The tensors by the names of their places ("optimizer.state.0.exp_avg"), and the rest as JSON.

    Raises:
        InvalidInput: something in it is neither a number, text, tensor, array nor None; the message names its place.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _flat(value, name, tensors)


def _flat(value: object, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return {TENSOR: _kept(value.detach(), name, tensors)}
    if isinstance(value, np.ndarray):
        return {ARRAY: _kept(_from_array(value, name), name, tensors)}
    if isinstance(value, Mapping):
        return _flat_mapping(value, name, tensors)
    if isinstance(value, (list, tuple)):
        entries = [_flat(entry, f"{name}.{place}", tensors) for place, entry in enumerate(value)]
        return {TUPLE: entries} if isinstance(value, tuple) else entries
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InvalidInput(f"{name} is {type(value).__name__}: only numbers, texts and tensors can be stored")


def _flat_mapping(value: Mapping[Any, object], name: str, tensors: dict[str, torch.Tensor]) -> Any:
    for key in value:
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise InvalidInput(f"{name} has the key {key!r}, neither a str nor an int")
    entries = {key: _flat(entry, f"{name}.{key}", tensors) for key, entry in value.items()}
    if all(isinstance(key, str) and not key.startswith("$") for key in entries):
        return entries
    return {PAIRS: [[key, entry] for key, entry in entries.items()]}


def _kept(tensor: torch.Tensor, name: str, tensors: dict[str, torch.Tensor]) -> str:
    """Store under a name that is free: the places of 1 and "1" have the same."""
    free, count = name, 1
    while free in tensors:
        count += 1
        free = f"{name}#{count}"
    tensors[free] = tensor
    return free


def _from_array(value: np.ndarray[Any, Any], name: str) -> torch.Tensor:
    try:
        return torch.from_numpy(np.array(value, order="C"))
    except TypeError:
        raise InvalidInput(f"{name} is an array of {value.dtype}, which cannot be stored") from None


def restored(tensors: Mapping[str, torch.Tensor], state: Any) -> Any:
    """Put together what `flattened` took apart; arrays are copies, tensors those given.

    Raises:
        CheckpointError: a tensor is missing.
    """
    if isinstance(state, list):
        return [restored(tensors, entry) for entry in state]
    if not isinstance(state, dict):
        return state
    for kind, content in state.items():
        if kind.startswith("$"):
            return _special(tensors, kind, content)
    return {key: restored(tensors, entry) for key, entry in state.items()}


def _special(tensors: Mapping[str, torch.Tensor], kind: str, content: Any) -> Any:
    if kind in (TENSOR, ARRAY):
        if content not in tensors:
            raise CheckpointError(f"the state has no tensor {content}")
        tensor = tensors[content]
        return tensor if kind == TENSOR else tensor.numpy().copy()
    if kind == TUPLE:
        return tuple(restored(tensors, entry) for entry in content)
    return {key: restored(tensors, entry) for key, entry in content}
