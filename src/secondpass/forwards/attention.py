"""Attention within the sequences of a batch that lie end to end, the one matrix that every linear layer reads.

`Views` is best on a CPU, `Rectangles` works on any device, and so does `RelativeAttention`, whose scores also depend on
how far apart two tokens are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from secondpass.forwards.description import Relative
from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Heads:
    """How a row of queries, keys and values is cut.

    `window` is how far a token sees to either side, None for all of its sequence; `relative` what distances add to
    scores, read by `RelativeAttention` alone.
    """

    count: int
    size: int
    window: int | None = None
    relative: Relative | None = None

    @property
    def hidden(self) -> int:
        """Width of all heads side by side."""
        return self.count * self.size

    @property
    def shape(self) -> tuple[int, int]:
        """Of a row."""
        return self.count, self.size


class Attention(Protocol):
    """Attention for the layout of one batch; wants `spare` rows of zeros behind those of the tokens."""

    spare: int

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks: rows of query, key and value [rows, 3 * hidden] to contexts [rows, hidden]."""
        ...

    def first(self, query: torch.Tensor, kv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """First tokens ask: query [pairs, hidden], keys and values [rows, 2 * hidden] to contexts [pairs, hidden]."""
        ...


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


def alike(lengths: Lengths, share: float, most: Callable[[int], int]) -> Iterator[slice]:
    """Neighbours that are worked on together: the shortest has that share of the longest one's tokens.

    Args:
        lengths: longest first.
        share: up to 1, with which all are equal.
        most: how many sequences, at least one, by the length of the longest.
    """
    begin = 0
    while begin < len(lengths):
        longest = int(lengths[begin])
        end = begin + int(np.sum(lengths[begin : begin + max(1, most(longest))] >= share * longest))
        yield slice(begin, end)
        begin = end


# ---- On a CPU: torch's fused kernel on views of the matrix, a sequence or a few of equal length at a time.
#
# Nothing is padded and the working set stays in the cache. The kernel is up to twice as fast when the number of keys is
# a multiple of 16, so the view of the keys reaches into the rows behind the sequence and a mask hides those.
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


class Views:
    """A call of torch's attention for each run of equal sequences."""

    def __init__(self, packed: Packed) -> None:
        lengths = packed.lengths
        starts = np.cumsum(lengths) - lengths
        self.spare = spare_rows(lengths)
        self._runs = [
            _Run(int(starts[own.start]), own.start, own.stop - own.start, int(lengths[own.start]))
            for own in alike(lengths, 1, lambda length: TOGETHER // length)
        ]
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


# ---- On any device: sequences of like length padded to rectangles.
#
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


def rectangles(packed: Packed, share: float = ALIKE, together: int | None = None) -> list[Rectangle]:
    """Lay all sequences into rectangles, each of at most `together` places where it has more than one sequence."""
    lengths, device = packed.lengths, packed.ids.device
    starts = np.cumsum(lengths) - lengths
    groups = alike(lengths, share, lambda length: len(lengths) if together is None else together // length)
    return [rectangle(own, lengths[own], starts[own], device) for own in groups]


def rectangle(numbers: slice, lengths: Lengths, starts: Lengths, device: torch.device) -> Rectangle:
    """Sequences of these lengths, longest first, that begin at these rows and may have others between them."""
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


# ---- Scores that also depend on how far apart two tokens are, on any device (He et al., DeBERTa, 2021).
#
# A query's product with the row of every distance is one matrix product; the score of a query and a key then lies on a
# diagonal of that, which a view with other strides turns into a row. No index is gathered for each pair of tokens.
class RelativeAttention:
    """Scores of content, and of content with distance, in one call of torch's attention for each rectangle.

    `buckets` are the encoder's. Sequences share a rectangle if the shortest has `share` of the longest one's tokens; 1
    leaves no place for padding. A rectangle of more than one sequence has at most `together` places.
    """

    spare = 0

    def __init__(self, packed: Packed, buckets: npt.NDArray[np.int64], share: float, together: int) -> None:
        self._made = rectangles(packed, share, together)
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
