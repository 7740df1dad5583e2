"""Parameter groups: each trainable weight once, decayed or not by what its module is, with its layer's rate."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from secondpass.errors import InvalidInput
from secondpass.training.weights.layers import freeze, layers_of
from secondpass.training.weights.parameter_groups import is_decayed, parameter_groups
from tests.tiny_models import ARCHITECTURES, make_model


def names_in(groups, decayed: bool) -> set[str]:
    """Names in the groups with weight decay, or in those without."""
    return {name for group in groups if (group["weight_decay"] > 0) is decayed for name in group["param_names"]}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_groups_without_layer_decay(architecture):
    """Every weight once, with its name, in the model's order; biases and norms undecayed."""
    model = make_model(architecture, 60)
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.01)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.01), (0.1, 0.0)]
    weights = dict(model.named_parameters())
    order = list(weights)
    for group in groups:
        assert all(weights[name] is weight for name, weight in zip(group["param_names"], group["params"], strict=True))
        assert group["param_names"] == sorted(group["param_names"], key=order.index)
    assert sorted(name for group in groups for name in group["param_names"]) == sorted(order)
    vectors = {name for name, weight in weights.items() if weight.dim() < 2}
    assert names_in(groups, decayed=False) == vectors


SEED = ("bias", "LayerNorm.bias", "LayerNorm.weight")


@pytest.mark.parametrize("architecture", ["bert", "electra", "roberta"])
def test_decay_is_the_seeds_where_norms_are_called_layernorm(architecture):
    """For `fit`: on the architectures that sentence-transformers' names were made for, its two groups."""
    model = make_model(architecture, 60)
    decayed, kept = parameter_groups(model, weight_decay=0.3, frozen=True)
    assert set(kept["param_names"]) == {n for n, _ in model.named_parameters() if any(part in n for part in SEED)}
    assert len(decayed["param_names"]) + len(kept["param_names"]) == len(list(model.parameters()))
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert "lr" not in decayed


@pytest.mark.parametrize("architecture", ["distilbert", "modernbert"])
def test_fit_spares_norms_of_every_name(architecture):
    """sentence-transformers decays the norms of these, whose names it does not know."""
    model = make_model(architecture, 60)
    _, kept = parameter_groups(model, weight_decay=0.3, frozen=True)
    norms = {name for name, weight in model.named_parameters() if "norm" in name.lower() and weight.dim() == 1}
    assert norms
    assert norms <= set(kept["param_names"])
    assert any(not any(part in name for part in SEED) for name in norms)


def test_frozen_weights_on_request():
    """Every parameter is in exactly one group, frozen ones too, so that `fit` may have them unfrozen on the way."""
    model = make_model("bert", 60)
    freeze(model, 2)
    groups = parameter_groups(model, weight_decay=0.3, frozen=True)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_norms_by_what_they_are():
    """RMSNorm of a decoder and norms of torch are not decayed, whatever they are called; a weight called norm is."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100, "pad_token_id": 0}
    config = AutoConfig.for_model("qwen2", num_labels=1, num_hidden_layers=1, num_key_value_heads=2, **sizes)
    with torch.random.fork_rng():
        model = AutoModelForSequenceClassification.from_config(config)
    assert not is_decayed(model, "model.norm.weight")
    assert not is_decayed(model, "model.layers.0.input_layernorm.weight")
    assert is_decayed(model, "model.layers.0.mlp.up_proj.weight")
    model = torch.nn.ModuleDict(
        {
            "norm": torch.nn.Linear(2, 2),
            "a": torch.nn.GroupNorm(1, 2),
            "b": torch.nn.RMSNorm(2),
            "c": torch.nn.BatchNorm1d(2),
            "attention": torch.nn.MultiheadAttention(2, 1),
        }
    )
    decayed = {name for name, _ in model.named_parameters() if is_decayed(model, name)}
    assert decayed == {"norm.weight", "attention.in_proj_weight", "attention.out_proj.weight"}


def test_a_group_for_each_layer():
    """The head first; rates of the layers fall; deterministic."""
    model = make_model("bert", 60)
    groups = parameter_groups(model, learning_rate=0.8, weight_decay=0.1, layer_decay=0.5)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (rate, decay) for rate in (0.8, 0.4, 0.2, 0.1) for decay in (0.1, 0.0)
    ]
    numbers = layers_of(model).numbers
    assert [{numbers[name] for name in group["param_names"]} for group in groups] == [
        {3},
        {3},
        {2},
        {2},
        {1},
        {1},
        {0},
        {0},
    ]
    again = parameter_groups(make_model("bert", 60), learning_rate=0.8, weight_decay=0.1, layer_decay=0.5)
    assert [group["param_names"] for group in again] == [group["param_names"] for group in groups]


def test_without_weight_decay_both_kinds_stay_apart():
    """So that a checkpoint's groups do not depend on the value."""
    assert len(parameter_groups(make_model("bert", 60), learning_rate=0.1, weight_decay=0)) == 2


def test_only_trainable_weights():
    """Frozen layers are in no group, and no group is empty."""
    model = make_model("bert", 60)
    frozen = freeze(model, 2)
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.01, layer_decay=0.5)
    names = {name for group in groups for name in group["param_names"]}
    assert names == set(dict(model.named_parameters())) - set(frozen.names)
    assert all(group["params"] for group in groups)


def test_tied_weights_are_in_one_group():
    """torch refuses a weight in two."""
    model = make_model("bert", 60)
    model.twin = model.classifier
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.01)
    assert len({id(weight) for group in groups for weight in group["params"]}) == len(list(model.parameters()))
    torch.optim.AdamW(groups)


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
def test_optimizers_take_them(make):
    """And a step moves a layer by its rate."""
    model = make_model("bert", 60)
    optimizer = make(parameter_groups(model, learning_rate=0.1, weight_decay=0.0, layer_decay=0.5))
    assert optimizer.param_groups[0]["param_names"] == ["bert.pooler.dense.weight", "classifier.weight"]
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer.step()
    if make is torch.optim.SGD:
        moved = {name: (before[name] - weight).mean().item() for name, weight in model.named_parameters()}
        assert moved["classifier.weight"] == pytest.approx(0.1, rel=1e-4)
        assert moved["bert.embeddings.word_embeddings.weight"] == pytest.approx(0.1 / 8, rel=1e-4)


def test_refused():
    """By name."""
    model = make_model("bert", 60)
    for decay in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="weight_decay="):
            parameter_groups(model, learning_rate=0.1, weight_decay=decay)
    with pytest.raises(InvalidInput, match="layer_decay="):
        parameter_groups(model, learning_rate=0.1, weight_decay=0.0, layer_decay=2)
    with pytest.raises(InvalidInput, match="every parameter of the model is frozen"):
        parameter_groups(model.requires_grad_(False), learning_rate=0.1, weight_decay=0.0)
