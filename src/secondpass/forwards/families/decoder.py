"""Decoders: Qwen2, Qwen3, Llama, Mistral, Gemma, Gemma 2 and 3, which score a pair at its last token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from secondpass.forwards import description as described
from secondpass.forwards.causal import Decoder, DecoderLayer, PackedDecoder, RootNorm, Rotation
from secondpass.forwards.description import Linear, NotDescribed, Readout, ReadoutStep
from secondpass.forwards.family import Architecture, Family
from secondpass.forwards.readout import VocabularyRows, readout_of

# Rotations that do not change with the length of the input.
FIXED_ROTATIONS = {"default", "linear", "llama3", "yarn"}
PARTS = {
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"},
    "feed": {"gate_proj", "up_proj", "down_proj", "act_fn"},
    "body": {"embed_tokens", "layers", "norm", "rotary_emb"},
}


def _classifier(model: Any) -> Decoder:
    """The classes' own rule: rows of the last token that is not padding, wherever that stands."""
    readout = Readout("last", (ReadoutStep(described.linear(model.score, bare=True)),))
    return _decoder(model.model, readout, model.config.pad_token_id)


def _chain(model: Any) -> Decoder:
    readout = readout_of(model)
    if readout.pooling != "last":
        raise NotDescribed
    return _decoder(model.body, readout, None)


def _language_model(model: Any) -> Decoder:
    rows, head, body = model.readout, model.body.lm_head, model.body
    if type(rows) is not VocabularyRows or type(head) is not nn.Linear or head.bias is not None:
        raise NotDescribed
    weight = head.weight.detach()[rows.token_ids].float()
    signs = weight.new_tensor([[1.0, -1.0][: len(weight)]])
    cap = getattr(body.config, "final_logit_softcapping", None)
    if cap is None:
        steps = [ReadoutStep(Linear(signs @ weight, None))]
    else:
        steps = [ReadoutStep(Linear(weight / cap, None), "tanh"), ReadoutStep(Linear(signs * cap, None))]
    return _decoder(body.model, Readout("last", tuple(steps)), None)


def _decoder(body: Any, readout: Readout, padding: int | None) -> Decoder:
    config, attentions = body.config, [layer.self_attn for layer in body.layers]
    _check_parts(body, "body")
    first = attentions[0]
    caps = {own.attn_logit_softcapping for own in attentions if type(own).__name__ == "Gemma2Attention"}
    rotations = _rotations(body.rotary_emb)
    kinds = [next(iter(rotations)) if None in rotations else own.layer_type for own in attentions]
    made = Decoder(
        words=_words(body.embed_tokens),
        word_scale=_scale(body.embed_tokens),
        rotations=tuple(rotations.values()),
        layers=tuple(
            _layer(layer, config, list(rotations).index(kind)) for layer, kind in zip(body.layers, kinds, strict=True)
        ),
        final_norm=_norm(body.norm),
        readout=readout,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=first.head_dim,
        score_scale=first.scaling,
        soft_cap=next(iter(caps), None),
        activation=described.hidden_activation(*(layer.mlp.act_fn for layer in body.layers)),
        padding=padding,
    )
    return _checked(made, attentions, config)


def _check_parts(module: nn.Module, kind: str) -> None:
    if {name for name, _ in module.named_children()} - PARTS[kind]:
        raise NotDescribed


def _checked(made: Decoder, attentions: Sequence[Any], config: Any) -> Decoder:
    """Every token sees what stands before it and nothing behind, and shapes are those of the heads."""
    size, many = made.head_size, len(made.layers)
    sizes = {(own.head_dim, own.scaling, own.is_causal) for own in attentions}
    if sizes != {(size, made.score_scale, True)} or many != config.num_hidden_layers or made.heads % made.key_heads:
        raise NotDescribed
    for layer in made.layers:
        wide = (len(layer.query.weight), len(layer.key.weight), len(layer.value.weight))
        if wide != (made.heads * size, made.key_heads * size, made.key_heads * size):
            raise NotDescribed
    if any(len(rotation.frequencies) * 2 != size for rotation in made.rotations):
        raise NotDescribed
    return made


def _words(module: Any) -> torch.Tensor:
    if not type(module).__name__.endswith("TextScaledWordEmbedding"):
        rows: torch.Tensor = described.table(module)
        return rows
    weight: torch.Tensor = module.weight.detach()
    return weight.contiguous()


def _scale(module: Any) -> float:
    """Gemma's, rounded as its own class rounds it."""
    return float(module.embed_scale.to(module.weight.dtype)) if hasattr(module, "embed_scale") else 1.0


def _rotations(rotary: Any) -> dict[str | None, Rotation]:
    """By the type of layers that have them, None where all have one."""
    types = rotary.rope_type if isinstance(rotary.rope_type, dict) else {None: rotary.rope_type}
    if set(types.values()) - FIXED_ROTATIONS:
        raise NotDescribed
    return {
        kind: Rotation(
            getattr(rotary, "inv_freq" if kind is None else f"{kind}_inv_freq").detach().float(),
            getattr(rotary, "attention_scaling" if kind is None else f"{kind}_attention_scaling"),
        )
        for kind in types
    }


def _layer(layer: Any, config: Any, rotation: int) -> DecoderLayer:
    own, feed = layer.self_attn, layer.mlp
    _check_parts(own, "attention")
    _check_parts(feed, "feed")
    # Gemma 2 and 3 normalise a block's output too, and call what others do before the feed-forward by another name
    both = hasattr(layer, "pre_feedforward_layernorm")
    window = config.sliding_window if type(own).__name__ == "MistralAttention" else getattr(own, "sliding_window", None)
    return DecoderLayer(
        attention_norm=_norm(layer.input_layernorm),
        query=described.linear(own.q_proj, bare=True),
        key=described.linear(own.k_proj, bare=True),
        value=described.linear(own.v_proj, bare=True),
        query_norm=_norm(own.q_norm) if hasattr(own, "q_norm") else None,
        key_norm=_norm(own.k_norm) if hasattr(own, "k_norm") else None,
        attention_out=described.linear(own.o_proj, bare=True),
        attention_out_norm=_norm(layer.post_attention_layernorm) if both else None,
        feed_norm=_norm(layer.pre_feedforward_layernorm if both else layer.post_attention_layernorm),
        gate=described.linear(feed.gate_proj, bare=True),
        up=described.linear(feed.up_proj, bare=True),
        down=described.linear(feed.down_proj, bare=True),
        feed_out_norm=_norm(layer.post_feedforward_layernorm) if both else None,
        rotation=rotation,
        window=window,
    )


def _norm(module: Any) -> RootNorm:
    kind = type(module).__name__
    if not kind.endswith("RMSNorm"):
        raise NotDescribed
    weight = module.weight.detach().float()
    # Gemma's weights are what the scale is more than 1
    return RootNorm(1 + weight, module.eps) if kind.startswith("Gemma") else RootNorm(weight, module.variance_epsilon)


NAMES = ("Qwen2", "Qwen3", "Llama", "Mistral", "Gemma", "Gemma2", "Gemma3Text")
FAMILY = Family(
    architectures={
        **{f"{name}ForSequenceClassification": Architecture(_classifier) for name in NAMES},
        **{f"{name}Model": Architecture(_chain) for name in NAMES},
        **{f"{name.removesuffix('Text')}ForCausalLM": Architecture(_language_model) for name in NAMES},
    },
    in_torch=PackedDecoder,
    for_kernel=lambda decoder: None,
)
