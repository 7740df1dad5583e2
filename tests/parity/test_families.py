"""Every architecture of the registry, through every door it has, gives the logits of transformers' own forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
)

from secondpass.forwards.contract import Padding
from secondpass.forwards.families import ENCODERS, architecture_of, decoder, describe, families, family_of, trainable
from secondpass.forwards.kernel import KernelEncoder, native
from secondpass.forwards.kernel.weights import packed, unsupported
from secondpass.forwards.learning.attention import DropoutSource
from secondpass.forwards.learning.packed import PackedForward, PaddedForward, training_forward
from secondpass.forwards.plain import PlainEncoder
from secondpass.forwards.readout import (
    Dense,
    Dropout,
    LayerNorm,
    ModuleChain,
    Normalize,
    Pooling,
    ReadoutModel,
)
from secondpass.training.weights.layers import layers_of
from tests.forwards.kernel.encoders import arrays
from tests.forwards.models import DECODERS, LENGTHS, decoder_of, inputs_of, model_of, reference, tensors


def _camembert() -> Any:
    """The same layers as RoBERTa's, under another class and config."""
    given = model_of("roberta", 3)
    settings = given.config.to_dict() | {"model_type": "camembert", "architectures": None}
    model = CamembertForSequenceClassification(CamembertConfig(**settings))
    model.load_state_dict(given.state_dict())
    return model.eval()


def chain_of(family: str, pooling: str = "cls") -> ReadoutModel:
    """An encoder under pooling, a linear layer with an activation, a normalisation and a classifier."""
    body = model_of(family).base_model
    chain = [
        Pooling(32, [pooling]),
        Dense((32, 48), family != "modernbert", nn.GELU()),
        LayerNorm(48),
        Dropout(),
        Normalize(),
        Dense((48, 3), True, nn.Identity(), writes="scores"),
    ]
    return ReadoutModel(body, ModuleChain(chain)).eval()


def decoders() -> dict[str, Callable[[], Any]]:
    """Every decoder as a sequence classifier, below a chain and as a language model."""
    made: dict[str, Callable[[], Any]] = {}
    for family in DECODERS:
        classifier = decoder_of(family, 3)
        name = type(classifier).__name__.removesuffix("ForSequenceClassification")
        made[f"{name}ForSequenceClassification"] = partial(decoder_of, family, 3)
        made[f"{name}Model"] = partial(_below_a_chain, family)
        made[f"{name.removesuffix('Text')}ForCausalLM"] = partial(decoder_of, family)
    return made


def _below_a_chain(family: str) -> ReadoutModel:
    return ReadoutModel(decoder_of(family, 3).base_model, chain_of("bert", "lasttoken").readout).eval()


MODELS: dict[str, Callable[[], Any]] = decoders() | {
    "BertForSequenceClassification": lambda: model_of("bert", 3),
    "RobertaForSequenceClassification": lambda: model_of("roberta", 3),
    "XLMRobertaForSequenceClassification": lambda: model_of("xlm-roberta", 3),
    "CamembertForSequenceClassification": _camembert,
    "ElectraForSequenceClassification": lambda: model_of("electra", 3),
    "DistilBertForSequenceClassification": lambda: model_of("distilbert", 3),
    "DebertaV2ForSequenceClassification": lambda: model_of("deberta-v2", 3),
    "ModernBertForSequenceClassification": lambda: model_of("modernbert", 3),
    "BertModel": lambda: chain_of("bert"),
    "RobertaModel": lambda: chain_of("roberta", "mean"),
    "XLMRobertaModel": lambda: chain_of("xlm-roberta", "max"),
    "CamembertModel": lambda: ReadoutModel(_camembert().base_model, chain_of("roberta").readout).eval(),
    "ElectraModel": lambda: chain_of("electra", "lasttoken"),
    "DistilBertModel": lambda: chain_of("distilbert", "mean"),
    "DebertaV2Model": lambda: chain_of("deberta-v2"),
    "ModernBertModel": lambda: chain_of("modernbert"),
}
ARCHITECTURES = [name for family in families() for name in family.architectures]
NAMES = ("input_ids", "token_type_ids", "attention_mask")


def tiny(name: str) -> Any:
    """A tiny random model of an architecture with three labels; an architecture without one fails its tests."""
    assert name in MODELS, f"{name} is in the registry: give it a tiny model here"
    model = MODELS[name]()
    assert architecture_of(model) == name
    return model


def test_no_architecture_is_in_two_families() -> None:
    """And none is tested that is not there."""
    assert len(set(ARCHITECTURES)) == len(ARCHITECTURES)
    assert set(ARCHITECTURES) == set(MODELS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torch_gives_the_logits_of_transformers(name: str) -> None:
    """Without padding, and in float32 to 1e-5."""
    model = tiny(name)
    family, weights = family_of(model), describe(model)
    assert family is not None
    assert weights is not None
    assert (weights.hidden, weights.device) == (32, torch.device("cpu"))
    inputs = inputs_of(LENGTHS, model)
    made = tensors(family.in_torch(weights, None))(inputs)
    assert torch.allclose(made, reference(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for one in ENCODERS for name, own in one.architectures.items() if own.model_type is not None]
)
def test_numpy_gives_the_logits_of_transformers(name: str) -> None:
    """To 1e-5, and bit for bit those that each input has alone."""
    model = tiny(name)
    family, weights = family_of(model), describe(model)
    encoder = None if family is None or weights is None else family.for_kernel(weights)
    assert encoder is not None
    forward, inputs = PlainEncoder(encoder), inputs_of(LENGTHS, model)
    made = forward(inputs)
    assert made.dtype == np.float32
    assert np.allclose(made, reference(model, inputs), rtol=0, atol=1e-5)
    assert all(np.array_equal(forward([item])[0], row) for item, row in zip(inputs, made, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_kernel_gives_them_or_says_why_not(name: str) -> None:
    """Which architectures it computes is told in words wherever they end."""
    model = tiny(name)
    family, weights = family_of(model), describe(model)
    assert family is not None
    assert weights is not None
    encoder = family.for_kernel(weights)
    missing = "no form of it" if encoder is None else unsupported(encoder)
    by_torch = {"DebertaV2ForSequenceClassification", "DebertaV2Model", *decoder.FAMILY.architectures}
    assert (missing is None) == (name not in by_torch)
    if encoder is None or missing is not None:
        return
    routine = native.find("fp32")
    if isinstance(routine, str):
        pytest.skip(routine)
    inputs = inputs_of(LENGTHS, model)
    made = tensors(KernelEncoder(packed(arrays(encoder), routine)))(inputs)
    assert torch.allclose(made, reference(model, inputs), rtol=0, atol=1e-5)


def _gradients(model: nn.Module, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits.square().sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


# those that are trained in padded rectangles are their own reference
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in decoder.FAMILY.architectures])
def test_training_has_the_logits_and_gradients_of_transformers(name: str) -> None:
    """Packed where the family says how, padded elsewhere."""
    model = tiny(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    padding = Padding(model.config.pad_token_id)
    inputs = inputs_of((1, 5, 30, 17, 17, 90), model)
    names = NAMES if getattr(model.config, "type_vocab_size", 0) > 0 else ("input_ids", "attention_mask")
    forward = training_forward(model, names, padding, DropoutSource(0))
    assert isinstance(forward, PaddedForward if trainable(model) is None else PackedForward)
    theirs = PaddedForward(model, names, padding)
    made, wanted = forward(inputs), theirs(inputs)
    assert torch.allclose(made, wanted, rtol=0, atol=1e-5)
    # the padded forward is one of ours too
    assert torch.allclose(made, reference(model, inputs), rtol=0, atol=1e-5)
    ours, expected = _gradients(model, made), _gradients(model, wanted)
    assert ours.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for weight, grad in expected.items():
        assert torch.allclose(ours[weight], grad, rtol=1e-3, atol=1e-6 * largest), weight


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_has_its_number(name: str) -> None:
    """Words lie below the first layer, the classifier above the last."""
    model = tiny(name)
    found = layers_of(model)
    assert found.count == 2
    assert set(found.numbers.values()) == {0, 1, 2, 3}
    words = next(name for name, weight in model.named_parameters() if weight.shape[0] == model.config.vocab_size)
    assert found.numbers[words] == 0
    heads = ("classifier.weight", "classifier.out_proj.weight", "readout.5.linear.weight", "score.weight")
    heads = (*heads, "body.model.norm.weight")  # of language models
    assert [found.numbers[head] for head in heads if head in found.numbers] == [3]


@pytest.mark.parametrize("family", families(), ids=lambda family: next(iter(family.architectures)))
def test_weights_that_work_below_the_layers_are_there(family: Any) -> None:
    """Names that a model type tells are weights of its encoder, and are counted as told."""
    for model_type, told in family.below.items():
        config = AutoConfig.for_model(
            model_type, vocab_size=80, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            relative_attention=True, pos_att_type=["c2p"], position_buckets=16, norm_rel_ebd="layer_norm",
            conv_kernel_size=3,
        )  # fmt: skip
        model = AutoModelForSequenceClassification.from_config(config)
        numbers = layers_of(model).numbers
        for part, number in told.items():
            found = {numbers[name] for name in numbers if f".{part}." in name and ".layer." not in name}
            assert found == {number}, (model_type, part)
