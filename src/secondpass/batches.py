"""Tokens to padded batches under a token budget, with the way back to the caller's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded inputs of one forward pass.

    `input_ids`, `attention_mask` and `token_type_ids` are int64 [pairs, width]; `rows` are the positions of
    the pairs in the call's input; `tokens` counts the real ones.
    """

    rows: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor
    tokens: int

    @property
    def padded_tokens(self) -> int:
        """Places of the rectangle, padding included."""
        return self.input_ids.numel()

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


def plan(lengths: Sequence[int], max_batch_tokens: int, max_pairs: int) -> list[tuple[int, ...]]:
    """Positions of each batch, longest first: padded tokens stay under the budget, pairs under `max_pairs`.

    Sorted by true length so that padding is small; longest first, so that a batch that does not fit into
    memory is met at the start. A pair longer than the budget gets a batch of its own. The queue rule is
    text-embeddings-inference's.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    made: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        width = max(1, lengths[order[start]])
        size = max(1, min(max_pairs, max_batch_tokens // width))
        made.append(tuple(order[start : start + size]))
        start += size
    return made


def pad(tokens: Sequence[Tokens], rows: tuple[int, ...], padding: Padding) -> Batch:
    """Lay `tokens[row]` for every row into one rectangle."""
    chosen = [tokens[row] for row in rows]
    width = max(len(item) for item in chosen)
    ids = np.full((len(chosen), width), padding.token_id, dtype=np.int64)
    types = np.full_like(ids, padding.type_id)
    mask = np.zeros_like(ids)
    for number, item in enumerate(chosen):
        place = slice(width - len(item), width) if padding.left else slice(0, len(item))
        ids[number, place] = item.ids
        types[number, place] = item.type_ids
        mask[number, place] = 1
    return Batch(
        rows,
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(types),
        sum(len(item) for item in chosen),
    )
