"""Attention whose scores also depend on how far apart two tokens are, on any device (He et al., DeBERTa, 2021).

A query's product with the row of every distance is one matrix product; the score of a query and a key then lies on a
diagonal of that, which a view with other strides turns into a row. No index is gathered for each pair of tokens.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from secondpass.packed.encoder import Relative
from secondpass.packed.heads import Heads
from secondpass.packed.layout import Packed
from secondpass.packed.rectangles import Rectangle, laid, rectangles


class RelativeAttention:
    """Scores of content, and of content with distance, in one call of torch's attention for each rectangle.

    Args:
        packed: the batch.
        buckets: of the encoder.
        alike: sequences share a rectangle if the shortest has this share of the longest one's tokens; with 1 no place
            is padding.
        together: most places of a rectangle that has more than one sequence.
    """

    spare = 0

    def __init__(self, packed: Packed, buckets: npt.NDArray[np.int64], alike: float, together: int) -> None:
        self._made = rectangles(packed, alike, together)
        self._tokens = len(packed.ids)
        self._longest = int(packed.lengths.max())
        span = len(buckets) // 2
        distances = np.arange(1 - self._longest, self._longest)
        rows = torch.from_numpy(buckets[np.clip(distances, -span, span - 1) + span])
        self._rising, self._falling = rows.to(packed.ids.device), rows.flip(0).to(packed.ids.device)

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks."""
        out = qkv.new_empty(len(qkv), heads.hidden)
        out[self._tokens :].zero_()
        keys, queries = self._by_distance(heads, qkv.dtype)
        for made in self._made:
            query, key, value = laid(qkv, made, 3, heads)
            length = query.shape[2]
            added = _sum(
                None if keys is None else _diagonals(query, self._near(keys, length)),
                None if queries is None else _diagonals(key, self._near(queries, length)).transpose(2, 3),
            )
            out[made.lies] = _attended(made, query, key, value, added, heads)[made.kept]
        return out

    def first(self, query: torch.Tensor, kv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """First tokens ask."""
        out = torch.empty_like(query)
        keys, queries = self._by_distance(heads, kv.dtype)
        for made in self._made:
            key, value = laid(kv, made, 2, heads)
            own = query[made.numbers].view(-1, 1, *heads.shape).transpose(1, 2)
            # the first token lies 0, -1, -2, ... from the others
            length = key.shape[2]
            falling = slice(self._longest - 1, self._longest + length - 1)
            rising = slice(self._longest - length, self._longest)
            added = _sum(
                None if keys is None else own @ keys[:, :, falling],
                None if queries is None else (key.transpose(2, 3) * queries[:, :, rising].flip(2)).sum(2, keepdim=True),
            )
            out[made.numbers] = _attended(made, own, key, value, added, heads)
        return out

    def _by_distance(self, heads: Heads, dtype: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The layer's keys by falling and queries by rising distance, scaled [heads, size, distances]."""
        relative, scale = heads.relative or Relative(None, None), _scale(heads)
        found = [
            None if table is None else (table[rows] * scale).to(dtype).view(-1, *heads.shape).permute(1, 2, 0)
            for table, rows in ((relative.keys, self._falling), (relative.queries, self._rising))
        ]
        return found[0], found[1]

    def _near(self, table: torch.Tensor, length: int) -> torch.Tensor:
        """Those distances that a sequence of that length has."""
        return table[:, :, self._longest - length : self._longest + length - 1]


def _attended(
    made: Rectangle,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    added: torch.Tensor | None,
    heads: Heads,
) -> torch.Tensor:
    """-> contexts [places that ask, hidden]."""
    if made.pads:
        hidden = ~made.real[:, None, None]
        if added is None:
            added = query.new_zeros(hidden.shape)
        added = added.masked_fill(hidden, -torch.inf)
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=_scale(heads))
    return context.transpose(1, 2).reshape(-1, heads.hidden)


def _scale(heads: Heads) -> float:
    relative = heads.relative or Relative(None, None)
    parts = 1 + (relative.keys is not None) + (relative.queries is not None)
    return 1 / math.sqrt(heads.size * parts)


def _sum(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def _diagonals(asking: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Products of rows with what lies 1 - length ... length - 1 places behind them.

    [sequences, heads, length, size], [heads, size, 2 * length - 1] -> [sequences, heads, length, length]: element
    [i, j] is the product of row i with column j - i + length - 1.
    """
    count, heads, length, size = asking.shape
    product = asking.transpose(0, 1).reshape(heads, count * length, size) @ near
    width = 2 * length - 1
    return product.as_strided(
        (count, heads, length, length), (length * width, count * length * width, width - 1, 1), length - 1
    )
