"""Rules of `secondpass.forwards.description`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from secondpass.forwards.description import (
    NotDescribed,
    hidden_activation,
    is_plain,
    joined,
    linear,
    mapped,
    norm,
    table,
)
from secondpass.forwards.families import describe
from secondpass.forwards.module import Watch
from tests.forwards.models import inputs_of, model_of, reference


def test_mapped_changes_every_tensor_and_nothing_else() -> None:
    """Nested parts, tuples and None included; the original is left alone."""
    encoder = describe(model_of("bert"))
    assert encoder is not None
    half = mapped(encoder, torch.Tensor.half)
    assert (
        half.layers[1].qkv.weight.dtype
        == half.embeddings.words.dtype
        == half.readout.steps[1].linear.weight.dtype
        == torch.float16
    )
    assert half.embeddings.projection is None
    assert (half.heads, half.activation, half.hidden) == (encoder.heads, encoder.activation, encoder.hidden)
    assert half.layers[0].output_norm.eps == encoder.layers[0].output_norm.eps
    assert encoder.layers[0].qkv.weight.dtype == torch.float32


def test_joined_layers_give_their_outputs_side_by_side() -> None:
    """One product instead of three."""
    parts = [nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(5, 2)]
    made = joined(*parts)
    x = torch.randn(4, 5)
    expected = torch.cat([part(x) for part in parts], dim=1)
    assert torch.allclose(x @ made.weight.T + made.bias, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("describe", "module"),
    [
        (linear, nn.Linear(2, 2, bias=False)),
        (linear, nn.Identity()),
        (norm, nn.LayerNorm(2, bias=False)),
        (norm, nn.RMSNorm(2)),
        (table, nn.Embedding(2, 2, max_norm=1.0)),
        (hidden_activation, nn.Mish()),
    ],
)
def test_other_modules_are_refused(describe: object, module: nn.Module) -> None:
    """Exact classes only."""
    with pytest.raises(NotDescribed):
        describe(module)  # type: ignore[operator]


def test_all_layers_have_one_activation() -> None:
    """None, or two, are not."""
    assert hidden_activation(nn.ReLU(), nn.ReLU()) == "relu"
    for wrong in ((), (nn.ReLU(), nn.SiLU())):
        with pytest.raises(NotDescribed):
            hidden_activation(*wrong)


def _stepped(model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(weight.square().sum() for weight in model.parameters()).backward()
    optimizer.step()


def _copied(model: Any) -> None:
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight.mul_(2)


def _in_inference(model: Any) -> None:
    with torch.inference_mode():
        model.classifier.weight.add_(1)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an optimiser's step": _stepped,
    "other weights": lambda model: model.load_state_dict(model_of("bert", seed=1).state_dict()),
    "a change in place": _copied,
    "a change in inference mode": _in_inference,
    "another type": lambda model: model.half(),
    "another parameter": lambda model: setattr(model.classifier, "weight", nn.Parameter(torch.zeros(1, 32))),
    "other data": lambda model: setattr(model.classifier.weight, "data", torch.zeros(1, 32)),
    "another module": lambda model: setattr(model, "classifier", nn.Linear(32, 1)),
    "a module more": lambda model: model.bert.add_module("more", nn.Identity()),
    "a hook": lambda model: model.bert.register_forward_hook(lambda *given: None),
    "a forward": lambda model: setattr(model.bert, "forward", lambda **given: None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(change: str) -> None:
    """What was computed before may be wrong now."""
    model = model_of("bert")
    watch = Watch(model)
    assert watch.unchanged()
    CHANGES[change](model)
    assert not watch.unchanged()
    assert Watch(model).unchanged()


def test_scoring_and_training_mode_are_no_changes() -> None:
    """Nor are gradients: the weights are the same."""
    model = model_of("bert")
    watch = Watch(model)
    reference(model, inputs_of([3], model))
    model.train()
    model.zero_grad()
    model.requires_grad_(False)
    assert watch.unchanged()


def test_a_hook_that_is_gone_leaves_no_trace() -> None:
    """The packed forward comes back."""
    model = model_of("bert")
    watch = Watch(model)
    handle = model.register_forward_hook(lambda *given: None)
    assert not is_plain(model)
    handle.remove()
    assert is_plain(model)
    assert watch.unchanged()


def test_dropout_may_be_anybodys() -> None:
    """It does nothing while scoring, and training puts its own in."""
    model = model_of("bert")
    model.dropout.forward = lambda x: x
    assert is_plain(model)


@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_step_of_any_optimizer_is_seen(settings: dict[str, bool]) -> None:
    """Fused ones change weights without torch's count going up."""
    model = model_of("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, **settings)
    watch = Watch(model)
    assert watch.unchanged()
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert not watch.unchanged()


def test_a_change_of_one_weight_through_data_is_seen() -> None:
    """As moving averages and quantisers make them; NaN that was there before is no change."""
    model = model_of("bert")
    model.classifier.bias.data.fill_(float("nan"))
    for name, weight in model.named_parameters():
        watch = Watch(model)
        assert watch.unchanged()
        weight.data.mul_(1.001).add_(1e-3)
        assert not watch.unchanged() or name == "classifier.bias"
