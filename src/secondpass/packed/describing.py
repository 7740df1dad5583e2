"""transformers' encoders as plain weights, or None where the weights do not tell all.

Descriptions share the model's memory where torch's layout allows it; only the joined projection of query, key and
value is a copy. `Watch` tells when a description has grown old.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from secondpass.packed.deberta import buckets, pooler_activation, relatives
from secondpass.packed.encoder import Embeddings, Encoder, Head, HeadActivation, Layer
from secondpass.packed.parts import NotDescribed, hidden_activation, joined, linear, norm, only, table
from secondpass.packed.plain import is_plain
from secondpass.packed.rotary import RotaryEncoder, describe_modernbert


def describe(model: nn.Module) -> Encoder | RotaryEncoder | None:
    """The weights of a sequence-classification model of transformers.

    Args:
        model: of any class.

    Returns:
        None for a family that is not covered, and for a model that was changed: adapters, hooks, quantised layers, a
        head of its own, weights of several types or on several devices.
    """
    kind = type(model)
    describer = DESCRIBERS.get(kind.__name__)
    if describer is None or not kind.__module__.startswith("transformers.models.") or not is_plain(model):
        return None
    kinds = {(weight.device, weight.dtype) for weight in model.parameters()}
    if len(kinds) != 1 or not next(iter(kinds))[1].is_floating_point or next(iter(kinds))[0].type == "meta":
        return None
    with torch.no_grad():
        try:
            return describer(model)
        except (AttributeError, NotDescribed):
            return None


def _bert(model: Any) -> Encoder:
    body = model.base_model
    head = Head(linear(body.pooler.dense), "tanh", linear(model.classifier))
    return _encoder(model, _embeddings(body, first_position=0), head)


def _roberta(model: Any) -> Encoder:
    embeddings = _embeddings(model.base_model, model.base_model.embeddings.padding_idx + 1)
    return _encoder(model, embeddings, _head(model.classifier, "tanh"))


def _electra(model: Any) -> Encoder:
    return _encoder(model, _embeddings(model.base_model, 0), _head(model.classifier, "gelu"))


def _head(head: Any, activation: HeadActivation) -> Head:
    if {name for name, _ in head.named_children()} - {"dense", "dropout", "activation", "out_proj"}:
        raise NotDescribed
    if activation == "gelu" and hidden_activation(head.activation) != "gelu":
        raise NotDescribed
    return Head(linear(head.dense), activation, linear(head.out_proj))


def _embeddings(body: Any, first_position: int) -> Embeddings:
    own = body.embeddings
    projection = getattr(body, "embeddings_project", None)
    return Embeddings(
        words=table(own.word_embeddings),
        positions=_optional(own.position_embeddings),
        types=_optional(own.token_type_embeddings),
        norm=norm(own.LayerNorm),
        first_position=first_position,
        projection=None if projection is None else linear(projection),
    )


def _optional(module: Any) -> torch.Tensor | None:
    return None if module is None else table(module)


def _deberta(model: Any) -> Encoder:
    body = model.base_model
    if getattr(body.embeddings, "embed_proj", None) is not None or body.encoder.conv is not None:
        raise NotDescribed
    head = Head(linear(model.pooler.dense), pooler_activation(model.config), linear(model.classifier))
    made = _encoder(model, _embeddings(body, 0), head, ("query_proj", "key_proj", "value_proj"))
    layers = zip(made.layers, relatives(model), strict=True)
    return replace(
        made, layers=tuple(replace(layer, relative=own) for layer, own in layers), buckets=buckets(model.config)
    )


def _encoder(
    model: Any, embeddings: Embeddings, head: Head, names: Sequence[str] = ("query", "key", "value")
) -> Encoder:
    config, body = model.config, model.base_model
    kind = getattr(config, "position_embedding_type", None)
    if getattr(config, "is_decoder", False) or kind not in (None, "absolute"):
        raise NotDescribed
    layers = tuple(
        Layer(
            qkv=joined(*(getattr(layer.attention.self, name) for name in names)),
            attention_out=linear(layer.attention.output.dense),
            attention_norm=norm(layer.attention.output.LayerNorm),
            up=linear(layer.intermediate.dense),
            down=linear(layer.output.dense),
            output_norm=norm(layer.output.LayerNorm),
        )
        for layer in body.encoder.layer
    )
    activations = {hidden_activation(layer.intermediate.intermediate_act_fn) for layer in body.encoder.layer}
    return _checked(Encoder(embeddings, layers, head, config.num_attention_heads, only(activations)))


def _distilbert(model: Any) -> Encoder:
    body = model.base_model
    own = body.embeddings
    layers = tuple(
        Layer(
            qkv=joined(*(getattr(layer.attention, name) for name in ("q_lin", "k_lin", "v_lin"))),
            attention_out=linear(layer.attention.out_lin),
            attention_norm=norm(layer.sa_layer_norm),
            up=linear(layer.ffn.lin1),
            down=linear(layer.ffn.lin2),
            output_norm=norm(layer.output_layer_norm),
        )
        for layer in body.transformer.layer
    )
    activations = {hidden_activation(layer.ffn.activation) for layer in body.transformer.layer}
    words, positions = table(own.word_embeddings), table(own.position_embeddings)
    embeddings = Embeddings(words, positions, None, norm(own.LayerNorm), 0, None)
    head = Head(linear(model.pre_classifier), "relu", linear(model.classifier))
    return _checked(Encoder(embeddings, layers, head, model.config.n_heads, only(activations)))


DESCRIBERS: dict[str, Callable[[Any], Encoder | RotaryEncoder]] = {
    "BertForSequenceClassification": _bert,
    "RobertaForSequenceClassification": _roberta,
    "XLMRobertaForSequenceClassification": _roberta,
    "CamembertForSequenceClassification": _roberta,
    "ElectraForSequenceClassification": _electra,
    "DistilBertForSequenceClassification": _distilbert,
    "DebertaV2ForSequenceClassification": _deberta,
    "ModernBertForSequenceClassification": describe_modernbert,
}


def _checked(encoder: Encoder) -> Encoder:
    """Shapes that only a pruned or otherwise rebuilt model would not have."""
    hidden = encoder.hidden
    for layer in encoder.layers:
        if layer.qkv.weight.shape != (3 * hidden, hidden) or layer.attention_out.weight.shape != (hidden, hidden):
            raise NotDescribed
    if hidden % encoder.heads:
        raise NotDescribed
    return encoder
