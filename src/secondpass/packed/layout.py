"""Sequences laid end to end: the one matrix that every linear layer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from secondpass.tokens import Tokens

Lengths = npt.NDArray[np.int64]
"""Of sequences, in tokens."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences end to end, longest first.

    Attributes:
        ids: int64 [tokens], like `types` and `positions`.
        types: token types.
        positions: in the sequence.
        starts: int64 [pairs], the first token of each sequence.
        order: int64 [pairs], the pair of each sequence.
        lengths: of the sequences as they lie.
    """

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    order: torch.Tensor
    lengths: Lengths


def pack(inputs: Sequence[Tokens], first_position: int = 0) -> Packed:
    """Lay inputs, at least one, end to end; positions count from `first_position`."""
    order = np.argsort([-len(item) for item in inputs], kind="stable")
    laid = [inputs[place] for place in order]
    lengths = np.array([len(item) for item in laid])
    starts = np.cumsum(lengths) - lengths
    ids = np.concatenate([item.ids for item in laid]).astype(np.int64)
    types = np.concatenate([item.type_ids for item in laid]).astype(np.int64)
    positions = np.arange(len(ids)) - np.repeat(starts, lengths) + first_position
    flat = [torch.from_numpy(values) for values in (ids, types, positions, starts, order)]
    return Packed(flat[0], flat[1], flat[2], flat[3], flat[4], lengths)


def moved(packed: Packed, device: torch.device) -> Packed:
    """The same on a device; copies to a GPU do not wait for it."""
    if device.type == "cpu":
        return packed
    there = [
        (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
        for tensor in (packed.ids, packed.types, packed.positions, packed.starts, packed.order)
    ]
    return Packed(there[0], there[1], there[2], there[3], there[4], packed.lengths)
