"""Attention and dropout of training, a few sequences of like length at a time: scores stay in the cache.

On a CPU torch's fused attention has no dropout, and its backward pass in bfloat16 takes three times as long as plain
products. Plain products over a whole batch write its scores [pairs, heads, length, length] to memory and back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from secondpass.errors import InvalidInput

# ---- Random numbers of dropout at a fifth of a nanosecond a byte, instead of torch's twenty for each element.
#
# Dropout: Srivastava et al. 2014, scaled while training, as in torch. Each element is decided by 16 random bits.
LEVELS = 2**16

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class DropoutSource:
    """The random numbers of dropout of one run: numpy's SFC64 (O'Neill's family, passes PractRand).

    What is drawn depends on the seed and on the calls before, not on threads or their number.

    Attributes:
        generator: its state is all the state there is.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.generator = np.random.Generator(np.random.SFC64(seed))

    def keep(self, shape: Sequence[int], share: float) -> torch.Tensor:
        """Draw a mask.

        Args:
            shape: of the mask.
            share: of the elements that are dropped, from 0 to 1; it is rounded to a multiple of 2**-16.

        Returns:
            bool of `shape`, True for what is kept.
        """
        count = math.prod(shape)
        words = self.generator.bit_generator.random_raw((count + 3) // 4)
        mask = words.view(np.uint16)[:count] >= levels_dropped(share)
        return torch.from_numpy(mask).view(tuple(shape))

    def as_json(self) -> dict[str, Any]:
        """Where the random numbers stand, as plain values."""
        state = self.generator.bit_generator.state
        return {
            "bit_generator": state["bit_generator"],
            "words": [int(word) for word in state["state"]["state"]],
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `as_json` gave.

        Raises:
            InvalidInput: `state` is no such state.
        """
        try:
            words = np.array(state["words"], dtype=np.uint64)
            if state["bit_generator"] != "SFC64" or words.shape != (4,):
                raise ValueError("four words of SFC64 are needed")
            halves = {name: int(state[name]) for name in ("has_uint32", "uinteger")}
            self.generator.bit_generator.state = {"bit_generator": "SFC64", "state": {"state": words}, **halves}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"this is no state of a dropout source: {error}") from error


def levels_dropped(share: float) -> int:
    """How many of the 65536 values of 16 bits drop an element."""
    return round(share * LEVELS)


def factor(share: float) -> float:
    """By which the kept elements grow, so that the mean stays: 1 over the exact probability that one is kept."""
    kept = LEVELS - levels_dropped(share)
    return LEVELS / kept if kept else 0.0


def zeroed(tensor: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Set the elements that are not kept to zero, in place.

    The bits are multiplied as integers, by 0 or 1: `masked_fill_` branches on every element and takes four times as
    long, and a product of float and bool ten times.
    """
    bits = _INTEGERS[tensor.element_size()]
    tensor.view(bits).mul_(keep.view(torch.uint8).to(bits))
    return tensor


def dropped(x: torch.Tensor, share: float, source: DropoutSource) -> torch.Tensor:
    """Drop out elements of a float tensor on the CPU; the gradient meets the same mask."""
    keep = source.keep(x.shape, share)
    made: torch.Tensor = _Dropped.apply(x, keep, factor(share))  # type: ignore[no-untyped-call]
    return made


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return zeroed(x * scale, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return zeroed(grad * ctx.scale, keep), None, None


# ---- Attention by chunks. Scores that are worked on together:
CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sequences that are worked on together, padded to one length.

    Attributes:
        size: how many.
        queries: their rows of the queries, one after the other.
        keys: their rows of keys and values.
        query_places: int64 [queries], where each row lies in the padded [size * length]; None if nothing is padded.
        key_places: the same for keys.
        lengths: padded lengths of queries and of keys.
        mask: None, bool (True is seen) or float (added), and spreads to [size, heads, queries, keys].
    """

    size: int
    queries: slice
    keys: slice
    lengths: tuple[int, int]
    query_places: torch.Tensor | None = None
    key_places: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def asking(self, part: torch.Tensor) -> torch.Tensor:
        """Its rows of the queries or of what belongs to them, [size * heads, length, width]."""
        return _padded(part[self.queries], self.query_places, self.size, self.lengths[0])

    def asked(self, part: torch.Tensor) -> torch.Tensor:
        """Its rows of keys or values, [size * heads, length, width]."""
        return _padded(part[self.keys], self.key_places, self.size, self.lengths[1])


@dataclass(frozen=True, slots=True)
class Dropping:
    """Dropout of attention's probabilities."""

    source: DropoutSource
    share: float


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    chunks: Sequence[Chunk],
    scale: float,
    dropping: Dropping | None = None,
) -> torch.Tensor:
    """Softmax attention within each sequence.

    Args:
        query: float [queries, heads, size], sequences one after the other.
        key: the same type, [keys, heads, size].
        value: like `key`.
        chunks: every row lies in exactly one.
        scale: of the products.
        dropping: None drops nothing.

    Returns:
        Like `query`.
    """
    made: torch.Tensor = _Attention.apply(query, key, value, tuple(chunks), scale, dropping)  # type: ignore[no-untyped-call]
    return made


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        chunks: tuple[Chunk, ...],
        scale: float,
        dropping: Dropping | None,
    ) -> torch.Tensor:
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        saved = []
        with torch.autocast("cpu", enabled=False):
            for chunk in chunks:
                scores = _product(chunk.asking(query), chunk.asked(key).mT, scale)
                probs = torch.softmax(_masked(scores, chunk), dim=-1)
                saved.append(probs)
                if dropping is not None:
                    keep = dropping.source.keep(probs.shape, dropping.share)
                    saved.append(keep)
                    probs = zeroed(probs.clone(), keep)
                context = _product(probs, chunk.asked(value), 1.0 if dropping is None else factor(dropping.share))
                out[chunk.queries] = _flat(context, chunk.query_places, chunk.size)
        ctx.save_for_backward(query, key, value, *saved)
        ctx.chunks, ctx.scale, ctx.dropping = chunks, scale, dropping
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        made = [torch.empty_like(part) for part in (query, key, value)]
        entries = iter(saved)
        dropping = ctx.dropping
        with torch.autocast("cpu", enabled=False):
            for chunk in ctx.chunks:
                q, g, k, v = chunk.asking(query), chunk.asking(grad), chunk.asked(key), chunk.asked(value)
                probs = seen = next(entries)
                grown = 1.0 if dropping is None else factor(dropping.share)
                d_probs = _product(g, v.mT, grown)
                if dropping is not None:
                    keep = next(entries)
                    seen = zeroed(probs.clone(), keep)
                    zeroed(d_probs, keep)
                d_value = _product(seen.mT, g, grown)
                d_scores = torch._softmax_backward_data(d_probs, probs, -1, probs.dtype)
                d_query = _product(d_scores, k, ctx.scale)
                d_key = _product(d_scores.mT, q, ctx.scale)
                made[0][chunk.queries] = _flat(d_query, chunk.query_places, chunk.size)
                made[1][chunk.keys] = _flat(d_key, chunk.key_places, chunk.size)
                made[2][chunk.keys] = _flat(d_value, chunk.key_places, chunk.size)
        return *made, None, None, None


def _product(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """`scale` times the product of [n, a, b] and [n, b, c], scaled on the way."""
    if scale == 1.0:
        return torch.bmm(left, right)
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)


def _padded(part: torch.Tensor, places: torch.Tensor | None, size: int, length: int) -> torch.Tensor:
    """[rows, heads, width] to [size * heads, length, width], zeros in the unused places."""
    heads, width = part.shape[1:]
    if places is not None:
        part = part.new_zeros(size * length, heads, width).index_copy_(0, places, part)
    if size == 1:
        return part.transpose(0, 1)
    return part.reshape(size, length, heads, width).transpose(1, 2).reshape(size * heads, length, width)


def _flat(part: torch.Tensor, places: torch.Tensor | None, size: int) -> torch.Tensor:
    """[size * heads, length, width] to [rows, heads, width], the way back."""
    if size == 1:
        rows = part.transpose(0, 1)
    else:
        rows = part.view(size, -1, *part.shape[1:]).transpose(1, 2).flatten(0, 1)
    return rows if places is None else rows.index_select(0, places)


def _masked(scores: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    """Apply a mask in place; a row that sees nothing (padding) gets equal probabilities, not NaN."""
    mask = chunk.mask
    if mask is not None:
        whole = scores.view(chunk.size, -1, *scores.shape[1:])
        if mask.dtype == torch.bool:
            whole.masked_fill_(~mask, torch.finfo(scores.dtype).min)
        else:
            whole.add_(mask)
    return scores
