"""Layers by architecture, freezing from below, rates that fall downwards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.forwards.readout import ReadoutModel, VocabularyRows
from secondpass.training.weights.layers import (
    drop_layers,
    encoder_linears,
    freeze,
    head_modules,
    is_decayed,
    layers_of,
    narrow_layers,
    parameter_groups,
    rates,
)
from tests.tiny_models import (
    ARCHITECTURES,
    DECODERS,
    ROUNDING,
    make_chain,
    make_folder,
    make_model,
    make_reranker,
)
from tests.toy_task import same, state

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


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "modernbert", "distilbert"])
def test_layers_below_a_chain(architecture, tmp_path):
    """The encoder's are numbered as without one; its modules are the head, and no pooler that they pass by."""
    model = CrossEncoder(str(make_chain(tmp_path, architecture, num_hidden_layers=3, n_layers=3)), device="cpu").model
    found, alone = layers_of(model), layers_of(make_model(architecture, 60, num_hidden_layers=3, n_layers=3))
    assert (found.count, found.head) == (3, 4)
    shorter = {name.partition(".")[2]: number for name, number in alone.numbers.items()}
    for name, number in found.numbers.items():
        part, _, own = name.partition(".")
        assert number == (shorter.get(own, 4) if part == "body" else 4), name
    above = ["body.final_norm"] if architecture == "modernbert" else []
    assert list(head_modules(model)) == [*above, "readout.1", "readout.2", "readout.3"]
    assert all(name.startswith("body.") and "pooler" not in name for name in encoder_linears(model))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", [*DECODERS, "gemma", "gemma3_text"])
def test_layers_of_a_causal_reranker(architecture, tied):
    """Embeddings 0, a tied vocabulary with them, else it and the last norm are above the layers, as a head is."""
    sizes = SIZES | {"num_hidden_layers": 3, "head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": tied}
    body = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))
    model = ReadoutModel(body, VocabularyRows(5))
    found = layers_of(model)
    assert found.count == 3
    beside = {name: number for name, number in found.numbers.items() if ".layers." not in name}
    untied = {} if tied else {"body.lm_head.weight": 4}
    assert beside == {"body.model.embed_tokens.weight": 0, "body.model.norm.weight": 4} | untied
    assert {number for name, number in found.numbers.items() if ".layers.1." in name} == {2}
    assert len(encoder_linears(model)) == 3 * 7
    assert set(freeze(model, 1).names) == {name for name, number in found.numbers.items() if number <= 1}


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


def saved_and_loaded(encoder, folder, scores):
    """Save a model: its folder has the same weights and scores here, and gives a whole model of transformers."""
    encoder.save(str(folder))
    again = CrossEncoder(str(folder), device="cpu")
    assert same(state(again), state(encoder))
    assert again.predict(PAIRS) == pytest.approx(scores, rel=0, abs=ROUNDING)
    plain, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return plain


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
    plain = saved_and_loaded(encoder, tmp_path / "part", scores)
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


@pytest.mark.parametrize(
    ("architecture", "config", "kinds"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, "fss"),
        ("gemma2", {"tie_word_embeddings": False}, "sff"),
        ("llama", {}, None),
    ],
)
def test_layers_of_a_causal_reranker_go(tmp_path, architecture, config, kinds):
    """Each that is left keeps its window; the folder gives the same scores, and the answer is read as before."""
    encoder = CrossEncoder(str(make_reranker(tmp_path, architecture, num_hidden_layers=5, **config)), device="cpu")
    before = encoder.predict(PAIRS)
    kept = (0, 1, 3) if architecture == "gemma2" else (0, 3, 4)
    assert drop_layers(encoder, kept) == kept
    scores = encoder.predict(PAIRS)
    assert not torch.allclose(torch.from_numpy(scores), torch.from_numpy(before), atol=1e-3)
    encoder.save(str(tmp_path / "part"))
    again = CrossEncoder(str(tmp_path / "part"), device="cpu")
    assert same(state(again), state(encoder))
    assert again.predict(PAIRS) == pytest.approx(scores, rel=0, abs=ROUNDING)
    types = json.loads((tmp_path / "part" / "config.json").read_text()).get("layer_types")
    assert kinds == (types and "".join(kind[0] for kind in types))


def test_layers_below_a_chain_go(tmp_path):
    """ModernBERT's keep their kinds; where the model would not load again it is left alone."""
    encoder = CrossEncoder(str(make_chain(tmp_path, "modernbert", num_hidden_layers=6)), device="cpu")
    with pytest.raises(InvalidInput, match=r"keep=\[1, 2\]: ModernBertModel with these layers would not load again"):
        drop_layers(encoder, [1, 2])
    kinds = list(encoder.config.layer_types)
    drop_layers(encoder, [0, 3, 5])
    scores = encoder.predict(PAIRS)
    encoder.save(str(tmp_path / "part"))
    again = CrossEncoder(str(tmp_path / "part"), device="cpu")
    assert again.predict(PAIRS) == pytest.approx(scores, rel=0, abs=ROUNDING)
    assert again.config.layer_types == [kinds[number] for number in (0, 3, 5)]


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


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "modernbert"])
def test_narrow_layers_score_and_load_as_what_is_left(tmp_path, architecture):
    """In place, saved and in transformers; all units change nothing, and units that count nothing cost nothing."""
    encoder = encoder_of(tmp_path / "whole", architecture)
    whole = encoder.predict(PAIRS)
    width = encoder.config.to_dict().get("intermediate_size") or encoder.config.hidden_dim
    narrow_layers(encoder, width)
    assert np.array_equal(encoder.predict(PAIRS), whole)
    with torch.no_grad():
        for part in encoder.model.modules():
            if type(part) is torch.nn.Linear and part.in_features == width:
                part.weight[:, 1::2] = 0
    expected = encoder.predict(PAIRS)
    assert not np.allclose(expected, whole, rtol=0, atol=1e-4)
    narrow_layers(encoder, width // 2)
    assert encoder.predict(PAIRS) == pytest.approx(expected, rel=0, abs=ROUNDING)
    saved_and_loaded(encoder, tmp_path / "part", expected)
    with pytest.raises(InvalidInput, match=f"size={width}: the model's blocks have {width // 2} units"):
        narrow_layers(encoder, width)


def test_units_of_a_gated_block_go_by_all_three_matrices(tmp_path):
    """Llama's: a unit without a gate counts nothing, however long its other weights are."""
    encoder = CrossEncoder(str(make_reranker(tmp_path, "llama", num_hidden_layers=2)), device="cpu")
    with torch.no_grad():
        for layer in encoder.model.base_model.layers:
            layer.mlp.gate_proj.weight[::2] = 0
    expected, width = encoder.predict(PAIRS), encoder.config.intermediate_size
    narrow_layers(encoder, width // 2)
    assert encoder.predict(PAIRS) == pytest.approx(expected, rel=0, abs=ROUNDING)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None, "8"])
def test_a_width_is_refused(tmp_path, size):
    """What is no number of units."""
    with pytest.raises(InvalidInput, match="size="):
        narrow_layers(encoder_of(tmp_path, "bert"), size)


def test_blocks_that_are_not_known_are_left_alone(tmp_path):
    """ModernBERT's two ways in are one matrix."""
    encoder = encoder_of(tmp_path, "modernbert")
    before = encoder.predict(PAIRS).tolist()
    with pytest.raises(InvalidInput, match=r"layer 0 has 0 matrices into \d+ units and 1 out of them"):
        narrow_layers(encoder, 8)
    assert encoder.predict(PAIRS).tolist() == before


def test_can_be_trained_afterwards(tmp_path):
    """Gradients reach every layer that is left, and the optimiser sees those alone."""
    encoder = encoder_of(tmp_path, "electra")
    drop_layers(encoder, 2)
    encoder.model(**encoder.collate([list(pair) for pair in PAIRS])).logits.sum().backward()
    layers = encoder.model.electra.encoder.layer
    assert len(layers) == 2
    assert all(weight.grad is not None for layer in layers for weight in layer.parameters())


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


def test_refused_of_parameter_groups():
    """By name."""
    model = make_model("bert", 60)
    for decay in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="weight_decay="):
            parameter_groups(model, learning_rate=0.1, weight_decay=decay)
    with pytest.raises(InvalidInput, match="layer_decay="):
        parameter_groups(model, learning_rate=0.1, weight_decay=0.0, layer_decay=2)
    with pytest.raises(InvalidInput, match="every parameter of the model is frozen"):
        parameter_groups(model.requires_grad_(False), learning_rate=0.1, weight_decay=0.0)
