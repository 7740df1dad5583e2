"""Attention on any device: sequences of like length padded to rectangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from secondpass.packed.heads import Heads
from secondpass.packed.layout import Packed

# Sequences are put into one rectangle if the shortest has this share of the longest one's tokens.
ALIKE = 0.8


@dataclass(frozen=True, slots=True)
class _Rectangle:
    """Sequences `numbers` padded to one length.

    `rows` int64 [sequences * length] is the row of every place, `real` bool [sequences, length] where one is a token,
    `kept` int64 the places of tokens, `lies` int64 the rows of those.
    """

    numbers: slice
    rows: torch.Tensor
    real: torch.Tensor
    kept: torch.Tensor
    lies: torch.Tensor


class Rectangles:
    """A call of torch's attention for each rectangle."""

    def __init__(self, packed: Packed) -> None:
        self._made: list[_Rectangle] = []
        lengths, device = packed.lengths, packed.ids.device
        starts = np.cumsum(lengths) - lengths
        begin = 0
        while begin < len(lengths):
            end = begin + int(np.sum(lengths[begin:] >= ALIKE * lengths[begin]))
            real = np.arange(lengths[begin]) < lengths[begin:end, None]
            rows = np.where(real, np.arange(lengths[begin]) + starts[begin:end, None], 0).ravel()
            kept = np.flatnonzero(real)
            tensors = (torch.from_numpy(values).to(device) for values in (rows, real, kept, rows[kept]))
            self._made.append(_Rectangle(slice(begin, end), *tensors))
            begin = end

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks."""
        out = qkv.new_zeros(len(qkv), heads.hidden)
        for made in self._made:
            query, key, value = _laid(qkv, made, 3, heads)
            mask = made.real[:, None, None]
            if heads.window is not None:
                place = torch.arange(query.shape[2], device=qkv.device)
                near = (place - place[:, None]).abs() <= heads.window
                # padding sees itself, or its row would be NaN
                mask = (mask & near) | torch.eye(len(place), dtype=torch.bool, device=qkv.device)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            out[made.lies] = context.transpose(1, 2).reshape(-1, heads.hidden)[made.kept]
        return out

    def first(self, query: torch.Tensor, kv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """First tokens ask."""
        out = torch.empty_like(query)
        for made in self._made:
            key, value = _laid(kv, made, 2, heads)
            mask = made.real[:, None, None]
            if heads.window is not None:
                mask = mask & (torch.arange(key.shape[2], device=kv.device) <= heads.window)
            own = query[made.numbers].view(-1, 1, *heads.shape).transpose(1, 2)
            context = F.scaled_dot_product_attention(own, key, value, attn_mask=mask)
            out[made.numbers] = context.transpose(1, 2).reshape(-1, heads.hidden)
        return out


def _laid(joint: torch.Tensor, made: _Rectangle, parts: int, heads: Heads) -> tuple[torch.Tensor, ...]:
    """[sequences, heads, length, size] of each of the parts that lie side by side in a row."""
    laid = joint[made.rows].view(*made.real.shape, parts, *heads.shape)
    return laid.permute(2, 0, 3, 1, 4).unbind(0)
