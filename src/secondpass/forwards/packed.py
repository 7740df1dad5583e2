"""The packed forward of a BERT-like encoder: every linear layer reads one matrix [tokens, hidden].

Embeddings and readout are computed in float32, the layers in the type of their weights. Where first tokens are read,
the last layer's queries and all behind them are those of first tokens alone, because nothing else of it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from secondpass.forwards.attention import (
    ALIKE,
    Attention,
    Heads,
    Packed,
    Rectangles,
    RelativeAttention,
    Views,
    moved,
    pack,
)
from secondpass.forwards.contract import Logits
from secondpass.forwards.description import (
    Embeddings,
    Encoder,
    Layer,
    Linear,
    Norm,
    Pooling,
    Readout,
    mapped,
)
from secondpass.forwards.padded import as_numpy
from secondpass.tokens import Tokens


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch brings the variable-length flash kernel for this device and type."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    known = {"window_size", "num_splits", "seqused_k"} <= set(signature(varlen_attn).parameters)
    return known and torch.cuda.get_device_capability(device) >= (8, 0)


class Flash:
    """One call for all sequences.

    Keys are not split among blocks, so that a pair's score does not depend on the longest pair of the batch.
    """

    spare = 0

    def __init__(self, packed: Packed) -> None:
        from torch.nn.attention.varlen import varlen_attn

        self._attend: Any = varlen_attn
        self._starts = torch.cat([packed.starts, packed.starts.new_tensor([len(packed.ids)])]).int()
        self._firsts = torch.arange(len(self._starts), dtype=torch.int32, device=self._starts.device)
        self._longest = int(packed.lengths[0])

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks."""
        query, key, value = qkv.view(len(qkv), 3, *heads.shape).unbind(1)
        sees = (-1, -1) if heads.window is None else (heads.window, heads.window)
        bounds = (self._starts, self._starts, self._longest, self._longest)
        made: torch.Tensor = self._attend(query, key, value, *bounds, window_size=sees, num_splits=1)
        return made.flatten(1)

    def first(self, query: torch.Tensor, kv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """First tokens ask."""
        key, value = kv.view(len(kv), 2, *heads.shape).unbind(1)
        seen = None
        if heads.window is not None:
            seen = self._starts.diff().clamp(max=heads.window + 1).int()
        bounds = (self._firsts, self._starts, 1, self._longest)
        own = query.view(-1, *heads.shape)
        made: torch.Tensor = self._attend(own, key, value, *bounds, seqused_k=seen, num_splits=1)
        return made.flatten(1)


# Share of tokens and most places of a rectangle with relative positions. On a CPU what lies between the products should
# stay in the cache; on a GPU it takes four numbers for each head and pair of tokens.
CPU_RELATIVE = (1.0, 512)
GPU_RELATIVE = (ALIKE, 16384)
# Rows are rounded up to a multiple of FINEST, and of the largest power of two of which that takes ENOUGH.
FINEST, ENOUGH = 16, 32


def attention_for(
    packed: Packed,
    device: torch.device,
    dtype: torch.dtype,
    head_size: int,
    buckets: npt.NDArray[np.int64] | None = None,
) -> Attention:
    """The best way for a device and a type; `buckets` of an encoder with relative positions."""
    if buckets is not None:
        return RelativeAttention(packed, buckets, *(CPU_RELATIVE if device.type == "cpu" else GPU_RELATIVE))
    if device.type == "cpu":
        return Views(packed)
    if has_varlen(device, dtype) and head_size % 8 == 0:
        return Flash(packed)
    return Rectangles(packed)


def rows_behind(packed: Packed, attention: Attention, dtype: torch.dtype) -> int:
    """Rows of zeros behind the tokens: what attention wants, and what makes a number that comes again."""
    tokens = len(packed.ids)
    return rounded_rows(tokens + attention.spare, packed.ids.device, dtype) - tokens


def rounded_rows(rows: int, device: torch.device, dtype: torch.dtype) -> int:
    """So many or some more, on a CPU in half precision.

    There torch prepares a product anew for each number of rows, which takes as long as some hundred rows do. So the
    rows are rounded up by at most a thirty-second, and few numbers come again and again.
    """
    if device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        step = max(FINEST, 1 << max(0, (rows // ENOUGH).bit_length() - 1))
        rows = -(-rows // step) * step
    return rows


# In place: the inner matrix is the largest; fresh pages for a second one are a seventh of a feed-forward on a CPU.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": torch.ops.aten.gelu_,
    "gelu_tanh": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
    "silu": lambda x: F.silu(x, inplace=True),
    "tanh": torch.tanh_,
    "none": lambda x: x,
}


class PackedEncoder:
    """Model inputs to logits, without padding; where all tokens are read out to their states, end to end.

    Equal to transformers' own forward but for rounding. What a pair gets depends on its batch only by the rounding of
    matrix products, whose order of summation may follow the number of rows.

    Args:
        encoder: its layers are computed in `dtype`, all else in float32.
        dtype: None computes in the type of the weights.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype | None = None) -> None:
        self._embeddings, self._readout = encoder.embeddings, mapped(encoder.readout, torch.Tensor.float)
        self._layers = encoder.layers if dtype is None else mapped(encoder.layers, lambda part: part.to(dtype))
        self._final_norm = mapped(encoder.final_norm, torch.Tensor.float)
        self._count, self._size = encoder.heads, encoder.hidden // encoder.heads
        self._buckets = encoder.buckets
        self._activation, self._gated = ACTIVATIONS[encoder.activation], encoder.gated
        weight = self._layers[0].qkv.weight
        self.dtype, self.device = weight.dtype, weight.device

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> logits float32 [pairs, labels], in the order of `inputs`."""
        return as_numpy(lambda: self._logits(inputs), self.device)

    @torch.inference_mode()
    def _logits(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        packed = moved(pack(inputs, self._embeddings.first_position), self.device)
        attention = attention_for(packed, self.device, self.dtype, self._size, self._buckets)
        x = embedded(self._embeddings, packed, rows_behind(packed, attention, self.dtype)).to(self.dtype)
        alone, turns = self._readout.pooling == "first", Rotations(packed)
        for layer in self._layers[:-1] if alone else self._layers:
            qkv = linear(layer.qkv, self._given(layer, x))
            turns.turn(layer, qkv[:, : 2 * x.shape[1]], self._size)
            x = self._after_attention(layer, attention.all(qkv, self._heads(layer)), x)
        x = normed(self._final_norm, (self._last(attention, x, packed, turns) if alone else x).float())
        if self._readout.pooling == "tokens":
            return x[rows_in_order(packed)]
        logits = read_out(self._readout, x if alone else pooled(self._readout.pooling, x, packed))
        return torch.empty_like(logits).index_copy_(0, packed.order, logits)

    def _last(self, attention: Attention, x: torch.Tensor, packed: Packed, turns: Rotations) -> torch.Tensor:
        layer, hidden = self._layers[-1], x.shape[1]
        given = self._given(layer, x)
        query, kv = (
            linear(rows_of(layer.qkv, 0, hidden), given[packed.starts]),
            linear(rows_of(layer.qkv, hidden), given),
        )
        # a query at the first position is not turned
        turns.turn(layer, kv[:, :hidden], self._size)
        return self._after_attention(layer, attention.first(query, kv, self._heads(layer)), x[packed.starts])

    def _heads(self, layer: Layer) -> Heads:
        return Heads(self._count, self._size, layer.window, layer.relative)

    def _given(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        """What attention reads."""
        return normed(None if self._final_norm is None else layer.attention_norm, x)

    def _after_attention(self, layer: Layer, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = linear(layer.attention_out, context).add_(x)
        if self._final_norm is not None:
            return linear(layer.down, self._inner(layer, normed(layer.output_norm, x))).add_(x)
        x = normed(layer.attention_norm, x)
        return normed(layer.output_norm, linear(layer.down, self._inner(layer, x)).add_(x))

    def _inner(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        inner = linear(layer.up, x)
        if not self._gated:
            return self._activation(inner)
        inner, gate = inner.chunk(2, dim=-1)
        return self._activation(inner).mul_(gate)


class Rotations:
    """Queries and keys turned by their positions; layers of the same frequencies share a batch's angles."""

    def __init__(self, packed: Packed) -> None:
        self._positions = packed.positions
        self._made: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}

    def turn(self, layer: Layer, rows: torch.Tensor, size: int) -> None:
        """Turn rows [tokens and more, heads side by side] in place, where the layer has frequencies."""
        if layer.frequencies is None:
            return
        cos, sin = self._angles(layer.frequencies)
        heads = rows[: len(cos)].view(len(cos), -1, size)
        left, right = heads.float().chunk(2, dim=-1)
        heads.copy_(torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1))

    def _angles(self, frequencies: npt.NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine float32 [tokens, 1, head size / 2]."""
        key = frequencies.tobytes()
        if key not in self._made:
            turning = torch.from_numpy(frequencies).to(self._positions.device)
            angles = self._positions[:, None, None].float() * turning
            self._made[key] = angles.cos(), angles.sin()
        return self._made[key]


def embedded(own: Embeddings, packed: Packed, spare: int) -> torch.Tensor:
    """Embeddings float32 [tokens + spare, hidden], the spare ones zeros."""
    made = F.embedding(packed.ids, own.words).float()
    if own.types is not None:
        # one row for all where there is one type only
        made += own.types.float() if len(own.types) == 1 else F.embedding(packed.types, own.types).float()
    if own.positions is not None:
        made += F.embedding(packed.positions, own.positions).float()
    made = normed(mapped(own.norm, torch.Tensor.float), made)
    if own.projection is not None:
        made = linear(mapped(own.projection, torch.Tensor.float), made)
    return F.pad(made, (0, 0, 0, spare)) if spare else made


def read_out(own: Readout, rows: torch.Tensor) -> torch.Tensor:
    """What was pooled of each sequence, float32 [pairs, hidden], which is overwritten, -> logits [pairs, labels]."""
    for step in own.steps:
        rows = rows if step.linear is None else linear(step.linear, rows)
        rows = ACTIVATIONS[step.activation](rows)
        rows = rows if step.norm is None else normed(step.norm, rows)
        rows = F.normalize(rows) if step.unit else rows
    return rows


def pooled(pooling: Pooling, rows: torch.Tensor, packed: Packed) -> torch.Tensor:
    """One row of each sequence of last hidden states: float32 [rows, hidden] -> [pairs, hidden]."""
    lengths = torch.from_numpy(packed.lengths).to(rows.device)
    if pooling in ("first", "last"):
        return rows[packed.starts if pooling == "first" else packed.starts + lengths - 1]
    real = rows[: len(packed.ids)]
    if pooling == "max":
        ends = np.cumsum(packed.lengths).tolist()
        return torch.stack([real[begin:end].amax(dim=0) for begin, end in zip([0, *ends[:-1]], ends, strict=True)])
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths)
    return rows.new_zeros(len(lengths), rows.shape[1]).index_add_(0, owner, real) / lengths[:, None]


def rows_in_order(packed: Packed) -> torch.Tensor:
    """Where each token of the first input is, then of the second one, and so on: int64 [tokens]."""
    order = torch.argsort(packed.order)
    lengths, starts = torch.from_numpy(packed.lengths).to(order.device)[order], packed.starts[order]
    behind = torch.arange(len(packed.ids), device=order.device)
    return behind + torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths)


def rows_of(own: Linear, begin: int, end: int | None = None) -> Linear:
    """Some outputs of a linear layer."""
    return Linear(own.weight[begin:end], None if own.bias is None else own.bias[begin:end])


def linear(own: Linear, x: torch.Tensor) -> torch.Tensor:
    """[rows, in] -> [rows, out]."""
    return F.linear(x, own.weight, own.bias)


def normed(own: Norm | None, x: torch.Tensor) -> torch.Tensor:
    """[rows, hidden] -> the same, as they are without a norm."""
    return x if own is None else F.layer_norm(x, own.weight.shape, own.weight, own.bias, own.eps)
