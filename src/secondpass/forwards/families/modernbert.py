"""ModernBERT: rotary positions, local attention, gated feed-forward, normalisation in front."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.forwards.description import (
    Embeddings,
    Encoder,
    Layer,
    NotDescribed,
    Pooling,
    Readout,
    ReadoutStep,
    StoredModule,
    hidden_activation,
    linear,
    norm,
    table,
)
from secondpass.forwards.families.bert import chain_of, packed_encoder
from secondpass.forwards.family import Architecture, Family, StoredKind

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
    own, rotations = body.embeddings, _rotations(body)
    return Encoder(
        embeddings=Embeddings(table(own.tok_embeddings), None, None, norm(own.norm, bare=True), 0, None),
        layers=tuple(_layer(layer, place, body.config, rotations) for place, layer in enumerate(body.layers)),
        readout=readout,
        heads=body.config.num_attention_heads,
        activation=hidden_activation(*(layer.mlp.act for layer in body.layers)),
        final_norm=norm(body.final_norm, bare=True),
        gated=True,
    )


Rotations = dict[str, npt.NDArray[np.float32]]
"""Frequencies float32 [head size / 2], whatever the weights are, by the kind of layer."""


def _rotations(body: Any) -> Rotations:
    if isinstance(body, StoredModule):
        return {kind: _frequencies(body.config, kind) for kind in set(kinds_of(body.config))}
    if any(kind != "default" for kind in body.rotary_emb.rope_type.values()):
        raise NotDescribed
    return {
        kind: getattr(body.rotary_emb, f"{kind}_inv_freq").float().cpu().numpy() for kind in body.rotary_emb.rope_type
    }


def kinds_of(config: Any) -> list[str]:
    """The kind of each layer, of a config of today or of one that has a number between the global ones."""
    if config.layer_types is not None:
        return list(config.layer_types)
    every = config.count("global_attn_every_n_layers")
    return ["sliding_attention" if place % every else "full_attention" for place in range(config.num_hidden_layers)]


def _frequencies(config: Any, kind: str) -> npt.NDArray[np.float32]:
    """Those of the model's own class, but for the last bit of some (powers of torch are of float32)."""
    theta = config.local_rope_theta if kind == "sliding_attention" else config.global_rope_theta
    given = (config.rope_parameters or {}).get(kind) or {}
    if not {*given} <= {"rope_type", "rope_theta"} or given.get("rope_type", "default") != "default":
        raise NotDescribed(f"rope_parameters of config.json are {given!r}")
    if config.rope_scaling is not None:
        raise NotDescribed(f"rope_scaling of config.json is {config.rope_scaling!r}")
    size = config.hidden_size // config.num_attention_heads
    steps = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.float64(given.get("rope_theta", theta)) ** steps.astype(np.float64)
    made: npt.NDArray[np.float32] = np.float32(1) / powers.astype(np.float32)
    return made


def _layer(layer: Any, place: int, config: Any, rotations: Rotations) -> Layer:
    stored = isinstance(layer, StoredModule)
    kind = kinds_of(config)[place] if stored else layer.attention_type
    # the first layer reads what the embeddings' norm gives
    first = place == 0 if stored else type(layer.attn_norm).__name__ == "Identity"
    return Layer(
        qkv=linear(layer.attn.Wqkv, bare=True),
        attention_out=linear(layer.attn.Wo, bare=True),
        attention_norm=None if first else norm(layer.attn_norm, bare=True),
        up=linear(layer.mlp.Wi, bare=True),
        down=linear(layer.mlp.Wo, bare=True),
        output_norm=norm(layer.mlp_norm, bare=True),
        frequencies=rotations[kind],
        window=config.local_attention // 2 if kind == "sliding_attention" else None,
    )


DEFAULTS = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "hidden_activation": "gelu",
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 50283,
    "layer_types": None,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "rope_parameters": None,
    "rope_scaling": None,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "classifier_pooling": "cls",
    "classifier_activation": "gelu",
}
FUNCTIONS = {"mlp.act": "hidden_activation", "head.act": "classifier_activation"}

FAMILY = Family(
    architectures={
        "ModernBertForSequenceClassification": Architecture(_describe, None, "modernbert"),
        "ModernBertModel": Architecture(lambda model: encoder_of(model.body, chain_of(model)), None, "modernbert"),
    },
    in_torch=packed_encoder,
    for_kernel=lambda encoder: encoder,
    stored={"modernbert": StoredKind(DEFAULTS, "model", FUNCTIONS, {"layer_norm_eps": "norm_eps"})},
)
