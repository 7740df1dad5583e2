"""ModernBERT as plain weights: rotary positions, local attention, gated feed-forward, normalisation in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from secondpass.packed.encoder import HiddenActivation
from secondpass.packed.parts import NotDescribed, hidden_activation, only, table


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


def describe_modernbert(model: Any) -> RotaryEncoder:
    """The weights of a `ModernBertForSequenceClassification`.

    Raises:
        NotDescribed: a part is not what the family has.
        AttributeError: a part is missing.
    """
    config, body = model.config, model.model
    if any(kind != "default" for kind in body.rotary_emb.rope_type.values()):
        raise NotDescribed
    layers = tuple(_layer(layer, body.rotary_emb, config) for layer in body.layers)
    activations = {hidden_activation(layer.mlp.act) for layer in body.layers}
    pooling = config.classifier_pooling
    if pooling not in ("cls", "mean"):
        raise NotDescribed
    head = RotaryHead(
        pooling,
        _linear(model.head.dense),
        hidden_activation(model.head.act),
        _norm(model.head.norm, config),
        _linear(model.classifier),
    )
    return RotaryEncoder(
        words=table(body.embeddings.tok_embeddings),
        embedding_norm=_norm(body.embeddings.norm, config),
        layers=layers,
        final_norm=_norm(body.final_norm, config),
        head=head,
        heads=config.num_attention_heads,
        activation=only(activations),
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
    return Affine(module.weight.detach(), None if module.bias is None else module.bias.detach())


def _norm(module: nn.Module, config: Any) -> Affine:
    if type(module) is not nn.LayerNorm or module.weight is None or module.eps != config.norm_eps:
        raise NotDescribed
    return Affine(module.weight.detach(), None if module.bias is None else module.bias.detach())
