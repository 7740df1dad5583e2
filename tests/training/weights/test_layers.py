"""Layers by architecture, freezing from below, rates that fall downwards."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from secondpass.errors import InvalidInput
from secondpass.training.weights.layers import encoder_linears, freeze, head_modules, layers_of, rates
from tests.tiny_models import ARCHITECTURES, make_model

EMBEDDINGS = re.compile(r"\w+\.(embeddings|embeddings_project|encoder\.rel_embeddings|encoder\.LayerNorm)\.")
LAYER = re.compile(r"\w+\.(?:encoder\.layer|transformer\.layer|layers)\.(\d+)\.")

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100, "pad_token_id": 0}


def other(model_type: str, **config: object) -> torch.nn.Module:
    """Make a model of an architecture that has no entry of its own."""
    with torch.random.fork_rng():
        made = AutoConfig.for_model(model_type, num_labels=1, **config)
        return AutoModelForSequenceClassification.from_config(made)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_of_our_architectures(architecture):
    """Embeddings 0, layer i is i + 1, everything else the head."""
    model = make_model(architecture, 60, num_hidden_layers=3, n_layers=3)
    found = layers_of(model)
    assert (found.count, found.head) == (3, 4)
    assert list(found.numbers) == [name for name, _ in model.named_parameters()]
    for name, number in found.numbers.items():
        layer = LAYER.match(name)
        assert number == (int(layer[1]) + 1 if layer else 0 if EMBEDDINGS.match(name) else 4), name
    assert set(found.numbers.values()) == {0, 1, 2, 3, 4}


def test_debertas_convolution_belongs_to_its_first_layer():
    """It is registered above all layers and works in the first."""
    found = layers_of(make_model("deberta-v2", 60, conv_kernel_size=3))
    assert {number for name, number in found.numbers.items() if ".conv." in name} == {1}


def test_encoder_and_decoder_are_one_above_the_other():
    """BART has both."""
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    found = layers_of(other("bart", encoder_layers=2, decoder_layers=3, **sizes, **heads))
    assert found.count == 5
    for name, number in found.numbers.items():
        part = re.match(r"model\.(encoder|decoder)\.layers\.(\d)", name)
        expected = (int(part[2]) + (1 if part[1] == "encoder" else 3)) if part else (6 if "head" in name else 0)
        assert number == expected, name


@pytest.mark.parametrize(
    ("model_type", "config", "count", "at"),
    [
        (
            "albert",  # one layer, used again and again
            SIZES | {"embedding_size": 16, "num_hidden_layers": 3},
            1,
            {"albert.encoder.embedding_hidden_mapping_in.weight": 0, "albert.pooler.weight": 2},
        ),
        ("mpnet", SIZES | {"num_hidden_layers": 3}, 3, {"mpnet.encoder.relative_attention_bias.weight": 0}),
        (
            "qwen2",  # a decoder
            SIZES | {"num_hidden_layers": 3, "num_key_value_heads": 2},
            3,
            {"model.embed_tokens.weight": 0, "model.layers.2.mlp.up_proj.weight": 3, "model.norm.weight": 4},
        ),
        (
            "xlm",  # attentions, norms and feed-forward nets in lists side by side
            {"emb_dim": 32, "n_layers": 3, "n_heads": 2, "n_words": 100},
            3,
            {
                "transformer.layer_norm2.1.weight": 2,
                "transformer.ffns.2.lin1.bias": 3,
                "transformer.embeddings.weight": 0,
            },
        ),
        (
            "funnel",  # lists of lists: a block counts as a layer
            {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 2], "vocab_size": 100},
            2,
            {"funnel.encoder.blocks.1.1.ffn.linear_1.weight": 2},
        ),
    ],
)
def test_others(model_type, config, count, at):
    """By their lists of layers; the head is what is outside."""
    found = layers_of(other(model_type, **config))
    assert found.count == count
    assert {name: found.numbers[name] for name in at} == at
    assert all(number == found.head for name, number in found.numbers.items() if re.match("classifier|score", name))


def test_model_without_lists():
    """Embeddings 0, the rest is head; nothing fails."""
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 1))
    assert layers_of(model).numbers == {"0.weight": 0, "1.weight": 1, "1.bias": 1}


def frozen_names(model: torch.nn.Module) -> set[str]:
    """Names of the weights that do not train."""
    return {name for name, weight in model.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_freeze(architecture):
    """Embeddings and the lowest layers stay after a step, bit by bit; all others move."""
    model = make_model(architecture, 60)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    frozen = freeze(model, 1)
    numbers = layers_of(model).numbers
    assert frozen_names(model) == set(frozen.names) == {name for name, number in numbers.items() if number <= 1}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ids = torch.arange(5, 17)[None]
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    optimizer.step()
    for name, weight in model.named_parameters():
        if name in frozen.names:
            assert torch.equal(weight, before[name]), name
        elif not name.endswith("key.bias"):  # softmax does not see it
            assert not torch.equal(weight, before[name]), name


def test_nothing_is_frozen_with_zero():
    """Not the embeddings either."""
    model = make_model("bert", 60)
    assert freeze(model, 0).names == ()
    assert frozen_names(model) == set()


def test_undone_as_it_was():
    """What was frozen before stays frozen; as a context manager too, after an error too."""
    model = make_model("bert", 60)
    own = "bert.embeddings.word_embeddings.weight"
    model.get_parameter(own).requires_grad_(False)
    frozen = freeze(model, 2)
    assert own not in frozen.names
    assert "bert.pooler.dense.weight" not in frozen_names(model)
    frozen.undo()
    assert frozen_names(model) == {own}
    with freeze(model, 1):
        assert len(frozen_names(model)) > 1
    assert frozen_names(model) == {own}
    with pytest.raises(ZeroDivisionError), freeze(model, 1):
        raise ZeroDivisionError
    assert frozen_names(model) == {own}


def test_gradients_of_frozen_weights_are_dropped():
    """Otherwise the next step would still move them; those of others stay."""
    model = make_model("bert", 60)
    ids = torch.arange(5, 17)[None]
    model(input_ids=ids).logits.sum().backward()
    frozen = freeze(model, 1)
    assert all((weight.grad is None) == (name in frozen.names) for name, weight in model.named_parameters())


@pytest.mark.parametrize("layers", [-1, 3, 1.0, True, None, "1"])
def test_refused_numbers_of_layers(layers):
    """The message says how many there are."""
    with pytest.raises(InvalidInput, match=r"frozen_layers=.* from 0 to 2, the model's layers"):
        freeze(make_model("bert", 60), layers)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rates(architecture):
    """The head has the rate itself; each layer below so much of it."""
    model = make_model(architecture, 60)
    found = rates(model, 2e-5, 0.5)
    numbers = layers_of(model).numbers
    expected = {0: 2e-5 / 8, 1: 2e-5 / 4, 2: 2e-5 / 2, 3: 2e-5}
    assert found == {name: expected[number] for name, number in numbers.items()}
    assert set(rates(model, 2e-5, 1.0).values()) == {2e-5}


@pytest.mark.parametrize(
    ("rate", "decay", "words"),
    [
        (0, 1, "learning_rate=0"),
        (-1, 1, "learning_rate"),
        (float("nan"), 1, "learning_rate"),
        (float("inf"), 1, "learning_rate"),
        (1, 0, "layer_decay=0"),
        (1, 1.1, "layer_decay"),
        (1, float("nan"), "layer_decay"),
    ],
)
def test_refused_rates(rate, decay, words):
    """By name."""
    with pytest.raises(InvalidInput, match=words):
        rates(make_model("bert", 60), rate, decay)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", ("bert.pooler", "classifier")),
        ("distilbert", ("pre_classifier", "classifier")),
        ("roberta", ("classifier",)),
        ("modernbert", ("model.final_norm", "head", "classifier")),
        ("deberta-v2", ("pooler", "classifier")),
    ],
)
def test_head_and_encoder_share_nothing(architecture, head):
    """Modules of the head, outermost; linear layers of the encoder; together all linear layers."""
    model = make_model(architecture, 60)
    assert head_modules(model) == head
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    above = {name for name in linear if any(f"{name}.".startswith(f"{part}.") for part in head)}
    assert set(encoder_linears(model)) == linear - above
    assert above
