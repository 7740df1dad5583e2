"""The forward of an encoder in numpy alone: plain, exact, for wherever there is neither the kernel nor torch.

Every sequence is computed by itself, in float32: its logits are the same numbers, bit for bit, whatever else is in the
batch. Where first tokens are read, the last layer's queries and all behind them are those of the first token alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from secondpass.forwards.contract import Logits, checked_inputs
from secondpass.forwards.description import Embeddings, Encoder, Layer, Linear, Norm, Pooling, Readout, mapped
from secondpass.tokens import Tokens

Floats = npt.NDArray[np.float32]
Turns = tuple[Floats, Floats]
"""Cosine and sine of each position, [tokens, 1, head size / 2]."""

# Queries that ask together: their scores with a long sequence still fit into memory.
QUERIES = 256
# Numbers that an activation is computed of at a time: what lies between its steps stays in the cache.
TOGETHER = 2**15

# Half of erfc(u / sqrt 2), what a normal distribution has beyond u: exp(-u * u / 2) times a polynomial of
# t = 1 / (1 + TAIL_RATE * u) without a constant, fitted for the smallest relative error of 0 <= u <= 14 (3.4e-8).
TAIL_RATE = 0.35
TAIL = (
    0.139621404, 0.139861869, 0.119832873, 0.105507982, -0.0231097824, 0.159174082, -0.255714186, 0.143971665,
    -0.0291459235,
)  # fmt: skip
GELU_SLOPE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def tail(u: Floats) -> Floats:
    """Half of erfc(u / sqrt 2) for u >= 0, float32 -> the same, to 2e-7."""
    t = np.reciprocal(1 + np.float32(TAIL_RATE) * u)
    made: Floats = np.full_like(t, TAIL[-1], np.float32)
    for factor in reversed(TAIL[:-1]):
        made *= t
        made += np.float32(factor)
    made *= t
    made *= np.exp(u * u * np.float32(-0.5))
    return made


def _gelu(x: Floats) -> Floats:
    size = np.abs(x)
    return np.maximum(x, 0) - size * tail(size)


def _gelu_tanh(x: Floats) -> Floats:
    inner = np.float32(GELU_SLOPE) * (x + np.float32(GELU_CUBIC) * (x * x * x))
    made: Floats = np.float32(0.5) * x * (1 + np.tanh(inner))
    return made


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


class PlainEncoder:
    """Model inputs to logits; where all tokens are read out to their states, end to end.

    Equal to transformers' own forward but for rounding.

    Args:
        encoder: its arrays are read as float32.

    Raises:
        ValueError: it has relative positions, which no folder has that is read without torch.
    """

    def __init__(self, encoder: Encoder) -> None:
        if encoder.buckets is not None:
            raise ValueError("relative positions are computed by torch alone")
        self._encoder = mapped(encoder, lambda part: np.asarray(part, np.float32))
        own = self._encoder.embeddings
        positions = None if own.positions is None else len(own.positions) - own.first_position
        self._rows = len(own.words), positions, None if own.types is None else len(own.types)

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> float32 [pairs, labels] or [tokens, hidden], in the order of `inputs`.

        Raises:
            InvalidInput: an input is empty, longer than the positions, or has an id or type beyond its table.
        """
        if not inputs:
            return np.empty((0, self._encoder.readout.labels), np.float32)
        lengths, _, _ = checked_inputs(inputs, *self._rows)
        turns = self._turns(int(lengths.max()))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            return np.concatenate([self._logits(item, turns) for item in inputs])

    def _turns(self, longest: int) -> dict[bytes, Turns]:
        """Of every kind of frequencies that layers have."""
        first, made = self._encoder.embeddings.first_position, {}
        positions = np.arange(first, first + longest, dtype=np.float32)[:, None, None]
        for layer in self._encoder.layers:
            if layer.frequencies is not None and layer.frequencies.tobytes() not in made:
                angles = (positions * layer.frequencies).astype(np.float64)
                made[layer.frequencies.tobytes()] = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        return made

    def _logits(self, item: Tokens, turns: dict[bytes, Turns]) -> Floats:
        own = self._encoder
        x, last = embedded(own.embeddings, item), len(own.layers) - 1
        for number, layer in enumerate(own.layers):
            asking = 1 if number == last and own.readout.pooling == "first" else len(x)
            turn = None if layer.frequencies is None else turns[layer.frequencies.tobytes()]
            x = self._through(layer, x, asking, turn)
        x = normed(own.final_norm, x)
        return x if own.readout.pooling == "tokens" else read_out(own.readout, pooled(own.readout.pooling, x))

    def _through(self, layer: Layer, x: Floats, asking: int, turn: Turns | None) -> Floats:
        """One layer: [tokens, hidden] -> [asking, hidden]."""
        own, hidden = self._encoder, x.shape[1]
        in_front = own.final_norm is not None
        given = normed(layer.attention_norm, x) if in_front else x
        shape = (own.heads, hidden // own.heads)
        query = linear(layer.qkv, given[:asking], 0, hidden).reshape(asking, *shape)
        kv = linear(layer.qkv, given, hidden).reshape(len(x), 2, *shape)
        key, value = kv[:, 0], kv[:, 1]
        if turn is not None:
            query, key = turned(query, turn), turned(key, turn)
        context = np.empty((asking, hidden), np.float32)
        for begin in range(0, asking, QUERIES):
            end = min(begin + QUERIES, asking)
            context[begin:end] = self._attended(layer, query[begin:end], key, value, begin)
        x = linear(layer.attention_out, context) + x[:asking]
        if in_front:
            return self._fed(layer, normed(layer.output_norm, x)) + x
        x = normed(layer.attention_norm, x)
        return normed(layer.output_norm, self._fed(layer, x) + x)

    def _attended(self, layer: Layer, query: Floats, key: Floats, value: Floats, begin: int) -> Floats:
        """Contexts [queries, hidden] of queries [queries, heads, size] that begin at a place of the sequence."""
        low, high = 0, len(key)
        if layer.window is not None:
            low, high = max(0, begin - layer.window), min(high, begin + len(query) + layer.window)
        asks, key, value = (part.transpose(1, 0, 2) for part in (query, key[low:high], value[low:high]))
        scores: Floats = asks @ key.transpose(0, 2, 1)
        scores *= np.float32(1 / math.sqrt(query.shape[2]))
        if layer.window is not None:
            distance = np.arange(begin, begin + len(query))[:, None] - np.arange(low, high)
            scores[:, np.abs(distance) > layer.window] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        context: Floats = np.matmul(scores, value).transpose(1, 0, 2).reshape(len(query), -1)
        return context

    def _fed(self, layer: Layer, x: Floats) -> Floats:
        inner = linear(layer.up, x)
        if self._encoder.gated:
            width = inner.shape[1] // 2
            inner, gate = inner[:, :width].copy(), inner[:, width:]
            activate(self._encoder.activation, inner)
            inner *= gate
        else:
            activate(self._encoder.activation, inner)
        return linear(layer.down, inner)


def embedded(own: Embeddings, item: Tokens) -> Floats:
    """[tokens, hidden]."""
    made = own.words[item.ids]
    if own.types is not None:
        made = made + own.types[item.type_ids]
    if own.positions is not None:
        made = made + own.positions[own.first_position : own.first_position + len(item)]
    made = normed(own.norm, made)
    return made if own.projection is None else linear(own.projection, made)


def turned(rows: Floats, turn: Turns) -> Floats:
    """Heads [tokens, heads, size] turned by their positions, halves instead of neighbours."""
    cos, sin = (part[: len(rows)] for part in turn)
    left, right = np.split(rows, 2, axis=2)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=2)


def pooled(pooling: Pooling, x: Floats) -> Floats:
    """[tokens, hidden] -> [1, hidden]."""
    if pooling in ("first", "last"):
        return x[:1] if pooling == "first" else x[-1:]
    made: Floats = x.max(axis=0, keepdims=True) if pooling == "max" else x.mean(axis=0, keepdims=True)
    return made


def read_out(own: Readout, rows: Floats) -> Floats:
    """What was pooled [1, hidden] -> logits [1, labels]."""
    for step in own.steps:
        rows = rows.copy() if step.linear is None else linear(step.linear, rows)
        activate(step.activation, rows)
        rows = normed(step.norm, rows)
        if step.unit:
            rows = rows / np.maximum(np.sqrt((rows * rows).sum(axis=1, keepdims=True)), np.float32(1e-12))
    return rows


def linear(own: Linear, x: Floats, begin: int = 0, end: int | None = None) -> Floats:
    """[rows, in] -> [rows, out], or some of the outputs."""
    made: Floats = x @ own.weight[begin:end].T
    if own.bias is not None:
        made += own.bias[begin:end]
    return made


def normed(own: Norm | None, x: Floats) -> Floats:
    """[rows, width] -> the same, as they are without a norm."""
    if own is None:
        return x
    made: Floats = x - x.mean(axis=1, keepdims=True)
    made /= np.sqrt((made * made).mean(axis=1, keepdims=True) + np.float32(own.eps))
    made *= own.weight
    if own.bias is not None:
        made += own.bias
    return made


def activate(name: str, values: Floats) -> None:
    """Apply an activation in place, some numbers at a time; "none" leaves them."""
    function = ACTIVATIONS.get(name)
    flat = values.reshape(-1)  # a view: rows of a product lie end to end
    if function is not None:
        for begin in range(0, len(flat), TOGETHER):
            flat[begin : begin + TOGETHER] = function(flat[begin : begin + TOGETHER])
