"""Tokens to batches under a token budget, with the way back to the caller's order; and the padded rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass reads: `rows` are the positions of the `inputs` in the call's input."""

    rows: tuple[int, ...]
    inputs: tuple[Tokens, ...]

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(map(len, self.inputs))

    @property
    def places(self) -> int:
        """Places of the rectangle that holds the inputs, padding included."""
        return len(self.inputs) * max(map(len, self.inputs))


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Padded inputs: `input_ids`, `attention_mask` and `token_type_ids` are int64 [pairs, width]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor

    def named(self, names: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
        """Those of the three tensors that a model takes (`names` is its tokenizer's list), on its device."""
        tensors = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        return {
            name: tensor.to(device) for name, tensor in tensors.items() if name in names or name != "token_type_ids"
        }


@dataclass(frozen=True, slots=True)
class Padding:
    """What a model wants in the unused places, and on which side."""

    token_id: int
    type_id: int = 0
    left: bool = False


def plan(lengths: Sequence[int], max_batch_tokens: int, max_pairs: int, padded: bool = True) -> list[tuple[int, ...]]:
    """Positions of each batch, longest first: tokens stay under the budget, pairs under `max_pairs`.

    Sorted by true length so that padding is small; longest first, so that a batch that does not fit into
    memory is met at the start. A pair longer than the budget gets a batch of its own. The queue rule is
    text-embeddings-inference's.

    Args:
        lengths: tokens of each pair.
        max_batch_tokens: of one batch.
        max_pairs: of one batch.
        padded: count the places of the rectangle that holds a batch; otherwise real tokens.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    made: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        size, filled = 1, lengths[order[start]]
        for row in order[start + 1 : start + max_pairs]:
            filled += lengths[order[start]] if padded else lengths[row]
            if filled > max_batch_tokens:
                break
            size += 1
        made.append(tuple(order[start : start + size]))
        start += size
    return made


def batch_of(tokens: Sequence[Tokens], rows: Sequence[int]) -> Batch:
    """The batch of `tokens[row]` for every row."""
    return Batch(tuple(rows), tuple(tokens[row] for row in rows))


def pad(inputs: Sequence[Tokens], padding: Padding) -> Rectangle:
    """Lay inputs, at least one, into one rectangle."""
    width = max(len(item) for item in inputs)
    ids = np.full((len(inputs), width), padding.token_id, dtype=np.int64)
    types = np.full_like(ids, padding.type_id)
    mask = np.zeros_like(ids)
    for number, item in enumerate(inputs):
        place = slice(width - len(item), width) if padding.left else slice(0, len(item))
        ids[number, place] = item.ids
        types[number, place] = item.type_ids
        mask[number, place] = 1
    return Rectangle(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types))
