"""BERT and what has its layers: RoBERTa, XLM-R, CamemBERT, ELECTRA; and DistilBERT, which names them otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secondpass.forwards import description as described
from secondpass.forwards.contract import Compute
from secondpass.forwards.description import (
    Embeddings,
    Encoder,
    Layer,
    Readout,
    ReadoutStep,
    StepActivation,
    StoredEncoder,
    linear,
    norm,
)
from secondpass.forwards.family import Architecture, Family, StoredKind, TrainableModules
from secondpass.forwards.late import whole

if TYPE_CHECKING:
    import torch


def packed_encoder(encoder: Encoder, dtype: torch.dtype | None) -> Compute:
    """An encoder's forward in torch, which is imported now."""
    from secondpass.forwards.packed import PackedEncoder

    return whole(PackedEncoder(encoder, dtype), encoder)


def chain_of(model: Any) -> Readout:
    """What a chain's modules compute; raises `NotDescribed` where no family knows it."""
    if isinstance(model, StoredEncoder):
        if model.readout is None:
            raise described.NotDescribed("there is no readout")
        return model.readout
    from secondpass.forwards.readout import readout_of

    return readout_of(model)


def _body(model: Any) -> Encoder:
    return encoder_of(model, embeddings_of(model.base_model), chain_of(model))


def _roberta_body(model: Any) -> Encoder:
    return encoder_of(model, embeddings_of(model.base_model, _first_position(model)), _together(model))


def _together(model: Any) -> Readout:
    """A chain of a model whose texts are not read apart."""
    made = chain_of(model)
    if made.late is not None:
        raise described.NotDescribed("late interaction is read by token types and positions from 0")
    return made


def _bert(model: Any) -> Encoder:
    body = model.base_model
    return encoder_of(model, embeddings_of(body), classifier(body.pooler.dense, "tanh", model.classifier))


def _roberta(model: Any) -> Encoder:
    embeddings = embeddings_of(model.base_model, _first_position(model))
    return encoder_of(model, embeddings, _head(model.classifier, "tanh"))


def _electra(model: Any) -> Encoder:
    return encoder_of(model, embeddings_of(model.base_model), _head(model.classifier, "gelu"))


def _first_position(model: Any) -> int:
    """RoBERTa's comes behind that of padding."""
    stored = isinstance(model, StoredEncoder)
    padding: int = model.config.pad_token_id if stored else model.base_model.embeddings.padding_idx
    return padding + 1


def classifier(dense: Any, activation: StepActivation, out: Any) -> Readout:
    """First tokens through a linear layer, an activation and the classifier."""
    return Readout("first", (ReadoutStep(linear(dense), activation), ReadoutStep(linear(out))))


def _head(head: Any, activation: StepActivation) -> Readout:
    if {name for name, _ in head.named_children()} - {"dense", "dropout", "activation", "out_proj"}:
        raise described.NotDescribed
    if activation == "gelu" and described.hidden_activation(head.activation) != "gelu":
        raise described.NotDescribed
    return classifier(head.dense, activation, head.out_proj)


def embeddings_of(body: Any, first_position: int = 0) -> Embeddings:
    """The embeddings of a model whose parts are called as BERT's are."""
    own = body.embeddings
    # DistilBERT has no types, ELECTRA a projection where embeddings are narrower
    types, projection = getattr(own, "token_type_embeddings", None), getattr(body, "embeddings_project", None)
    return Embeddings(
        words=described.table(own.word_embeddings),
        positions=None if own.position_embeddings is None else described.table(own.position_embeddings),
        types=None if types is None else described.table(types),
        norm=norm(own.LayerNorm),
        first_position=first_position,
        projection=None if projection is None else linear(projection),
    )


def encoder_of(
    model: Any, embeddings: Embeddings, readout: Readout, names: Sequence[str] = ("query", "key", "value")
) -> Encoder:
    """A model whose layers are made and called as BERT's are, but for the `names` of the projections."""
    own = model.base_model.encoder.layer
    layers = tuple(
        Layer(
            qkv=described.joined(*(getattr(layer.attention.self, name) for name in names)),
            attention_out=linear(layer.attention.output.dense),
            attention_norm=norm(layer.attention.output.LayerNorm),
            up=linear(layer.intermediate.dense),
            down=linear(layer.output.dense),
            output_norm=norm(layer.output.LayerNorm),
        )
        for layer in own
    )
    activation = described.hidden_activation(*(layer.intermediate.intermediate_act_fn for layer in own))
    return _checked(model.config, Encoder(embeddings, layers, readout, model.config.num_attention_heads, activation))


def _distilbert(model: Any) -> Encoder:
    return _distilbert_under(model, classifier(model.pre_classifier, "relu", model.classifier))


def _distilbert_under(model: Any, readout: Readout) -> Encoder:
    own = model.base_model.transformer.layer
    layers = tuple(
        Layer(
            qkv=described.joined(layer.attention.q_lin, layer.attention.k_lin, layer.attention.v_lin),
            attention_out=linear(layer.attention.out_lin),
            attention_norm=norm(layer.sa_layer_norm),
            up=linear(layer.ffn.lin1),
            down=linear(layer.ffn.lin2),
            output_norm=norm(layer.output_layer_norm),
        )
        for layer in own
    )
    activation = described.hidden_activation(*(layer.ffn.activation for layer in own))
    embeddings = embeddings_of(model.base_model)
    return _checked(model.config, Encoder(embeddings, layers, readout, model.config.num_attention_heads, activation))


def _checked(config: Any, encoder: Encoder) -> Encoder:
    """Positions are absolute, every token sees every other, and shapes are not those of a pruned or rebuilt model."""
    kind, hidden = getattr(config, "position_embedding_type", None), encoder.hidden
    if getattr(config, "is_decoder", False) or kind not in (None, "absolute") or hidden % encoder.heads:
        raise described.NotDescribed
    for layer in encoder.layers:
        if layer.qkv.weight.shape != (3 * hidden, hidden) or layer.attention_out.weight.shape != (hidden, hidden):
            raise described.NotDescribed
    return encoder


def _trainable(model: Any, head: Callable[[torch.Tensor], torch.Tensor], first_position: int = 0) -> TrainableModules:
    body = model.base_model

    def embeddings(**places: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = body.embeddings(**places)
        return body.embeddings_project(made) if hasattr(body, "embeddings_project") else made

    return TrainableModules(embeddings, body.encoder.layer, head, first_position)


def _bert_trainable(model: Any) -> TrainableModules:
    return _trainable(model, lambda firsts: model.classifier(model.dropout(model.base_model.pooler(firsts))))


def _body_trainable(model: Any, first_position: int = 0) -> TrainableModules | None:
    from secondpass.forwards.readout import first_row_head, late_of

    head, late = first_row_head(model), late_of(model)
    if late is not None:
        return replace(_trainable(model, model.readout, first_position), late=late)
    return None if head is None else _trainable(model, head, first_position)


def _roberta_body_trainable(model: Any) -> TrainableModules | None:
    return _body_trainable(model, _first_position(model))


def _roberta_trainable(model: Any) -> TrainableModules:
    return _trainable(model, model.classifier, _first_position(model))


def _electra_trainable(model: Any) -> TrainableModules:
    return _trainable(model, model.classifier)


DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "is_decoder": False,
}
FUNCTIONS = {"intermediate.intermediate_act_fn": "hidden_act"}
ROBERTA = {**DEFAULTS, "pad_token_id": 1}
ELECTRA = {**DEFAULTS, "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
DISTILBERT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "activation": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,  # the class has it in its code
    "pad_token_id": 0,
}
ALIASES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}
# The class has other names of the first three of those alone.
PASSED_OVER = frozenset({"intermediate_size", "layer_norm_eps"})

FAMILY = Family(
    architectures={
        "BertForSequenceClassification": Architecture(_bert, _bert_trainable, "bert"),
        "RobertaForSequenceClassification": Architecture(_roberta, _roberta_trainable, "roberta"),
        "XLMRobertaForSequenceClassification": Architecture(_roberta, _roberta_trainable, "xlm-roberta"),
        "CamembertForSequenceClassification": Architecture(_roberta, _roberta_trainable, "camembert"),
        "ElectraForSequenceClassification": Architecture(_electra, _electra_trainable, "electra"),
        "DistilBertForSequenceClassification": Architecture(_distilbert, None, "distilbert"),
        "BertModel": Architecture(_body, _body_trainable, "bert"),
        "RobertaModel": Architecture(_roberta_body, _roberta_body_trainable, "roberta"),
        "XLMRobertaModel": Architecture(_roberta_body, _roberta_body_trainable, "xlm-roberta"),
        "CamembertModel": Architecture(_roberta_body, _roberta_body_trainable, "camembert"),
        "ElectraModel": Architecture(_body, _body_trainable, "electra"),
        "DistilBertModel": Architecture(lambda model: _distilbert_under(model, _together(model)), None, "distilbert"),
    },
    in_torch=packed_encoder,
    for_kernel=lambda encoder: encoder,
    stored={
        "bert": StoredKind(DEFAULTS, "bert", FUNCTIONS),
        "roberta": StoredKind({**ROBERTA, "vocab_size": 50265}, "roberta", FUNCTIONS),
        "xlm-roberta": StoredKind(ROBERTA, "roberta", FUNCTIONS),
        "camembert": StoredKind(ROBERTA, "roberta", FUNCTIONS),
        "electra": StoredKind(ELECTRA, "electra", {**FUNCTIONS, "classifier.activation": "=gelu"}),
        "distilbert": StoredKind(DISTILBERT, "distilbert", {"ffn.activation": "activation"}, ALIASES, PASSED_OVER),
    },
)
