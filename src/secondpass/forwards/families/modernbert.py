"""ModernBERT: rotary positions, local attention, gated feed-forward, normalisation in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from secondpass.forwards import description as described
from secondpass.forwards.attention import Attention, Heads, Packed, moved, pack
from secondpass.forwards.contract import Logits
from secondpass.forwards.description import Architecture, Family, HiddenActivation, NotDescribed
from secondpass.forwards.packed import ACTIVATIONS, attention_for, rows_behind
from secondpass.forwards.padded import as_numpy
from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Affine:
    """A linear layer [out, in] or the scale [hidden] of a normalisation, whose bias may be missing."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class RotaryLayer:
    """`norm` None takes the input as it is; `frequencies` [head size / 2]; `window` None sees the whole sequence."""

    norm: Affine | None
    qkv: Affine
    attention_out: Affine
    feed_norm: Affine
    gated: Affine
    down: Affine
    frequencies: torch.Tensor
    window: int | None


@dataclass(frozen=True, slots=True)
class RotaryHead:
    """Pooled -> `dense` -> activation -> `norm` -> `out` [labels, hidden]."""

    pooling: Literal["cls", "mean"]
    dense: Affine
    activation: HiddenActivation
    norm: Affine
    out: Affine


@dataclass(frozen=True, slots=True)
class RotaryEncoder:
    """The whole model; every normalisation has the same `eps`."""

    words: torch.Tensor
    embedding_norm: Affine
    layers: tuple[RotaryLayer, ...]
    final_norm: Affine
    head: RotaryHead
    heads: int
    activation: HiddenActivation
    eps: float

    @property
    def hidden(self) -> int:
        """Width of a token between layers."""
        return int(self.words.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.words.device


def _describe(model: Any) -> RotaryEncoder:
    config, body = model.config, model.model
    if any(kind != "default" for kind in body.rotary_emb.rope_type.values()):
        raise NotDescribed
    pooling = config.classifier_pooling
    if pooling not in ("cls", "mean"):
        raise NotDescribed
    head = RotaryHead(
        pooling,
        _linear(model.head.dense),
        described.hidden_activation(model.head.act),
        _norm(model.head.norm, config),
        _linear(model.classifier),
    )
    return RotaryEncoder(
        words=described.table(body.embeddings.tok_embeddings),
        embedding_norm=_norm(body.embeddings.norm, config),
        layers=tuple(_layer(layer, body.rotary_emb, config) for layer in body.layers),
        final_norm=_norm(body.final_norm, config),
        head=head,
        heads=config.num_attention_heads,
        activation=described.hidden_activation(*(layer.mlp.act for layer in body.layers)),
        eps=config.norm_eps,
    )


def _layer(layer: Any, rotary: Any, config: Any) -> RotaryLayer:
    kind = layer.attention_type
    return RotaryLayer(
        norm=None if type(layer.attn_norm) is nn.Identity else _norm(layer.attn_norm, config),
        qkv=_linear(layer.attn.Wqkv),
        attention_out=_linear(layer.attn.Wo),
        feed_norm=_norm(layer.mlp_norm, config),
        gated=_linear(layer.mlp.Wi),
        down=_linear(layer.mlp.Wo),
        frequencies=getattr(rotary, f"{kind}_inv_freq"),
        window=config.sliding_window if kind == "sliding_attention" else None,
    )


def _linear(module: nn.Module) -> Affine:
    if type(module) is not nn.Linear:
        raise NotDescribed
    return _affine(module)


def _norm(module: nn.Module, config: Any) -> Affine:
    if type(module) is not nn.LayerNorm or module.weight is None or module.eps != config.norm_eps:
        raise NotDescribed
    return _affine(module)


def _affine(module: Any) -> Affine:
    return Affine(module.weight.detach(), None if module.bias is None else module.bias.detach())


Turn = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine float32 [tokens, 1, 1, head size / 2]."""


class PackedRotaryEncoder:
    """Model inputs to logits, without padding.

    Equal to transformers' own forward but for rounding. Embeddings, the last normalisation and the head are computed in
    float32, the layers in `dtype`.

    Args:
        encoder: as `describe` gives it.
        dtype: None computes in the type of the weights.
    """

    def __init__(self, encoder: RotaryEncoder, dtype: torch.dtype | None = None) -> None:
        wanted = encoder.words.dtype if dtype is None else dtype
        self._words, self._eps = encoder.words, encoder.eps
        self._embedding_norm = described.mapped(encoder.embedding_norm, torch.Tensor.float)
        self._final_norm = described.mapped(encoder.final_norm, torch.Tensor.float)
        self._head = described.mapped(encoder.head, torch.Tensor.float)
        # frequencies are float32 whatever the weights are
        self._frequencies = [layer.frequencies.float() for layer in encoder.layers]
        self._layers = described.mapped(encoder.layers, lambda part: part.to(wanted))
        self._count, self._size = encoder.heads, encoder.hidden // encoder.heads
        self._act, self._head_act = ACTIVATIONS[encoder.activation], ACTIVATIONS[encoder.head.activation]
        self.dtype, self.device = wanted, encoder.words.device

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> logits float32 [pairs, labels], in the order of `inputs`."""
        return as_numpy(lambda: self._logits(inputs), self.device)

    @torch.inference_mode()
    def _logits(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        packed = moved(pack(inputs), self.device)
        attention = attention_for(packed, self.device, self.dtype, self._size)
        x = self._normed(self._embedding_norm, F.embedding(packed.ids, self._words).float()).to(self.dtype)
        x = F.pad(x, (0, 0, 0, rows_behind(packed, attention, self.dtype)))
        turns: dict[int | None, Turn] = {}
        for layer, frequencies in zip(self._layers, self._frequencies, strict=True):
            if layer.window not in turns:
                turns[layer.window] = _turn(packed, frequencies)
            ends_with_first = layer is self._layers[-1] and self._head.pooling == "cls"
            x = self._layer(layer, x, packed, attention, turns[layer.window], ends_with_first)
        x = self._normed(self._final_norm, x.float())
        logits = self._headed(x if self._head.pooling == "cls" else _means(x, packed))
        return torch.empty_like(logits).index_copy_(0, packed.order, logits)

    def _layer(
        self, layer: RotaryLayer, x: torch.Tensor, packed: Packed, attention: Attention, turn: Turn, firsts: bool
    ) -> torch.Tensor:
        """[rows, hidden] -> the same, or with `firsts` [pairs, hidden]: only first tokens ask."""
        heads = Heads(self._count, self._size, layer.window)
        given = x if layer.norm is None else self._normed(layer.norm, x)
        qkv = _product(layer.qkv, given)
        _turned(qkv[: len(packed.ids)].view(-1, 3, *heads.shape)[:, :2], turn)
        if firsts:
            query, x = qkv[packed.starts, : heads.hidden], x[packed.starts]
            context = attention.first(query, qkv[:, heads.hidden :].contiguous(), heads)
        else:
            context = attention.all(qkv, heads)
        x = _product(layer.attention_out, context).add_(x)
        inner, gate = _product(layer.gated, self._normed(layer.feed_norm, x)).chunk(2, dim=-1)
        return _product(layer.down, self._act(inner).mul_(gate)).add_(x)

    def _headed(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled float32 [pairs, hidden] -> logits [pairs, labels]."""
        own = self._head
        return _product(own.out, self._normed(own.norm, self._head_act(_product(own.dense, pooled))))

    def _normed(self, own: Affine, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, own.weight.shape, own.weight, own.bias, self._eps)


def _product(own: Affine, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, own.weight, own.bias)


def _turn(packed: Packed, frequencies: torch.Tensor) -> Turn:
    angles = packed.positions[:, None].float() * frequencies
    return angles.cos()[:, None, None], angles.sin()[:, None, None]


def _turned(rows: torch.Tensor, turn: Turn) -> None:
    """Rotate queries and keys [tokens, 2, heads, size] in place (Su et al. 2021, halves instead of neighbours)."""
    cos, sin = turn
    left, right = rows.float().chunk(2, dim=-1)
    rows.copy_(torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1))


def _means(x: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Mean of each sequence's rows: float32 [rows, hidden] -> [pairs, hidden]."""
    lengths = torch.from_numpy(packed.lengths).to(x.device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), lengths)
    sums = x.new_zeros(len(lengths), x.shape[1]).index_add_(0, owner, x[: len(packed.ids)])
    return sums / lengths[:, None]


FAMILY = Family(
    architectures={"ModernBertForSequenceClassification": Architecture(_describe)},
    in_torch=PackedRotaryEncoder,
    for_kernel=lambda encoder: None,
)
