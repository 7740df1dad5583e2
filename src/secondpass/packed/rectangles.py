"""Attention on any device: sequences of like length padded to rectangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from secondpass.packed.heads import Heads
from secondpass.packed.layout import Lengths, Packed

# Sequences are put into one rectangle if the shortest has this share of the longest one's tokens.
ALIKE = 0.8


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Sequences `numbers` padded to one length.

    `rows` int64 [sequences * length] is the row of every place, `real` bool [sequences, length] where one is a token,
    `kept` int64 the places of tokens, `lies` int64 the rows of those. Where no place is padding, slices say the same.
    """

    numbers: slice
    rows: torch.Tensor | slice
    real: torch.Tensor
    kept: torch.Tensor | slice
    lies: torch.Tensor | slice

    @property
    def pads(self) -> bool:
        """Whether some place is padding."""
        return not isinstance(self.rows, slice)


def rectangles(packed: Packed, alike: float = ALIKE, together: int | None = None) -> list[Rectangle]:
    """Lay all sequences into rectangles, each of at most `together` places where it has more than one sequence."""
    made: list[Rectangle] = []
    lengths, device = packed.lengths, packed.ids.device
    starts = np.cumsum(lengths) - lengths
    begin = 0
    while begin < len(lengths):
        length = int(lengths[begin])
        most = None if together is None else begin + max(1, together // length)
        end = begin + int(np.sum(lengths[begin:most] >= alike * length))
        made.append(_rectangle(slice(begin, end), lengths[begin:end], starts[begin:end], device))
        begin = end
    return made


def _rectangle(numbers: slice, lengths: Lengths, starts: Lengths, device: torch.device) -> Rectangle:
    place = np.arange(lengths[0])
    real = place < lengths[:, None]
    there = torch.from_numpy(real).to(device)
    if real.all():
        rows = slice(int(starts[0]), int(starts[-1] + lengths[-1]))
        return Rectangle(numbers, rows, there, slice(None), rows)
    row = np.where(real, place + starts[:, None], 0).ravel()
    kept = np.flatnonzero(real)
    moved = [torch.from_numpy(values).to(device) for values in (row, kept, row[kept])]
    return Rectangle(numbers, moved[0], there, moved[1], moved[2])


class Rectangles:
    """A call of torch's attention for each rectangle."""

    spare = 0

    def __init__(self, packed: Packed) -> None:
        self._made = rectangles(packed)

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks."""
        out = qkv.new_zeros(len(qkv), heads.hidden)
        for made in self._made:
            query, key, value = laid(qkv, made, 3, heads)
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
            key, value = laid(kv, made, 2, heads)
            mask = made.real[:, None, None]
            if heads.window is not None:
                mask = mask & (torch.arange(key.shape[2], device=kv.device) <= heads.window)
            own = query[made.numbers].view(-1, 1, *heads.shape).transpose(1, 2)
            context = F.scaled_dot_product_attention(own, key, value, attn_mask=mask)
            out[made.numbers] = context.transpose(1, 2).reshape(-1, heads.hidden)
        return out


def laid(joint: torch.Tensor, made: Rectangle, parts: int, heads: Heads) -> tuple[torch.Tensor, ...]:
    """[sequences, heads, length, size] of each of the parts that lie side by side in a row."""
    rows = joint[made.rows].view(*made.real.shape, parts, *heads.shape)
    return rows.permute(2, 0, 3, 1, 4).unbind(0)
