"""Decoders as plain weights, and their forward without padding and without repetition.

Rotary positions, grouped heads, gated feed-forward, division by the root of the mean square. What inputs begin with
alike is computed once (see `forwards.prefixes`), what follows lies end to end in one matrix [tokens, hidden], which all
linear layers read. Of the last layer only the last tokens' rows are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from secondpass.forwards.attention import ALIKE, BLOCK, QUERIES, TOGETHER, Lengths, Rectangle, alike, rectangle
from secondpass.forwards.contract import Logits, plan
from secondpass.forwards.description import HiddenActivation, Linear, Readout, mapped
from secondpass.forwards.packed import ACTIVATIONS, linear, read_out, rounded_rows
from secondpass.forwards.padded import as_numpy
from secondpass.forwards.prefixes import Prefix, PrefixCache, shared_beginnings, side_by_side
from secondpass.inputs import Ids
from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class RootNorm:
    """Over the root of the mean square, then times `weight` float32 [size] (Zhang & Sennrich, RMSNorm, 2019)."""

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Rotation:
    """Position p turns pair i of a head by p * frequencies[i]; float32 [head size / 2]. Both are scaled."""

    frequencies: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Each block reads `..._norm` of the rows; its output goes through `..._out_norm`, where there is one.

    Key head i serves as many query heads, from i times that many on. `rotation` is a number in the decoder's; a token
    sees itself and `window` - 1 tokens before, None all of them.
    """

    attention_norm: RootNorm
    query: Linear
    key: Linear
    value: Linear
    query_norm: RootNorm | None
    key_norm: RootNorm | None
    attention_out: Linear
    attention_out_norm: RootNorm | None
    feed_norm: RootNorm
    gate: Linear
    up: Linear
    down: Linear
    feed_out_norm: RootNorm | None
    rotation: int
    window: int | None


@dataclass(frozen=True, slots=True)
class Decoder:
    """The whole model: words times `word_scale`, layers, `final_norm`, readout.

    Scores of attention are products times `score_scale`, then within `soft_cap` (cap * tanh(score / cap)). Tokens
    `padding` behind the last other one are not read.
    """

    words: torch.Tensor
    word_scale: float
    rotations: tuple[Rotation, ...]
    layers: tuple[DecoderLayer, ...]
    final_norm: RootNorm
    readout: Readout
    heads: int
    key_heads: int
    head_size: int
    score_scale: float
    soft_cap: float | None
    activation: HiddenActivation
    padding: int | None

    @property
    def hidden(self) -> int:
        """Width of a token between layers."""
        return int(self.words.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.words.device


# ---- Where tokens lie.
#
# Elements of the scores of one head that are worked on together, and of masks that are kept for the next layer.
SCORES = 2**21
MASKS = 2**22


@dataclass(frozen=True, slots=True)
class _Group:
    """Inputs behind one beginning, in one rectangle."""

    begun: Prefix | None
    places: Rectangle
    lengths: Lengths

    @property
    def before(self) -> int:
        """Tokens in front."""
        return 0 if self.begun is None else len(self.begun)


_Block = tuple[slice, slice, torch.Tensor]
"""Queries, the keys that some of them see, and what hides the others: [inputs or 1, 1, queries of a key head, keys]."""


class _Layout:
    """Tails of inputs end to end, those behind one beginning side by side, longest first.

    `ids` and `positions` int64 [rows], with some rows behind the tokens; `lasts` int64 [inputs] the row of each last
    token; `order` int64 [inputs] the input of each tail.
    """

    def __init__(
        self, tails: Sequence[Ids], begun: Sequence[Prefix | None], device: torch.device, dtype: torch.dtype
    ) -> None:
        numbers = {id(own): number for number, own in enumerate(begun)}
        order = sorted(range(len(tails)), key=lambda place: (numbers[id(begun[place])], -len(tails[place])))
        lengths = np.array([len(tails[place]) for place in order])
        ends = np.cumsum(lengths)
        self.tokens = int(ends[-1])
        before = np.array([0 if begun[place] is None else len(begun[place]) for place in order])  # type: ignore[arg-type]
        ids, positions = np.zeros((2, rounded_rows(self.tokens, device, dtype)), np.int64)
        ids[: self.tokens] = np.concatenate([tails[place] for place in order])
        positions[: self.tokens] = np.arange(self.tokens) + np.repeat(before - ends + lengths, lengths)
        self.ids, self.positions, self.lasts, self.order = (
            torch.from_numpy(values).to(device) for values in (ids, positions, ends - 1, np.array(order))
        )
        self.groups = []
        share, most = (1.0, TOGETHER) if device.type == "cpu" else (ALIKE, self.tokens)
        edges = [place for place, own in enumerate(order) if place == 0 or begun[own] is not begun[order[place - 1]]]
        for begin, end in zip(edges, [*edges[1:], len(order)], strict=True):
            for part in alike(lengths[begin:end], share, lambda length: most // length):
                own = slice(begin + part.start, begin + part.stop)
                made = rectangle(own, lengths[own], (ends - lengths)[own], device)
                self.groups.append(_Group(begun[order[begin]], made, lengths[own]))
        self.dtype = dtype
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}
        self._room = MASKS

    def blocks(self, group: _Group, ends: bool, window: int | None, each: int) -> Iterator[_Block]:
        """Queries of a group that are worked on together; with `ends` it is the last token of each input that asks."""
        before, length = group.before, group.places.real.shape[1]
        width = -(-(before + length) // BLOCK) * BLOCK
        step = 1 if ends else max(BLOCK, min(QUERIES, SCORES // (each * width)))
        for begin in range(0, 1 if ends else length, step):
            end = begin + 1 if ends else min(length, begin + step)
            low = 0 if ends or window is None else max(0, before + begin - window + 1) // BLOCK * BLOCK
            high = width if ends else -(-(before + end) // BLOCK) * BLOCK
            place = (before, begin, end, low, high, window or 0)
            mask = None if ends else self._masks.get(place)
            if mask is None:
                asking = torch.arange(before + begin, before + end, device=self.ids.device)[None]
                if ends:
                    asking = torch.from_numpy(before + group.lengths - 1).to(self.ids.device)[:, None]
                mask = _mask(asking, torch.arange(low, high, device=self.ids.device), window, each).to(self.dtype)
                if not ends and mask.numel() <= self._room:
                    self._room -= mask.numel()
                    self._masks[place] = mask
            yield slice(begin, end), slice(low, high), mask


def _mask(asking: torch.Tensor, keys: torch.Tensor, window: int | None, each: int) -> torch.Tensor:
    """What is added to the scores of keys [keys] from places [inputs or 1, asking]: 0 where a key is seen."""
    seen = keys <= asking[:, :, None]
    if window is not None:
        seen &= keys > asking[:, :, None] - window
    return (
        torch.zeros(seen.shape, device=keys.device).masked_fill_(~seen, -torch.inf)[:, None].repeat_interleave(each, 2)
    )


# ---- The forward.
Turn = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine float32 [rows, 1, head size / 2]."""

# Of keys and values that are kept between calls.
CACHE_BYTES = {"cpu": 256 * 2**20}
CACHE_BYTES_ELSEWHERE = 1024 * 2**20


class PackedDecoder:
    """Model inputs to logits, without padding and without repetition.

    Equal to transformers' own forward but for rounding: matrix products may add up in another order for another number
    of rows, so what a pair gets depends by that much on its batch, and on which beginnings are kept from earlier ones.
    Linear layers and attention are computed in `dtype`, all else, the sum that layers add to included, in float32.

    Args:
        decoder: stays as it is: what is kept between calls belongs to these weights.
        dtype: None computes in the type of the weights.
    """

    def __init__(self, decoder: Decoder, dtype: torch.dtype | None = None) -> None:
        self._own, self.dtype, self.device = decoder, dtype or decoder.words.dtype, decoder.device
        self._layers = [_converted(layer, self.dtype) for layer in decoder.layers]
        self._readout = mapped(decoder.readout, torch.Tensor.float)
        self._each = decoder.heads // decoder.key_heads
        room = CACHE_BYTES.get(self.device.type, CACHE_BYTES_ELSEWHERE)
        width = 2 * decoder.key_heads * decoder.head_size * self.dtype.itemsize
        self._longest = room // (width * len(decoder.layers))
        self.prefixes = PrefixCache(room)

    @staticmethod
    def plan(inputs: Sequence[Tokens], max_batch_tokens: int) -> list[tuple[int, ...]]:
        """Inputs that begin alike share a batch."""
        order = side_by_side([item.ids for item in inputs])
        return plan([len(item) for item in inputs], max_batch_tokens, len(inputs), padded=False, order=order)

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> logits float32 [pairs, labels], in the order of `inputs`."""
        try:
            return as_numpy(lambda: self._logits(inputs), self.device)
        except MemoryError:
            if not len(self.prefixes):
                raise
            self.prefixes.renew()
        return as_numpy(lambda: self._logits(inputs), self.device)

    @torch.inference_mode()
    def _logits(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        ids = [self._read(item.ids) for item in inputs]
        begun = self._begun(ids)
        tails = [own[0 if begin is None else len(begin) :] for own, begin in zip(ids, begun, strict=True)]
        layout = _Layout(tails, begun, self.device, self.dtype)
        x = self._rows(layout, None)
        logits = read_out(self._readout, _normed(self._own.final_norm, x, torch.float32))
        return torch.empty_like(logits).index_copy_(0, layout.order, logits)

    def _read(self, ids: Ids) -> Ids:
        """Up to the token that is scored."""
        ids = np.ascontiguousarray(ids, np.int32)
        if self._own.padding is None:
            return ids
        others = np.flatnonzero(ids != self._own.padding)
        return ids[: others[-1] + 1 if len(others) else 1]

    def _begun(self, ids: Sequence[Ids]) -> list[Prefix | None]:
        """The longest known beginning of each input, after those that inputs share have been computed."""
        told = shared_beginnings([*ids, *self.prefixes.recent(ids[0])], self._longest)[: len(ids)]
        known = {own[:length].tobytes(): own[:length] for own, ends in zip(ids, told, strict=True) for length in ends}
        made = {key: self._prefix(known[key]) for key in sorted(known, key=len)}
        begun = []
        for own, ends in zip(ids, told, strict=True):
            kept, shared = self.prefixes.whole(own), made[own[: ends[-1]].tobytes()] if ends else None
            begun.append(kept if shared is None or (kept is not None and len(kept) > len(shared)) else shared)
        return begun

    def _prefix(self, ids: Ids) -> Prefix:
        """Its keys and values; always a run of its own, so that they do not depend on the inputs that have it."""
        found = self.prefixes.nearest(ids)
        if found is not None and len(found) == len(ids):
            return found
        layout = _Layout([ids[0 if found is None else len(found) :]], [found], self.device, self.dtype)
        states: list[torch.Tensor] = []
        self._rows(layout, states)
        if found is not None:
            states = [torch.cat(parts, dim=1) for parts in zip(found.states, states, strict=True)]
        made = Prefix(ids, tuple(states))
        self.prefixes.keep(made)
        return made

    def _rows(self, layout: _Layout, states: list[torch.Tensor] | None) -> torch.Tensor:
        """The last tokens' rows behind all layers, float32 [inputs, hidden]; or each layer's keys and values alone."""
        own = self._own
        x = F.embedding(layout.ids, own.words).float()
        x = x * own.word_scale if own.word_scale != 1 else x
        turns = [_turn(layout.positions, rotation) for rotation in own.rotations]
        for number, layer in enumerate(self._layers):
            last = number == len(self._layers) - 1
            turn = turns[layer.rotation]
            given = _normed(layer.attention_norm, x, self.dtype)
            key = _turned(linear(layer.key, given).view(len(given), own.key_heads, -1), layer.key_norm, turn)
            value = linear(layer.value, given).view(len(given), own.key_heads, -1)
            if states is not None:
                states.append(torch.stack([key[: layout.tokens], value[: layout.tokens]]))
                if last:
                    break
            if last:
                given, x = given[layout.lasts], x[layout.lasts]
                turn = turn[0][layout.lasts], turn[1][layout.lasts]
            query = _turned(linear(layer.query, given).view(len(given), own.heads, -1), layer.query_norm, turn)
            context = self._attended(layout, number, query, key, value)
            x = _added(layer.attention_out, layer.attention_out_norm, context, x)
            given = _normed(layer.feed_norm, x, self.dtype)
            inner = ACTIVATIONS[own.activation](linear(layer.gate, given)).mul_(linear(layer.up, given))
            x = _added(layer.down, layer.feed_out_norm, inner, x)
        return x

    def _attended(
        self, layout: _Layout, number: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Queries [rows or inputs, heads, size] to contexts [rows or inputs, hidden]."""
        own, ends = self._own, number == len(self._layers) - 1
        out = query.new_empty(len(query), own.heads * own.head_size)
        out[layout.tokens :] = 0
        for group in layout.groups:
            places, count = group.places, len(group.lengths)
            states = (None, None) if group.begun is None else group.begun.states[number]
            keys, values = (
                _behind(begun, rows[places.rows], count) for begun, rows in zip(states, (key, value), strict=True)
            )
            rows = query[places.numbers if ends else places.rows]
            scattered = places.pads and not ends
            made = torch.empty_like(rows) if scattered else out[places.numbers if ends else places.rows]
            shape = (count, -1, own.key_heads, self._each, own.head_size)
            asking, contexts = rows.view(shape).transpose(1, 2), made.view(shape).transpose(1, 2)
            for asked, seen, mask in layout.blocks(group, ends, self._layers[number].window, self._each):
                part = asking[:, :, asked]
                context = _attention(
                    part.flatten(2, 3), keys[:, :, seen], values[:, :, seen], mask, own.score_scale, own.soft_cap
                )
                contexts[:, :, asked] = context.view(part.shape)
            if scattered:
                out[places.lies] = made.flatten(1)[places.kept]
        return out


def _converted(layer: DecoderLayer, dtype: torch.dtype) -> DecoderLayer:
    """Linear layers of another type; norms stay as they are."""
    made: dict[str, Any] = {part.name: getattr(layer, part.name) for part in fields(layer)}
    for name, own in made.items():
        made[name] = mapped(own, lambda it: it.to(dtype)) if isinstance(own, Linear) else own
    return DecoderLayer(**made)


def _behind(begun: torch.Tensor | None, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Keys or values of inputs, with those of their beginning in front and zeros up to a whole block behind.

    [tokens, key heads, size], [inputs * length, key heads, size] -> [inputs, key heads, keys, size].
    """
    before = 0 if begun is None else len(begun)
    length = len(rows) // count
    made = rows.new_empty(count, -(-(before + length) // BLOCK) * BLOCK, *rows.shape[1:])
    if begun is not None:
        made[:, :before] = begun
    made[:, before : before + length] = rows.view(count, length, *rows.shape[1:])
    made[:, before + length :] = 0
    return made.transpose(1, 2)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, cap: float | None
) -> torch.Tensor:
    """[inputs, heads, queries or keys, size] and what is added to scores -> contexts like the queries."""
    if cap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = (query @ key.transpose(2, 3)).float().mul_(scale / cap).tanh_().mul_(cap)
    return scores.add_(mask).softmax(dim=-1).to(value.dtype) @ value


def _normed(own: RootNorm, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 [rows, hidden] -> the same in `dtype`."""
    return _times(x * _over_root(x, own.eps), own.weight, dtype)


def _times(x: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Overwrites `x` where that has the type asked for."""
    return torch.mul(x, factor, out=x if x.dtype == dtype else torch.empty_like(x, dtype=dtype))


def _over_root(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / root of the mean square, over the last dimension."""
    lengths: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return lengths.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _added(own: Linear, norm: RootNorm | None, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`x` float32, which is overwritten, and what a linear layer (and a norm) makes of the rows."""
    if norm is not None:
        return x.add_(_normed(norm, linear(own, rows).float(), torch.float32))
    if own.bias is None and rows.dtype == x.dtype:
        return x.addmm_(rows, own.weight.t())
    return x.add_(linear(own, rows))


def _turn(positions: torch.Tensor, own: Rotation) -> Turn:
    angles = positions[:, None, None].float() * own.frequencies
    return angles.cos() * own.scale, angles.sin() * own.scale


def _turned(rows: torch.Tensor, norm: RootNorm | None, turn: Turn) -> torch.Tensor:
    """Normalise each head of rows [rows, heads, size] and turn it by its place (Su et al. 2021, halves as pairs).

    The norm's weights go into the cosines and sines, which all heads share.
    """
    weights = (1.0, 1.0) if norm is None else norm.weight.chunk(2)
    cosines, sines = ([part * weight for weight in weights] for part in turn)
    x = rows.float()
    made = torch.empty_like(x)
    (left, right), (made_left, made_right) = x.chunk(2, dim=-1), made.chunk(2, dim=-1)
    torch.mul(left, cosines[0], out=made_left).addcmul_(right, sines[1], value=-1)
    torch.mul(right, cosines[1], out=made_right).addcmul_(left, sines[0])
    return made.to(rows.dtype) if norm is None else _times(made, _over_root(x, norm.eps), rows.dtype)
