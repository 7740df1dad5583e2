"""ModernBERT: rotary positions, local attention, gated feed-forward, normalisation in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from secondpass.forwards import description as described
from secondpass.forwards.attention import Attention, Heads, Packed, moved, pack
from secondpass.forwards.contract import Logits
from secondpass.forwards.description import (
    Architecture,
    Family,
    HiddenActivation,
    Linear,
    Norm,
    NotDescribed,
    Pooling,
    Readout,
    ReadoutStep,
)
from secondpass.forwards.packed import ACTIVATIONS, attention_for, linear, normed, pooled, read_out, rows_behind
from secondpass.forwards.padded import as_numpy
from secondpass.forwards.readout import readout_of
from secondpass.tokens import Tokens

POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean"}


@dataclass(frozen=True, slots=True)
class RotaryLayer:
    """`norm` None takes the input as it is; `frequencies` [head size / 2]; `window` None sees the whole sequence."""

    norm: Norm | None
    qkv: Linear
    attention_out: Linear
    feed_norm: Norm
    gated: Linear
    down: Linear
    frequencies: torch.Tensor
    window: int | None


@dataclass(frozen=True, slots=True)
class RotaryEncoder:
    """The whole model."""

    words: torch.Tensor
    embedding_norm: Norm
    layers: tuple[RotaryLayer, ...]
    final_norm: Norm
    readout: Readout
    heads: int
    activation: HiddenActivation

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
    pooling = POOLINGS.get(config.classifier_pooling)
    if pooling is None:
        raise NotDescribed
    own = model.head
    step = ReadoutStep(
        described.linear(own.dense, bare=True),
        described.hidden_activation(own.act),
        described.norm(own.norm, bare=True),
    )
    return encoder_of(body, Readout(pooling, (step, ReadoutStep(described.linear(model.classifier, bare=True)))))


def encoder_of(body: Any, readout: Readout) -> RotaryEncoder:
    """A `ModernBertModel` under any readout."""
    config = body.config
    if any(kind != "default" for kind in body.rotary_emb.rope_type.values()):
        raise NotDescribed
    return RotaryEncoder(
        words=described.table(body.embeddings.tok_embeddings),
        embedding_norm=described.norm(body.embeddings.norm, bare=True),
        layers=tuple(_layer(layer, body.rotary_emb, config) for layer in body.layers),
        final_norm=described.norm(body.final_norm, bare=True),
        readout=readout,
        heads=config.num_attention_heads,
        activation=described.hidden_activation(*(layer.mlp.act for layer in body.layers)),
    )


def _layer(layer: Any, rotary: Any, config: Any) -> RotaryLayer:
    kind = layer.attention_type
    return RotaryLayer(
        norm=None if type(layer.attn_norm) is nn.Identity else described.norm(layer.attn_norm, bare=True),
        qkv=described.linear(layer.attn.Wqkv, bare=True),
        attention_out=described.linear(layer.attn.Wo, bare=True),
        feed_norm=described.norm(layer.mlp_norm, bare=True),
        gated=described.linear(layer.mlp.Wi, bare=True),
        down=described.linear(layer.mlp.Wo, bare=True),
        frequencies=getattr(rotary, f"{kind}_inv_freq"),
        window=config.sliding_window if kind == "sliding_attention" else None,
    )


Turn = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine float32 [tokens, 1, 1, head size / 2]."""


class PackedRotaryEncoder:
    """Model inputs to logits, without padding.

    Equal to transformers' own forward but for rounding. Embeddings, the last normalisation and the readout are computed
    in float32, the layers in `dtype`.

    Args:
        encoder: as `describe` gives it.
        dtype: None computes in the type of the weights.
    """

    def __init__(self, encoder: RotaryEncoder, dtype: torch.dtype | None = None) -> None:
        wanted = encoder.words.dtype if dtype is None else dtype
        self._words = encoder.words
        self._embedding_norm = described.mapped(encoder.embedding_norm, torch.Tensor.float)
        self._final_norm = described.mapped(encoder.final_norm, torch.Tensor.float)
        self._readout = described.mapped(encoder.readout, torch.Tensor.float)
        # frequencies are float32 whatever the weights are
        self._frequencies = [layer.frequencies.float() for layer in encoder.layers]
        self._layers = described.mapped(encoder.layers, lambda part: part.to(wanted))
        self._count, self._size = encoder.heads, encoder.hidden // encoder.heads
        self._activation = ACTIVATIONS[encoder.activation]
        self.dtype, self.device = wanted, encoder.words.device

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> logits float32 [pairs, labels], in the order of `inputs`."""
        return as_numpy(lambda: self._logits(inputs), self.device)

    @torch.inference_mode()
    def _logits(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        packed = moved(pack(inputs), self.device)
        attention = attention_for(packed, self.device, self.dtype, self._size)
        x = normed(self._embedding_norm, F.embedding(packed.ids, self._words).float()).to(self.dtype)
        x = F.pad(x, (0, 0, 0, rows_behind(packed, attention, self.dtype)))
        turns: dict[int | None, Turn] = {}
        for layer, frequencies in zip(self._layers, self._frequencies, strict=True):
            if layer.window not in turns:
                turns[layer.window] = _turn(packed, frequencies)
            ends_with_first = layer is self._layers[-1] and self._readout.pooling == "first"
            x = self._layer(layer, x, packed, attention, turns[layer.window], ends_with_first)
        x = normed(self._final_norm, x.float())
        read = x if self._readout.pooling == "first" else pooled(self._readout.pooling, x, packed)
        logits = read_out(self._readout, read)
        return torch.empty_like(logits).index_copy_(0, packed.order, logits)

    def _layer(
        self, layer: RotaryLayer, x: torch.Tensor, packed: Packed, attention: Attention, turn: Turn, firsts: bool
    ) -> torch.Tensor:
        """[rows, hidden] -> the same, or with `firsts` [pairs, hidden]: only first tokens ask."""
        heads = Heads(self._count, self._size, layer.window)
        given = x if layer.norm is None else normed(layer.norm, x)
        qkv = linear(layer.qkv, given)
        _turned(qkv[: len(packed.ids)].view(-1, 3, *heads.shape)[:, :2], turn)
        if firsts:
            query, x = qkv[packed.starts, : heads.hidden], x[packed.starts]
            context = attention.first(query, qkv[:, heads.hidden :].contiguous(), heads)
        else:
            context = attention.all(qkv, heads)
        x = linear(layer.attention_out, context).add_(x)
        inner, gate = linear(layer.gated, normed(layer.feed_norm, x)).chunk(2, dim=-1)
        return linear(layer.down, self._activation(inner).mul_(gate)).add_(x)


def _turn(packed: Packed, frequencies: torch.Tensor) -> Turn:
    angles = packed.positions[:, None].float() * frequencies
    return angles.cos()[:, None, None], angles.sin()[:, None, None]


def _turned(rows: torch.Tensor, turn: Turn) -> None:
    """Rotate queries and keys [tokens, 2, heads, size] in place (Su et al. 2021, halves instead of neighbours)."""
    cos, sin = turn
    left, right = rows.float().chunk(2, dim=-1)
    rows.copy_(torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1))


FAMILY = Family(
    architectures={
        "ModernBertForSequenceClassification": Architecture(_describe),
        "ModernBertModel": Architecture(lambda model: encoder_of(model.body, readout_of(model))),
    },
    in_torch=PackedRotaryEncoder,
    for_kernel=lambda encoder: None,
)
