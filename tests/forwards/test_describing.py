"""Rules of `secondpass.forwards.families`: what is described, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from transformers import AlbertConfig, AlbertForSequenceClassification

from secondpass.forwards.families import describe
from tests.forwards.models import FAMILIES, VOCABULARY, model_of


@pytest.mark.parametrize("family", FAMILIES)
def test_a_description_has_every_weight_once(family: str) -> None:
    """Nothing is left out: the elements add up to the model's."""
    model = model_of(family, 3)
    encoder = describe(model)
    assert encoder is not None
    assert encoder.hidden == 32
    assert len(encoder.layers) == 2
    assert (encoder.heads, encoder.activation) == (2, "gelu")
    assert encoder.readout.steps[-1].linear.weight.shape == (3, 32)
    assert (encoder.embeddings.projection is not None) is (family == "electra")
    assert encoder.embeddings.first_position == {"roberta": 2, "xlm-roberta": 2}.get(family, 0)
    found = 0

    def count(part: Any) -> None:
        nonlocal found
        if isinstance(part, torch.Tensor):
            found += part.numel()
        elif isinstance(part, tuple):
            list(map(count, part))
        elif hasattr(part, "__dataclass_fields__"):
            for name in part.__dataclass_fields__:
                count(getattr(part, name))

    count(encoder)
    assert found == sum(weight.numel() for weight in model.parameters())


def test_weights_are_shared_but_for_the_joined_projection() -> None:
    """A description of a large model does not double its memory."""
    model = model_of("bert")
    encoder = describe(model)
    assert encoder is not None
    body = model.bert
    assert encoder.embeddings.words.data_ptr() == body.embeddings.word_embeddings.weight.data_ptr()
    assert encoder.layers[0].up.weight.data_ptr() == body.encoder.layer[0].intermediate.dense.weight.data_ptr()
    assert encoder.layers[0].qkv.weight.shape == (96, 32)
    assert not encoder.layers[0].qkv.weight.requires_grad


def test_what_is_not_covered_is_not_described() -> None:
    """A family that nobody wrote for."""
    config = AlbertConfig(vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=2, intermediate_size=64)
    assert describe(AlbertForSequenceClassification(config)) is None


class _Own(nn.Linear):
    pass


def _swapped(model: Any, module: nn.Module) -> None:
    model.bert.encoder.layer[1].output.dense = module


def _adapted(model: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(target_modules=["query"], r=2), model)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a hook": lambda model: model.bert.encoder.register_forward_hook(lambda *given: None),
    "a hook before": lambda model: model.classifier.register_forward_pre_hook(lambda *given: None),
    "an adapter": _adapted,
    "a layer of another class": lambda model: _swapped(model, _Own(64, 32)),
    "a layer without bias": lambda model: _swapped(model, nn.Linear(64, 32, bias=False)),
    "a layer in another type": lambda model: model.bert.encoder.layer[0].half(),
    "a head of two layers": lambda model: setattr(model, "classifier", nn.Sequential(nn.Linear(32, 1))),
    "a normalisation over roots": lambda model: setattr(model.bert.embeddings, "LayerNorm", nn.RMSNorm(32)),
    "a forward of its own": lambda model: setattr(model, "forward", lambda **given: None),
    "a parametrised weight": lambda model: parametrizations.weight_norm(model.bert.pooler.dense),
    "an activation nobody knows": lambda model: setattr(
        model.bert.encoder.layer[0].intermediate, "intermediate_act_fn", nn.Mish()
    ),
    "activations that differ": lambda model: setattr(
        model.bert.encoder.layer[0].intermediate, "intermediate_act_fn", nn.ReLU()
    ),
    "no pooler": lambda model: setattr(model.bert, "pooler", None),
    "a decoder": lambda model: setattr(model.config, "is_decoder", True),
    "words that are renormalised": lambda model: setattr(
        model.bert.embeddings, "word_embeddings", nn.Embedding(VOCABULARY, 32, max_norm=1.0)
    ),
    "weights that are not there": lambda model: model.to("meta"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_not_described(change: str) -> None:
    """Whatever the weights alone do not tell is left to transformers' own forward."""
    model = model_of("bert")
    assert describe(model) is not None
    CHANGES[change](model)
    assert describe(model) is None


def test_a_class_of_the_same_name_is_not_taken_for_transformers() -> None:
    """Code that comes with a model may call itself anything."""
    model = model_of("bert")
    stranger = type("BertForSequenceClassification", (type(model),), {"__module__": "transformers_modules.stranger"})
    model.__class__ = stranger
    assert describe(model) is None


def test_a_quantised_model_is_not_described() -> None:
    """Its linear layers are of another kind."""
    model = model_of("bert")
    model.bert.encoder.layer[0].output.dense = nn.LazyLinear(32)
    assert describe(model) is None
