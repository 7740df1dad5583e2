"""ModernBERT: rotary positions, local attention, gated feed-forward, normalisation in front."""

from __future__ import annotations

from typing import Any

from torch import nn

from secondpass.forwards.description import (
    Architecture,
    Embeddings,
    Encoder,
    Family,
    Layer,
    NotDescribed,
    Pooling,
    Readout,
    ReadoutStep,
    hidden_activation,
    linear,
    norm,
    table,
)
from secondpass.forwards.packed import PackedEncoder
from secondpass.forwards.readout import readout_of

POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean"}


def _describe(model: Any) -> Encoder:
    pooling = POOLINGS.get(model.config.classifier_pooling)
    if pooling is None:
        raise NotDescribed
    own = model.head
    step = ReadoutStep(linear(own.dense, bare=True), hidden_activation(own.act), norm(own.norm, bare=True))
    return encoder_of(model.model, Readout(pooling, (step, ReadoutStep(linear(model.classifier, bare=True)))))


def encoder_of(body: Any, readout: Readout) -> Encoder:
    """A `ModernBertModel` under any readout."""
    if any(kind != "default" for kind in body.rotary_emb.rope_type.values()):
        raise NotDescribed
    own = body.embeddings
    return Encoder(
        embeddings=Embeddings(table(own.tok_embeddings), None, None, norm(own.norm, bare=True), 0, None),
        layers=tuple(_layer(layer, body.rotary_emb, body.config) for layer in body.layers),
        readout=readout,
        heads=body.config.num_attention_heads,
        activation=hidden_activation(*(layer.mlp.act for layer in body.layers)),
        final_norm=norm(body.final_norm, bare=True),
        gated=True,
    )


def _layer(layer: Any, rotary: Any, config: Any) -> Layer:
    kind = layer.attention_type
    return Layer(
        qkv=linear(layer.attn.Wqkv, bare=True),
        attention_out=linear(layer.attn.Wo, bare=True),
        attention_norm=None if type(layer.attn_norm) is nn.Identity else norm(layer.attn_norm, bare=True),
        up=linear(layer.mlp.Wi, bare=True),
        down=linear(layer.mlp.Wo, bare=True),
        output_norm=norm(layer.mlp_norm, bare=True),
        # float32 whatever the weights are
        frequencies=getattr(rotary, f"{kind}_inv_freq").float().cpu().numpy(),
        window=config.sliding_window if kind == "sliding_attention" else None,
    )


FAMILY = Family(
    architectures={
        "ModernBertForSequenceClassification": Architecture(_describe),
        "ModernBertModel": Architecture(lambda model: encoder_of(model.body, readout_of(model))),
    },
    in_torch=PackedEncoder,
    for_kernel=lambda encoder: encoder,
)
