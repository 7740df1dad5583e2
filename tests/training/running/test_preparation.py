"""A model made ready to learn, its low-rank additions among it."""

from __future__ import annotations

import copy
import json
import sys
import warnings

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from secondpass import CrossEncoder
from secondpass.errors import (
    CheckpointError,
    InvalidInput,
    MissingExtra,
    ModelLoadError,
    SecondPassError,
    TrainingError,
)
from secondpass.forwards.learning.dropout import dropout_set_to
from secondpass.forwards.learning.packed import PaddedForward
from secondpass.forwards.readout import ReadoutModel
from secondpass.training.running.lora import (
    Lora,
    add_lora,
    load_lora,
    lora_targets,
    low_rank,
    trained_share,
)
from secondpass.training.settings import LoraSettings, TrainingSettings
from secondpass.training.trainer import (
    autocast_for,
    dropout_for,
    precision_for,
    ready_to_learn,
    recomputed_activations,
    seeded,
)
from secondpass.training.weights.layers import encoder_linears, head_modules, parameter_groups
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_chain, make_model, make_reranker

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has", "fast"),
    [
        ({"avx512_f": True}, False),
        ({"amx_bf16": True, "avx512_bf16": True, "avx512_fp16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True, "avx512_fp16": True}, False),
        ({"amx_bf16": False, "avx512_bf16": True, "avx512_fp16": False}, True),
        ({"neon": True}, False),
    ],
)
def test_bfloat16_is_taken_where_a_processor_multiplies_faster_in_it(
    has: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where AVX-512 has it at half the speed of float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert precision_for(TrainingSettings(), CPU) == (torch.bfloat16 if fast else torch.float32)


def test_an_older_torch_knows_of_one_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMX; one that cannot tell that either means no."""
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert precision_for(TrainingSettings(), CPU) == torch.bfloat16
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert precision_for(TrainingSettings(), CPU) == torch.float32


@pytest.mark.parametrize(("wish", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(wish, dtype):
    """As asked; "auto" is one of the two on a CPU, and float16 needs CUDA."""
    assert precision_for(TrainingSettings(precision=wish), CPU) == dtype
    assert precision_for(TrainingSettings(), CPU) in (torch.float32, torch.bfloat16)
    with pytest.raises(InvalidInput, match="CUDA"):
        precision_for(TrainingSettings(precision="fp16"), CPU)


def test_forward_gives_the_scoring_logits(own_tiny):
    """Without dropout, with gradients, float32 [pairs, labels]."""
    queries, documents = ["cat", "how to reset"], ["the mat", "river"]
    expected = own_tiny.predict(list(zip(queries, documents, strict=True)), activation_fct=torch.nn.Identity())
    with ready_to_learn(own_tiny, TrainingSettings(precision="fp32"), 0) as ready:
        own_tiny.model.train()
        made = ready.forward(ready.tokenised(queries, documents))
    assert made.requires_grad
    assert made.shape == (2, 1)
    torch.testing.assert_close(made[:, 0].detach(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_rewinding_repeats_random_numbers(own_tiny):
    """Everything the forward draws from."""
    with ready_to_learn(own_tiny, TrainingSettings(dropout=0.3, precision="fp32"), 0) as ready:
        own_tiny.model.train()
        tokens = ready.tokenised(["cat"] * 3, ["mat", "river in london", "dog"])
        rewind = ready.rewinding()
        first = ready.forward(tokens).detach()
        second = ready.forward(tokens).detach()
        rewind()
        again = ready.forward(tokens).detach()
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_low_rank_additions_are_part_of_the_weights_afterwards(own_tiny):
    """Also when training fails: the model is its own class again."""
    kind = type(own_tiny.model)
    with pytest.raises(KeyError), low_rank(own_tiny.model, LoraSettings(rank=2)):
        raise KeyError
    assert type(own_tiny.model) is kind
    assert not any("lora" in name for name, _ in own_tiny.model.named_parameters())


def test_additions_are_alike_in_every_process(tiny_folder):
    """What is drawn after them is not; of one process all numbers are those of the seed, in one row."""
    settings = TrainingSettings(lora=LoraSettings(rank=2), dropout=0.1, precision="fp32", seed=5)
    made = []
    for rank in (0, 1):
        encoder = CrossEncoder(tiny_folder, device="cpu")
        with ready_to_learn(encoder, settings, rank):
            additions = {name: value.clone() for name, value in encoder.model.named_parameters() if "lora_A" in name}
            made.append((additions, torch.rand(3)))
    (first, drawn), (second, other) = made
    assert first
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(drawn, other)
    alone = CrossEncoder(tiny_folder, device="cpu")
    with seeded(5, CPU):
        add_lora(alone.model, LoraSettings(rank=2))
        assert torch.equal(torch.rand(3), drawn)


PREPARED = ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"]
PAIRS = [["how to reset", "the password"], ["cat", "the mat on the river in london"]]


def logits(encoder):
    """In training mode, dropout included if there is any."""
    encoder.model.train()
    return encoder.model(**encoder.collate(PAIRS)).logits.detach()


@pytest.mark.parametrize("architecture", PREPARED)
def test_no_dropout_means_none(tiny_model_folder, architecture):
    """In every architecture a training forward is then the scoring forward, and afterwards drops as before."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    shares = [module.p for module in encoder.model.modules() if isinstance(module, nn.Dropout)]
    encoder.model.eval()
    expected = encoder.model(**encoder.collate(PAIRS)).logits.detach()
    with dropout_set_to(encoder.model, 0.0):
        torch.testing.assert_close(logits(encoder), expected, rtol=1e-5, atol=1e-6)
    with dropout_set_to(encoder.model, 0.5):
        assert not torch.allclose(logits(encoder), logits(encoder))
    assert [module.p for module in encoder.model.modules() if isinstance(module, nn.Dropout)] == shares


def test_dropout_is_put_back_after_an_error(own_tiny):
    """Whatever happens inside."""
    with pytest.raises(KeyError), dropout_set_to(own_tiny.model, 0.0):
        raise KeyError
    assert own_tiny.model.dropout.p == 0.1


@pytest.mark.parametrize(("wish", "device", "share"), [(None, "cpu", 0.0), (None, "cuda", None), (0.3, "cpu", 0.3)])
def test_which_dropout(wish, device, share):
    """Off on a CPU unless asked for, the model's own elsewhere."""
    assert dropout_for(TrainingSettings(dropout=wish), torch.device(device)) == share


@pytest.mark.parametrize("architecture", PREPARED)
def test_recomputed_activations_give_the_same_gradient(tiny_model_folder, architecture):
    """Less memory, nothing else."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    made = []
    for wanted in (False, True):
        encoder.model.zero_grad()
        with recomputed_activations(encoder.model, wanted), dropout_set_to(encoder.model, 0.0):
            encoder.model.train()
            encoder.model(**encoder.collate(PAIRS)).logits.sum().backward()
        made.append([weight.grad.clone() for weight in encoder.model.parameters() if weight.grad is not None])
    for plain, recomputed in zip(*made, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_model_that_cannot_recompute_is_refused():
    """Any module without the methods."""
    with pytest.raises(InvalidInput, match="gradient_checkpointing"), recomputed_activations(nn.Linear(1, 1), True):
        pass


def test_autocast():
    """Products in the asked type; float32 changes nothing."""
    product = nn.Linear(4, 4)
    cpu = torch.device("cpu")
    with autocast_for(torch.bfloat16, cpu)():
        assert product(torch.ones(1, 4)).dtype == torch.bfloat16
    with autocast_for(torch.float32, cpu)():
        assert product(torch.ones(1, 4)).dtype == torch.float32


def test_seeded_gives_the_callers_numbers_back():
    """Inside the same numbers each time, outside as if nothing had been."""
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    inside = []
    for _ in range(2):
        with seeded(7, torch.device("cpu")):
            inside.append(torch.rand(3))
    assert torch.equal(inside[0], inside[1])
    assert torch.equal(torch.rand(2), expected)


peft = pytest.importorskip("peft")

IDS = torch.arange(5, 29).view(2, 12)


def logits_lora(model) -> torch.Tensor:
    """Score two rows, without dropout."""
    mode = model.training
    model.eval()
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    model.train(mode)
    return found


def trained(architecture: str = "bert", **settings) -> Lora:
    """A model with additions that have learnt something."""
    model = make_model(architecture, 60)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = add_lora(model, LoraSettings(**({"rank": 4} | settings)))
        learn(lora)
    return lora


def learn(lora: Lora, steps: int = 3) -> None:
    """Change whatever is trainable."""
    optimizer = torch.optim.AdamW(parameter_groups(lora.model, learning_rate=0.01, weight_decay=0.01))
    for _ in range(steps):
        optimizer.zero_grad()
        lora.model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.pow(2).sum().backward()
        optimizer.step()


def plain_state(model) -> dict[str, torch.Tensor]:
    """Copies of all weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_additions_begin_as_nothing(architecture):
    """The same logits to the last bit, in the very same object; additions and head are trainable, nothing else."""
    model = make_model(architecture, 60)
    before, linear = logits_lora(model), encoder_linears(model)
    lora = add_lora(model, LoraSettings())
    assert lora.model is model
    assert torch.equal(logits_lora(model), before)
    training = {name for name, weight in model.named_parameters() if weight.requires_grad}
    additions = {name for name in training if ".lora_A." in name or ".lora_B." in name}
    assert {name.partition(".lora_")[0] for name in additions} == set(linear)
    assert len(additions) == 2 * len(linear)
    head = {
        name for name, _ in make_model(architecture, 60).named_parameters() if name.startswith(head_of(architecture))
    }
    assert {name.replace(".modules_to_save.default", "") for name in training - additions} == head


def head_of(architecture: str) -> tuple[str, ...]:
    """Beginnings of the names of the head's weights."""
    return tuple(f"{module}." for module in head_modules(make_model(architecture, 60)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_logits_are_the_adapters(architecture, tmp_path):
    """To 1e-5; the model is the plain class again, and its folder loads in transformers with the same weights."""
    untouched = make_model(architecture, 60)
    attributes, names = set(vars(untouched)), sorted(untouched.state_dict())
    lora = trained(architecture)
    adapted = logits_lora(lora.model)
    assert (adapted - logits_lora(untouched)).abs().max() > 1e-3
    twin = lora.merged_copy()
    assert torch.equal(logits_lora(lora.model), adapted)
    lora.merge()
    for model in (lora.model, twin):
        assert type(model) is type(untouched)
        assert set(vars(model)) == attributes
        assert sorted(model.state_dict()) == names
        assert torch.allclose(logits_lora(model), adapted, atol=1e-5)
        assert {type(module) for module in model.modules()} == {type(module) for module in untouched.modules()}
        assert all(weight.requires_grad for weight in model.parameters())
    lora.model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    merged = plain_state(lora.model)
    assert all(torch.equal(value, merged[name]) for name, value in loaded.state_dict().items())
    assert torch.allclose(logits_lora(loaded), logits_lora(lora.model), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapter_folder_comes_back(architecture, tmp_path):
    """On the base model, with a new head: here and in peft, the same logits to the last bit."""
    lora = trained(architecture)
    lora.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    base = make_model(architecture, 60)
    with torch.no_grad():
        base.classifier.weight.zero_() if hasattr(base.classifier, "weight") else None
    loaded = load_lora(base, tmp_path)
    assert loaded.model is base
    assert torch.equal(logits_lora(base), logits_lora(lora.model))
    assert not any(weight.requires_grad for weight in base.parameters())
    loaded.merge()
    assert torch.allclose(logits_lora(base), logits_lora(lora.model), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_additions_to_a_causal_reranker(tied, tmp_path):
    """They alone are trained, no vocabulary and no copy of one is; they come back here, and on peft's causal model."""
    encoder = CrossEncoder(str(make_reranker(tmp_path / "m", tie_word_embeddings=tied)), device="cpu")
    model, tokens = encoder.model, encoder.tokens(["a cat", "how"], ["the mat", "to reset a password"])
    untouched = copy.deepcopy(model)

    def logits(made: nn.Module) -> torch.Tensor:
        return PaddedForward(made, encoder.tokenizer.model_input_names, encoder.padding)(tokens)

    before, linear = logits(model), encoder_linears(model)
    lora = add_lora(model, LoraSettings(rank=2))
    assert torch.equal(logits(model), before)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert {name.partition(".lora_")[0] for name in trained} == set(linear)
    assert not any("modules_to_save" in name for name, _ in model.named_parameters())
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(3):
        logits(model).square().sum().backward()
        optimizer.step()
    after = logits(model)
    assert (after - before).abs().max() > 1e-3
    lora.save(tmp_path / "adapter")
    other = copy.deepcopy(untouched)
    assert torch.equal(logits(load_lora(other, tmp_path / "adapter").model), after)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(untouched.body), str(tmp_path / "adapter"))
    assert torch.allclose(logits(ReadoutModel(theirs.base_model.model, model.readout)), after, rtol=0, atol=1e-5)
    lora.merge()
    assert torch.allclose(logits(model), after, rtol=0, atol=1e-5)
    names = {name for name, _ in untouched.named_parameters()}
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == names


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_additions_to_a_chain(architecture, tmp_path):
    """Its modules are trained in full, and the folder of both comes back on the model with other modules."""
    folder = str(make_chain(tmp_path / "m", architecture))
    encoder, other = (CrossEncoder(folder, device="cpu") for _ in range(2))
    lora = add_lora(encoder.model, LoraSettings(rank=2))
    full = {name for name, weight in encoder.model.named_parameters() if weight.requires_grad and "lora_" not in name}
    parts = {name.partition(".modules_to_save")[0] for name in full}
    norm = {"body.final_norm"} if architecture == "modernbert" else set()
    assert parts == {"readout.1", "readout.2", "readout.3"} | norm
    inputs = encoder.collate([["a cat", "the mat"], ["how", "to reset a password"]])
    optimizer = torch.optim.AdamW([w for w in encoder.model.parameters() if w.requires_grad], lr=1e-2)
    for _ in range(3):
        encoder.model(**inputs).logits.sum().backward()
        optimizer.step()
    wanted = encoder.model(**inputs).logits
    lora.save(tmp_path / "adapter")
    with torch.no_grad():
        other.model.readout[1].linear.weight.zero_()
    load_lora(other.model, tmp_path / "adapter")
    assert torch.equal(other.model(**inputs).logits, wanted)
    lora.merge()
    assert torch.allclose(encoder.model(**inputs).logits, wanted, rtol=0, atol=1e-5)
    encoder.save(str(tmp_path / "out"))
    again = CrossEncoder(str(tmp_path / "out"), device="cpu")
    assert torch.allclose(again.model(**inputs).logits, wanted, rtol=0, atol=1e-5)


def test_adapter_folder_loads_in_peft(tmp_path):
    """It is peft's own format."""
    lora = trained()
    lora.save(tmp_path)
    with pytest.warns(FutureWarning):  # peft still asks transformers by an old name
        loaded = peft.PeftModel.from_pretrained(make_model("bert", 60), str(tmp_path), torch_device="cpu")
    assert torch.equal(logits_lora(loaded), logits_lora(lora.model))


def test_trained_on_after_loading(tmp_path):
    """The same steps as without the break."""
    lora = trained()
    lora.save(tmp_path)
    loaded = load_lora(make_model("bert", 60), tmp_path, trainable=True)
    learn(lora)
    learn(loaded)
    assert torch.equal(logits_lora(loaded.model), logits_lora(lora.model))
    before = logits_lora(lora.model)
    lora.save(tmp_path)
    assert torch.equal(logits_lora(load_lora(make_model("bert", 60), tmp_path).model), before)


def test_the_encoder_stays():
    """Training changes none of its own weights."""
    before = plain_state(make_model("bert", 60))
    lora = trained()
    after = {name.replace(".base_layer", ""): value for name, value in lora.model.state_dict().items()}
    for name, value in before.items():
        if not name.startswith(("classifier", "bert.pooler")):
            assert torch.equal(after[name], value), name


def test_same_seed_same_additions():
    """They are drawn from torch's global generator."""
    made = []
    for _ in range(2):
        model = make_model("bert", 60)
        torch.manual_seed(7)
        add_lora(model, LoraSettings())
        made.append(plain_state(model))
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())


def test_report():
    """Counts of what is trained and of the model with its additions, without the head's second copy."""
    model = make_model("bert", 60)
    before = trained_share(model)
    assert before.trained == before.total == sum(weight.numel() for weight in model.parameters())
    linear = [model.get_submodule(name) for name in encoder_linears(model)]
    additions = 4 * sum(layer.in_features + layer.out_features for layer in linear)
    head = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith(head_of("bert")))
    add_lora(model, LoraSettings(rank=4))
    share = trained_share(model)
    assert (share.trained, share.total) == (additions + head, before.total + additions)
    assert str(share) == f"{share.trained:,} of {share.total:,} weights are trained ({share.trained / share.total:.1%})"


def test_targets_by_name():
    """A name fits layers that have it or end in it, at a dot, and never the head's."""
    model = make_model("bert", 60)
    assert lora_targets(model) == encoder_linears(model)
    assert len(lora_targets(model, ("query", "value"))) == 4
    assert lora_targets(model, ("attention.output.dense",)) == (
        "bert.encoder.layer.0.attention.output.dense",
        "bert.encoder.layer.1.attention.output.dense",
    )
    assert "bert.pooler.dense" not in lora_targets(model, ("dense",))
    lora = trained(targets=("query",))
    with_additions = {name for name, _ in lora.model.named_parameters() if ".lora_A." in name}
    assert with_additions == {f"bert.encoder.layer.{i}.attention.self.query.lora_A.default.weight" for i in (0, 1)}


def test_many_layers(tmp_path):
    """peft shortens long lists of names; what comes back is the same set."""
    model = make_model("roberta", 60, num_hidden_layers=6)
    lora = add_lora(model, LoraSettings(rank=2))
    learn(lora)
    lora.save(tmp_path)
    loaded = load_lora(make_model("roberta", 60, num_hidden_layers=6), tmp_path)
    assert torch.equal(logits_lora(loaded.model), logits_lora(model))
    assert sum(".lora_A." in name for name, _ in loaded.model.named_parameters()) == 36


def test_weights_that_were_frozen_are_frozen_after_merging():
    """And the mode of the model stays."""
    for mode in (True, False):
        model = make_model("bert", 60).train(mode)
        model.bert.embeddings.requires_grad_(False)
        lora = add_lora(model, LoraSettings(dropout=0.5))
        assert {module.training for module in model.modules()} == {mode}
        lora.merge()
        assert {module.training for module in model.modules()} == {mode}
        frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        assert frozen == {name for name, _ in model.named_parameters() if name.startswith("bert.embeddings.")}


def test_again_after_merging():
    """A second round on the merged model."""
    lora = trained()
    lora.merge()
    before = logits_lora(lora.model)
    again = add_lora(lora.model, LoraSettings())
    assert torch.equal(logits_lora(lora.model), before)
    again.merge()
    assert torch.allclose(logits_lora(lora.model), before, atol=1e-6)


def test_merged_is_merged():
    """There is nothing left to save or merge."""
    lora = trained()
    lora.merge()
    for call in (lora.merge, lora.merged_copy, lambda: lora.save("x")):
        with pytest.raises(SecondPassError, match="merged already"):
            call()


def test_additions_that_are_not_finite_are_not_merged():
    """The encoder would be spoilt for good."""
    lora = trained()
    name, weight = next((n, w) for n, w in lora.model.named_parameters() if ".lora_B." in n)
    weight.data[0, 0] = float("nan")
    before = plain_state(lora.model)
    with pytest.raises(TrainingError, match=f"{name} is not finite"):
        lora.merge()
    assert all(torch.equal(value, before[key]) or key == name for key, value in lora.model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "lora.rank=0"),
        ({"rank": 2.0}, "lora.rank=2.0"),
        ({"alpha": 0}, "lora.alpha=0"),
        ({"alpha": float("nan")}, "lora.alpha=nan"),
        ({"alpha": "16"}, "lora.alpha='16'"),
        ({"dropout": 1.0}, "lora.dropout=1.0"),
        ({"dropout": -0.1}, "lora.dropout=-0.1"),
        ({"dropout": True}, "lora.dropout=True"),
        ({"targets": "query"}, "lora.targets='query' is a str"),
        ({"targets": ("query", "nope")}, "lora.targets has 'nope': .* named dense, key, query, value$"),
        ({"targets": ("uery",)}, "lora.targets has 'uery'"),
        ({"targets": ("",)}, "lora.targets has ''"),
        ({"targets": ("classifier",)}, "lora.targets has 'classifier'"),
        ({"targets": (3,)}, "lora.targets has 3"),
    ],
)
def test_refused_settings(settings, words):
    """By name, and the model is as it was."""
    model = make_model("bert", 60)
    before = plain_state(model)
    with pytest.raises(InvalidInput, match=words):
        add_lora(model, LoraSettings(**settings))
    assert sorted(model.state_dict()) == sorted(before)
    assert all(weight.requires_grad for weight in model.parameters())


def test_one_adapter_at_a_time(tmp_path):
    """Two would be merged into each other."""
    lora = trained()
    lora.save(tmp_path)
    for call in (lambda: add_lora(lora.model, LoraSettings()), lambda: load_lora(lora.model, tmp_path)):
        with pytest.raises(InvalidInput, match="has an adapter already"):
            call()


def spoil(folder, how: str) -> None:
    """Make an adapter folder unreadable."""
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if how == "no weights":
        weights.rename(folder / "adapter_model.bin")
    elif how == "no config":
        config.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "other kind":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    elif how == "no object":
        config.write_text("[]")
    elif how == "other rank":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 2}))
    elif how == "fewer targets":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["query"]}))
    elif how == "no such target":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["nope"]}))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no weights", r"holds no adapter_model\.safetensors"),
        ("no config", r"holds no adapter_config\.json"),
        ("cut", "is broken"),
        ("other kind", "an adapter of type IA3, not LORA"),
        ("no object", r"adapter_config\.json"),
        ("other rank", "does not fit the model: .* has shape"),
        ("fewer targets", "does not fit the model: the model has no place for"),
        ("no such target", "does not fit the model"),
    ],
)
def test_broken_adapter_folders(tmp_path, how, words):
    """One line that says what is wrong; the model is as it was."""
    trained().save(tmp_path)
    spoil(tmp_path, how)
    model = make_model("bert", 60)
    attributes, before = set(vars(model)), plain_state(model)
    with pytest.raises(ModelLoadError, match=words):
        load_lora(model, tmp_path)
    assert set(vars(model)) == attributes
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())
    add_lora(model, LoraSettings()).merge()


def test_adapter_of_another_model(tmp_path):
    """Named by the first weight that does not fit."""
    trained("roberta").save(tmp_path)
    with pytest.raises(ModelLoadError, match="does not fit the model"):
        load_lora(make_model("bert", 60), tmp_path)
    with pytest.raises(ModelLoadError, match="holds no adapter_config"):
        load_lora(make_model("bert", 60), tmp_path / "nowhere")


def test_folder_that_cannot_be_written(tmp_path):
    """A file in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"the adapter cannot be saved to {tmp_path}/file"):
        trained().save(tmp_path / "file")


def test_without_peft(monkeypatch):
    """It says what to install, and the model is as it was."""
    monkeypatch.setitem(sys.modules, "peft", None)
    model = make_model("bert", 60)
    with pytest.raises(MissingExtra, match=r'peft is not installed: pip install "secondpass\[train\]"'):
        add_lora(model, LoraSettings())
    assert not any("lora" in name for name in model.state_dict())
