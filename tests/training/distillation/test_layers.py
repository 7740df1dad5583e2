"""Dropped layers: the model scores with the others, and loads again as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.training.distillation.layers import drop_layers
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_folder
from tests.toy_task import same, state

PAIRS = [("cat", "the mat and the dog"), ("a river", "water is cold in london and paris"), ("train", "bank")]


def encoder_of(path: Path, architecture: str, layers: int = 5) -> CrossEncoder:
    """A tiny model with several layers."""
    names = ("num_hidden_layers", "n_layers") if architecture == "distilbert" else ("num_hidden_layers",)
    folder = make_folder(path, architecture, **dict.fromkeys(names, layers))
    return CrossEncoder(str(folder), device="cpu")


def weights_of(encoder: CrossEncoder, number: int) -> dict[str, torch.Tensor]:
    """Weights of one layer by their names in it."""
    found = {}
    for name, weight in encoder.model.state_dict().items():
        before, mark, after = name.partition(f".{number}.")
        if mark and before.endswith(("layer", "layers")):
            found[after] = weight
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_and_loads_as_what_is_left(tmp_path, architecture):
    """In place the model scores as the saved folder does, here and in transformers, with the old layers' weights."""
    encoder = encoder_of(tmp_path / "whole", architecture)
    before = encoder.predict(PAIRS)
    old = [weights_of(encoder, number) for number in range(5)]
    assert drop_layers(encoder, [0, 1, 4]) == (0, 1, 4)
    scores = encoder.predict(PAIRS)
    assert not torch.allclose(torch.from_numpy(scores), torch.from_numpy(before), atol=1e-3)
    for place, number in enumerate((0, 1, 4)):
        for name, weight in weights_of(encoder, place).items():
            assert torch.equal(weight, old[number][name])
    assert weights_of(encoder, 3) == {}
    encoder.save(str(tmp_path / "part"))
    again = CrossEncoder(str(tmp_path / "part"), device="cpu")
    assert same(state(again), state(encoder))
    assert again.predict(PAIRS) == pytest.approx(scores, rel=0, abs=ROUNDING)
    plain, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "part", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert plain.config.num_hidden_layers == encoder.config.num_hidden_layers == 3


def test_the_rest_is_the_model_with_those_layers(tmp_path):
    """Against transformers: a fresh model of three layers with the weights moved by hand gives the same logits."""
    encoder = encoder_of(tmp_path, "bert")
    config = AutoConfig.from_pretrained(tmp_path, num_hidden_layers=3)
    moved = {}
    places = {0: 0, 2: 1, 4: 2}
    for name, weight in encoder.model.state_dict().items():
        parts = name.split(".")
        if "layer" in parts:
            number = int(parts[parts.index("layer") + 1])
            if number not in places:
                continue
            parts[parts.index("layer") + 1] = str(places[number])
        moved[".".join(parts)] = weight
    fresh = AutoModelForSequenceClassification.from_config(config).eval()
    fresh.load_state_dict(moved)
    drop_layers(encoder, 3)
    inputs = encoder.collate([list(pair) for pair in PAIRS])
    with torch.no_grad():
        assert torch.allclose(encoder.model(**inputs).logits, fresh(**inputs).logits, rtol=0, atol=ROUNDING)


def test_attention_types_go_with_their_layers(tmp_path):
    """ModernBERT's layers see the whole text or a window: a layer keeps its own kind, in memory and in the folder."""
    encoder = encoder_of(tmp_path / "whole", "modernbert", 6)
    kinds = list(encoder.config.layer_types)
    kept = (0, 3, 5)
    drop_layers(encoder, kept)
    encoder.save(str(tmp_path / "part"))
    written = json.loads((tmp_path / "part" / "config.json").read_text())
    assert written["layer_types"] == encoder.config.layer_types == [kinds[number] for number in kept]
    assert [layer.attention_type for layer in encoder.model.model.layers] == [kinds[number] for number in kept]
    assert [layer.layer_idx for layer in encoder.model.model.layers] == [0, 1, 2]


def test_a_model_that_would_not_load_is_left_alone(tmp_path):
    """ModernBERT's first layer lacks a normalisation: dropping it would make another model of the folder."""
    encoder = encoder_of(tmp_path, "modernbert")
    before = encoder.predict(PAIRS).tolist()
    with pytest.raises(InvalidInput, match=r"keep=\[1, 2\]: .*would not load again"):
        drop_layers(encoder, [1, 2])
    assert encoder.predict(PAIRS).tolist() == before
    assert encoder.config.num_hidden_layers == 5


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (0,)), (2, (0, 5)), (3, (0, 2, 5)), (4, (0, 2, 3, 5)), (5, (0, 1, 2, 4, 5)), (6, (0, 1, 2, 3, 4, 5))],
)
def test_a_number_is_spread_evenly(tmp_path, count, expected):
    """With the first and the last among them."""
    assert drop_layers(encoder_of(tmp_path, "bert", 6), count) == expected


@pytest.mark.parametrize("keep", [0, 6, -1, [], [0, 0], [2, 1], [5], [-1, 2], [0.0], "01", None, True, [True]])
def test_refused(tmp_path, keep):
    """Layers that there are not, or not in order, and what is no number."""
    encoder = encoder_of(tmp_path, "bert")
    with pytest.raises(InvalidInput, match="keep="):
        drop_layers(encoder, keep)
    assert encoder.config.num_hidden_layers == len(encoder.model.bert.encoder.layer) == 5


def test_a_plain_transformers_model_and_a_strange_one(tmp_path):
    """A model without an engine around it will do; one without a single stack of layers is refused."""
    encoder = encoder_of(tmp_path, "roberta")
    assert drop_layers(encoder.model, 2) == (0, 4)
    config = AutoConfig.for_model("albert", hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=10,
                                  embedding_size=8, num_hidden_layers=3)  # fmt: skip
    with pytest.raises(InvalidInput, match="has 0 stacks of 3 layers"):
        drop_layers(AutoModelForSequenceClassification.from_config(config), 2)


def test_can_be_trained_afterwards(tmp_path):
    """Gradients reach every layer that is left, and the optimiser sees those alone."""
    encoder = encoder_of(tmp_path, "electra")
    drop_layers(encoder, 2)
    encoder.model(**encoder.collate([list(pair) for pair in PAIRS])).logits.sum().backward()
    layers = encoder.model.electra.encoder.layer
    assert len(layers) == 2
    assert all(weight.grad is not None for layer in layers for weight in layer.parameters())
