"""ModernBERT: rotary positions, local attention, gated feed-forward, normalisation in front."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.forwards.description import (
    Embeddings,
    Encoder,
    Layer,
    Linear,
    Norm,
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
    dense = _linear(own.dense, "classifier_bias")
    step = ReadoutStep(dense, hidden_activation(own.act), _norm(own.norm))
    bare = not isinstance(own, StoredModule)
    return encoder_of(model.model, Readout(pooling, (step, ReadoutStep(linear(model.classifier, bare)))))


def encoder_of(body: Any, readout: Readout) -> Encoder:
    """A `ModernBertModel` under any readout."""
    own, rotations = body.embeddings, _rotations(body)
    return Encoder(
        embeddings=Embeddings(table(own.tok_embeddings), None, None, _norm(own.norm), 0, None),
        layers=tuple(_layer(layer, place, body.config, rotations) for place, layer in enumerate(body.layers)),
        readout=readout,
        heads=body.config.num_attention_heads,
        activation=hidden_activation(*(layer.mlp.act for layer in body.layers)),
        final_norm=_norm(body.final_norm),
        gated=True,
    )


Rotations = dict[str, npt.NDArray[np.float32]]
"""Frequencies float32 [head size / 2], whatever the weights are, by the kind of layer."""


def _rotations(body: Any) -> Rotations:
    if isinstance(body, StoredModule):
        _check_config(body.config)
        return {kind: _frequencies(body.config, kind) for kind in set(kinds_of(body.config))}
    if any(kind != "default" for kind in body.rotary_emb.rope_type.values()):
        raise NotDescribed
    return {
        kind: getattr(body.rotary_emb, f"{kind}_inv_freq").float().cpu().numpy() for kind in body.rotary_emb.rope_type
    }


def _check_config(config: Any) -> None:
    """There is a kind for each layer, and the window has one size by both of its names."""
    if len(kinds_of(config)) != config.num_hidden_layers:
        raise NotDescribed(f"layer_types of config.json are not {config.num_hidden_layers}")
    half, given = config.local_attention // 2, config.sliding_window
    if given is not None and (given != half or isinstance(given, bool)):
        raise NotDescribed(f"sliding_window of config.json is {given!r}, and local_attention says {half}")


def _linear(module: Any, key: str) -> Linear:
    """With a bias where that key of the config says so."""
    made = linear(module, bare=True)
    _check_bias(made, module, key)
    return made


def _norm(module: Any) -> Norm:
    made = norm(module, bare=True)
    _check_bias(made, module, "norm_bias")
    return made


def _check_bias(made: Linear | Norm, module: Any, key: str) -> None:
    """The class has no place for a bias of a folder that its config does not speak of."""
    if isinstance(module, StoredModule) and getattr(module.config, key) is not (made.bias is not None):
        raise NotDescribed(f"{key} of config.json is {getattr(module.config, key)!r}, and the weights are other")


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
        qkv=_linear(layer.attn.Wqkv, "attention_bias"),
        attention_out=_linear(layer.attn.Wo, "attention_bias"),
        attention_norm=None if first else _norm(layer.attn_norm),
        up=_linear(layer.mlp.Wi, "mlp_bias"),
        down=_linear(layer.mlp.Wo, "mlp_bias"),
        output_norm=_norm(layer.mlp_norm),
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
    "sliding_window": None,  # another name of half of that
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "classifier_bias": False,
    "rope_parameters": None,
    "rope_scaling": None,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "classifier_pooling": "cls",
    "classifier_activation": "gelu",
}
FUNCTIONS = {"mlp.act": "hidden_activation", "head.act": "classifier_activation"}
EPSILON = "layer_norm_eps"  # folders have it beside norm_eps, and the class passes it over

FAMILY = Family(
    architectures={
        "ModernBertForSequenceClassification": Architecture(_describe, None, "modernbert"),
        "ModernBertModel": Architecture(lambda model: encoder_of(model.body, chain_of(model)), None, "modernbert"),
    },
    in_torch=packed_encoder,
    for_kernel=lambda encoder: encoder,
    stored={"modernbert": StoredKind(DEFAULTS, "model", FUNCTIONS, {EPSILON: "norm_eps"}, frozenset({EPSILON}))},
)
