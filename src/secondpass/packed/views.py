"""Attention on a CPU: torch's fused kernel on views of the matrix, a sequence or a few of equal length at a time.

Nothing is padded and the working set stays in the cache. The kernel is up to twice as fast when the number of keys is
a multiple of 16, so the view of the keys reaches into the rows behind the sequence and a mask hides those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from secondpass.packed.heads import Heads
from secondpass.packed.layout import Lengths, Packed

BLOCK = 16
# Tokens that are worked on together.
TOGETHER = 512
# Queries that are worked on together where each sees a window only.
QUERIES = 256


def spare_rows(lengths: Lengths) -> int:
    """Rows that must lie behind the last sequence, so that every view of keys ends inside the matrix."""
    ends = np.cumsum(lengths)
    return max(0, int((ends - lengths + _widened(lengths)).max() - ends[-1]))


def _widened(length: Any) -> Any:
    return -(-length // BLOCK) * BLOCK


@dataclass(frozen=True, slots=True)
class _Run:
    """`count` sequences of one length from row `start` on, the first of them being sequence `number`."""

    start: int
    number: int
    count: int
    length: int


def _runs(lengths: Lengths) -> list[_Run]:
    made: list[_Run] = []
    start = number = 0
    while number < len(lengths):
        length = int(lengths[number])
        most = max(1, TOGETHER // length)
        count = int(np.sum(lengths[number : number + most] == length))
        made.append(_Run(start, number, count, length))
        start, number = start + count * length, number + count
    return made


class Views:
    """A call of torch's attention for each run of equal sequences."""

    def __init__(self, packed: Packed) -> None:
        self.spare = spare_rows(packed.lengths)
        self._runs = _runs(packed.lengths)
        self._tokens = len(packed.ids)
        self._masks: dict[tuple[int, ...], torch.Tensor | None] = {}

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks."""
        out = qkv.new_empty(len(qkv), heads.hidden)
        # what the views of keys reach into must be finite
        out[self._tokens :].zero_()
        for run in self._runs:
            rows = out[run.start : run.start + run.count * run.length].view(run.count, run.length, *heads.shape)
            query, key, value = _cut(qkv, run, 3, int(_widened(run.length)), heads)
            block = run.length if heads.window is None else QUERIES
            for begin in range(0, run.length, block):
                end = min(begin + block, run.length)
                low, high = _seen(begin, end, run.length, heads.window)
                width = int(_widened(high - low))
                mask = self._mask(end - begin, width, begin - low, high - low, heads.window or run.length, qkv.dtype)
                keys = slice(low, low + width)
                context = F.scaled_dot_product_attention(
                    query[:, :, begin:end], key[:, :, keys], value[:, :, keys], attn_mask=mask
                )
                rows[:, begin:end] = context.transpose(1, 2)
        return out

    def first(self, query: torch.Tensor, kv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """First tokens ask."""
        out = torch.empty_like(query)
        for run in self._runs:
            seen = _seen(0, 1, run.length, heads.window)[1]
            width = int(_widened(seen))
            key, value = _cut(kv, run, 2, width, heads)
            asking = slice(run.number, run.number + run.count)
            mask = self._mask(1, width, 0, seen, run.length, kv.dtype)
            own = query[asking].view(run.count, 1, *heads.shape).transpose(1, 2)
            context = F.scaled_dot_product_attention(own, key, value, attn_mask=mask)
            out[asking] = context.transpose(1, 2).reshape(run.count, -1)
        return out

    def _mask(
        self, asking: int, width: int, ahead: int, real: int, window: int, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """Added to scores [asking, width]: `real` keys are seen, `window` around each query; None adds nothing.

        `ahead` keys lie in front of the one of the first query.
        """
        place = (asking, width, ahead, real, window)
        if place not in self._masks:
            keys = torch.arange(width)
            hidden = (keys >= real)[None]
            if window < max(asking + ahead, real - ahead):
                hidden = hidden | ((keys - torch.arange(asking)[:, None] - ahead).abs() > window)
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)[None, None]
            self._masks[place] = mask if width > real or len(hidden) > 1 else None
        return self._masks[place]


def _seen(begin: int, end: int, length: int, window: int | None) -> tuple[int, int]:
    """The keys that queries from `begin` to `end` of a sequence see, and some before those: blocks begin with one."""
    if window is None:
        return 0, length
    return max(0, begin - window) // BLOCK * BLOCK, min(length, end + window)


def _cut(joint: torch.Tensor, run: _Run, parts: int, width: int, heads: Heads) -> tuple[torch.Tensor, ...]:
    """Views [sequences, heads, width, size] of each of the parts that lie side by side in a row."""
    row = joint.stride(0)
    shape = (parts, run.count, heads.count, width, heads.size)
    stride = (heads.hidden, run.length * row, heads.size, row, 1)
    return joint.as_strided(shape, stride, joint.storage_offset() + run.start * row).unbind(0)
