"""The packed forward of a BERT-like encoder: every linear layer reads one matrix [tokens, hidden].

Embeddings and head are computed in float32, the layers in the type of their weights. The last layer's queries, and all
behind them, are those of the first tokens alone, because nothing else of it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from secondpass.packed.attention import attention_for, rows_behind
from secondpass.packed.encoder import Embeddings, Encoder, Head, Layer, Linear, Norm, mapped
from secondpass.packed.heads import Attention, Heads
from secondpass.packed.layout import Packed, moved, pack
from secondpass.padded import as_numpy
from secondpass.scoring import Logits
from secondpass.tokens import Tokens

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
    """Model inputs to logits, without padding.

    Equal to transformers' own forward but for rounding. What a pair gets depends on its batch only by the rounding of
    matrix products, whose order of summation may follow the number of rows.

    Args:
        encoder: its layers are computed in `dtype`, all else in float32.
        dtype: None computes in the type of the weights.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype | None = None) -> None:
        self._embeddings, self._head = encoder.embeddings, mapped(encoder.head, torch.Tensor.float)
        self._layers = encoder.layers if dtype is None else mapped(encoder.layers, lambda part: part.to(dtype))
        self._count, self._size = encoder.heads, encoder.hidden // encoder.heads
        self._buckets = encoder.buckets
        self._activation = ACTIVATIONS[encoder.activation]
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
        for layer in self._layers[:-1]:
            context = attention.all(linear(layer.qkv, x), self._heads(layer))
            x = self._after_attention(layer, context, x)
        x = self._last(attention, x, packed)
        logits = headed(self._head, x.float())
        return torch.empty_like(logits).index_copy_(0, packed.order, logits)

    def _last(self, attention: Attention, x: torch.Tensor, packed: Packed) -> torch.Tensor:
        layer, hidden = self._layers[-1], x.shape[1]
        firsts = x[packed.starts]
        query = F.linear(firsts, layer.qkv.weight[:hidden], layer.qkv.bias[:hidden])
        kv = F.linear(x, layer.qkv.weight[hidden:], layer.qkv.bias[hidden:])
        return self._after_attention(layer, attention.first(query, kv, self._heads(layer)), firsts)

    def _heads(self, layer: Layer) -> Heads:
        return Heads(self._count, self._size, relative=layer.relative)

    def _after_attention(self, layer: Layer, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = normed(layer.attention_norm, linear(layer.attention_out, context).add_(x))
        inner = self._activation(linear(layer.up, x))
        return normed(layer.output_norm, linear(layer.down, inner).add_(x))


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


def headed(own: Head, first: torch.Tensor) -> torch.Tensor:
    """First tokens float32 [pairs, hidden] -> logits [pairs, labels]."""
    if own.dense is not None:
        first = linear(own.dense, first)
    return linear(own.out, ACTIVATIONS[own.activation](first))


def linear(own: Linear, x: torch.Tensor) -> torch.Tensor:
    """[rows, in] -> [rows, out]."""
    return F.linear(x, own.weight, own.bias)


def normed(own: Norm, x: torch.Tensor) -> torch.Tensor:
    """[rows, hidden] -> the same."""
    return F.layer_norm(x, own.weight.shape, own.weight, own.bias, own.eps)
