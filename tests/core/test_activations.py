"""activations: which function is used, which name is stored, and that names never import code."""

from __future__ import annotations

import inspect
import logging
import math
import os
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from secondpass.activations import (
    COMPUTE,
    FUNCTIONS,
    IDENTITY,
    LEVELLING,
    OTHERS,
    SIGMOID,
    Elementwise,
    as_torch,
    default_activation,
    known,
    known_steps,
    scaled,
    stored_name,
    tempered_sigmoid,
    torch_name,
)
from secondpass.errors import InvalidInput, ModelLoadError

SIGMOID_NAME = "torch.nn.modules.activation.Sigmoid"
IDENTITY_NAME = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize("own", [SIGMOID, nn.Sigmoid(), Elementwise("Hardsigmoid"), tempered_sigmoid()(5.0)])
def test_scores_from_0_to_1_are_a_models_own_where_it_gives_such(own: Any) -> None:
    """Of one label; of several it is the ranked label's probability, or the expected grade's share of the highest."""
    logits = torch.linspace(-40, 40, 9)
    assert scaled(own) is own
    assert 0 <= float(as_torch(own)(logits).min()) <= float(as_torch(own)(logits).max()) <= 1
    assert scaled(own, 2) == SIGMOID
    assert scaled(own, 3, 1) == SIGMOID
    assert scaled(own, 1, "expected") is own
    assert scaled(own, 3, "expected")(np.array([0.0, 0.5, 2.0])).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("own", [IDENTITY, nn.Identity(), nn.Tanh(), nn.ReLU6(), torch.relu, lambda logits: logits])
def test_other_scores_are_scaled_by_the_sigmoid(own: Any) -> None:
    """Whatever they are, and also where nothing is known of a callable."""
    assert scaled(own) == scaled(own, 3) == SIGMOID


class Doubled(nn.Module):
    """A custom activation that can be imported by name."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Double."""
        return logits * 2


class Scaled(nn.Module):
    """A custom activation that needs an argument."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


class Callable:
    """A custom activation that is no module."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Halve."""
        return logits / 2


def test_the_argument_wins() -> None:
    """The caller's function is used as it is, whatever is stored."""
    mine = nn.Tanh()
    assert default_activation(mine, SIGMOID_NAME, 1) is mine
    assert default_activation(torch.tanh, None, 3) is torch.tanh


@pytest.mark.parametrize(("labels", "made"), [(1, SIGMOID), (2, IDENTITY), (5, IDENTITY)])
def test_without_argument_and_name_the_labels_decide(labels: int, made: Elementwise) -> None:
    """One label gets Sigmoid, several get Identity."""
    assert default_activation(None, None, labels) == made


@pytest.mark.parametrize(
    ("name", "made"),
    [
        (SIGMOID_NAME, nn.Sigmoid),
        (IDENTITY_NAME, nn.Identity),
        ("torch.nn.Identity", nn.Identity),
        ("torch.nn.modules.Tanh", nn.Tanh),
        ("torch.nn.modules.activation.GELU", nn.GELU),
        ("torch.nn.Softshrink", nn.Softshrink),
    ],
)
def test_a_stored_torch_activation_is_made(name: str, made: type[nn.Module]) -> None:
    """Every dotted name of an activation class of torch.nn is understood, and wins over the label rule."""
    assert type(as_torch(default_activation(None, name, 1))) is made


@pytest.mark.parametrize(
    "name",
    [
        "subprocess.Popen",
        "os.getcwd",
        "torch.hub.load",
        "torch.nn.modules.activation.torch.hub.load",
        "torch.nn.Linear",
        "torch.nn.LSTM",
        "torch.nn.Sequential",
        "torch.nn.modules.loss.BCELoss",
        "torch.nn.modules.activation.os.getcwd",
        "builtin_function_or_method",
        "Sigmoid",
        "torch.nn.modules.activation.",
        "no.such.Thing",
    ],
)
def test_any_other_name_falls_back(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A name that is no activation of torch.nn is not imported: the label rule applies and a warning names it."""
    assert default_activation(None, name, 1) == SIGMOID
    assert default_activation(None, name, 2) == IDENTITY
    assert repr(name) in caplog.text


def test_trust_imports_any_path() -> None:
    """With trust_remote_code a dotted path is imported and made without arguments, as sentence-transformers 4 does."""
    made = default_activation(None, "collections.OrderedDict", 1, trust_remote_code=True)
    assert type(made).__name__ == "OrderedDict"


@pytest.mark.parametrize("name", ["no.such.Thing", "Bare", "os.no_such_function", "os.remove"])
def test_a_trusted_path_that_fails_is_a_load_error(name: str) -> None:
    """A trusted path that cannot be imported or called raises ModelLoadError with the name."""
    with pytest.raises(ModelLoadError, match=name):
        default_activation(None, name, 1, trust_remote_code=True)


def test_stored_random_activations_are_fixed() -> None:
    """RReLU draws random slopes in training mode; from a name it comes in evaluation mode, so scores repeat."""
    activation = default_activation(None, "torch.nn.RReLU", 1)
    logits = torch.full((100,), -1.0)
    assert torch.equal(activation(logits), activation(logits))


def test_a_class_instead_of_an_instance_is_refused() -> None:
    """nn.Sigmoid instead of nn.Sigmoid() would build a module from the logits; the message says what to write."""
    with pytest.raises(InvalidInput, match=r"give an instance: Sigmoid\(\)"):
        default_activation(nn.Sigmoid, None, 1)  # type: ignore[arg-type]


def test_what_cannot_be_called_is_refused() -> None:
    """A name as argument is refused with its type."""
    with pytest.raises(InvalidInput, match="default_activation_function is str"):
        default_activation("sigmoid", None, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (SIGMOID, SIGMOID_NAME),
        (nn.Sigmoid(), SIGMOID_NAME),
        (nn.Identity(), IDENTITY_NAME),
        (nn.GELU(), "torch.nn.modules.activation.GELU"),
        (nn.PReLU(), "torch.nn.modules.activation.PReLU"),
        (torch.sigmoid, SIGMOID_NAME),
        (functional.sigmoid, SIGMOID_NAME),
        (torch.tanh, "torch.nn.modules.activation.Tanh"),
        (functional.relu, "torch.nn.modules.activation.ReLU"),
        (functional.gelu, "torch.nn.modules.activation.GELU"),
    ],
)
def test_the_stored_name_brings_the_same_function_back(activation: object, name: str) -> None:
    """Modules store their class, well-known functions the class of the same function; loading gives equal values."""
    assert stored_name(activation) == name  # type: ignore[arg-type]
    logits = torch.linspace(-3, 3, 13)
    again = default_activation(None, name, 7)
    assert torch.allclose(again(logits), activation(logits))  # type: ignore[operator]


@pytest.mark.parametrize(
    "activation",
    [
        lambda logits: logits,
        torch.exp,
        os.getcwd,
        partial(torch.softmax, dim=1),
        nn.Softmax(dim=1),
        nn.LeakyReLU(0.2),
        nn.GELU("tanh"),
        Elementwise("GELU", (("approximate", "tanh"),)),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Sigmoid()),
        nn.PReLU(init=0.5),
        Scaled(2.0),
    ],
    ids=lambda activation: str(activation)[:20],
)
def test_what_a_name_cannot_bring_back_is_not_stored(activation: object, caplog: pytest.LogCaptureFixture) -> None:
    """Functions, and modules whose settings are not the defaults, give None and a warning that says what to do."""
    assert stored_name(activation) is None  # type: ignore[arg-type]
    assert "give it again when the model is loaded" in caplog.text


def test_a_local_class_is_not_stored() -> None:
    """A class defined inside a function has no name that can be imported."""

    class Local(nn.Module):
        pass

    assert stored_name(Local()) is None


def table() -> torch.Tensor:
    """float64 values that float32 has: dense ones, all sizes, denormals, both infinities."""
    draw = np.random.default_rng(0)
    sizes = draw.normal(0, 1, 20_000) * 10.0 ** draw.uniform(-45, 38, 20_000)
    ends = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
    values = np.concatenate([np.linspace(-120, 120, 20_001), draw.normal(0, 6, 20_000), sizes, ends])
    return torch.from_numpy(values.astype(np.float32).astype(np.float64))


TABLE = table()
SET = (
    nn.ELU(0.7),
    nn.CELU(0.7),
    nn.Hardtanh(-2, 3),
    nn.LeakyReLU(-0.2),
    nn.Softplus(2.5, 7),
)


@pytest.mark.parametrize("module", [*(as_torch(Elementwise(name)) for name in COMPUTE), *SET], ids=repr)
def test_scores_are_those_of_torch(module: nn.Module) -> None:
    """Its own arithmetic in float64, rounded to float32: the same numbers, of extremes too."""
    own = known(module)
    assert own is not None
    assert type(as_torch(own)) is type(module)
    assert repr(as_torch(own)) == repr(own) == repr(module)
    with np.errstate(over="ignore"):
        made, expected = own(TABLE.numpy()).astype(np.float32), module(TABLE).float().numpy()
    different = ~((made == expected) | (np.isnan(made) & np.isnan(expected)))
    # expm1 and tanh of both libraries may differ in the last bit, on some processors; a factor may bring that next to a
    # tie, and of a small x nothing else may be left of x - tanh(x)
    left = np.nan_to_num(np.spacing(np.abs(TABLE.numpy()))) if isinstance(module, nn.Tanhshrink) else 0.0
    tolerated = {nn.ELU: 1, nn.Tanhshrink: 9}.get(type(module), 0)
    assert different.sum() <= tolerated, TABLE.numpy()[different]
    assert np.isclose(made, expected, rtol=2e-7, atol=left, equal_nan=True).all()


def test_the_other_gelu_is_torchs_but_where_it_is_nothing() -> None:
    """What is left of 1 - 1 below -7 goes by the last bit of a tanh."""
    own = known(nn.GELU("tanh"))
    assert own == Elementwise("GELU", (("approximate", "tanh"),))
    with np.errstate(over="ignore"):
        made, expected = own(TABLE.numpy()).astype(np.float32), functional.gelu(TABLE, approximate="tanh").float()
    assert np.allclose(made, expected, rtol=2e-7, atol=1e-15, equal_nan=True)


def test_every_well_known_function_is_its_class() -> None:
    """Each function of the table computes what the class it is stored as computes; no other is taken for one."""
    for home, names in FUNCTIONS.items():
        for name, made in names.items():
            function = getattr(torch if home == "torch" else functional, name)
            assert known(function) == Elementwise(made)
            assert torch.allclose(function(TABLE), getattr(nn, made)()(TABLE), equal_nan=True), made
    for other in (torch.exp, np.tanh, math.tanh, nn.PReLU(), nn.Softmax(1), Doubled(), nn.GELU("no such"), len):
        assert known(other) is None  # type: ignore[arg-type]


def test_a_module_that_does_something_else_is_not_taken_for_its_class() -> None:
    """Hooks, a forward of its own, a class below."""
    hooked, replaced = nn.Sigmoid(), nn.Tanh()
    hooked.register_forward_hook(lambda module, given, made: made + 1)
    replaced.forward = torch.neg  # type: ignore[method-assign]
    below = type("Sigmoid", (nn.Sigmoid,), {})()
    for module in (hooked, replaced, below, nn.Sequential(nn.Tanh(), hooked), nn.ELU(torch.tensor(0.5))):
        assert known(module) is None
        assert known_steps(module) is None
    assert known_steps(nn.Sequential(nn.Tanh(), nn.Sequential(SIGMOID_MODULE))) == (Elementwise("Tanh"), SIGMOID)
    assert known_steps(nn.Sequential()) == ()


SIGMOID_MODULE = nn.Sigmoid()


def test_the_names_are_those_that_torch_has() -> None:
    """Every activation class of torch.nn that is made without arguments and called with one tensor, and no other."""

    def required(function: Any) -> int:
        parameters = inspect.signature(function).parameters.values()
        return sum(
            parameter.default is parameter.empty and parameter.kind <= parameter.POSITIONAL_OR_KEYWORD
            for parameter in parameters
        )

    found = {
        made.__name__: f"{made.__module__}.{made.__name__}"
        for made in vars(nn).values()
        if isinstance(made, type)
        and (made.__module__ == "torch.nn.modules.activation" or made is nn.Identity)
        and (required(made.__init__), required(made.forward)) == (1, 2)  # type: ignore[attr-defined]
    }
    assert found == {name: torch_name(name) for name in (*COMPUTE, *OTHERS)}


@pytest.mark.parametrize("made", [Doubled, Callable])
def test_a_custom_class_is_stored_and_trusted_only_in_python(made: type, caplog: pytest.LogCaptureFixture) -> None:
    """A class of the user's is stored by name with a warning, and comes back only with trust_remote_code."""
    name = stored_name(made())
    assert name == f"{__name__}.{made.__name__}"
    assert "trust_remote_code" in caplog.text
    assert type(default_activation(None, name, 1, trust_remote_code=True)) is made
    assert default_activation(None, name, 1) == SIGMOID


def test_no_code_runs_for_a_refused_name(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The refusal comes before any import: a module that is not loaded yet stays unloaded."""
    import sys

    monkeypatch.delitem(sys.modules, "this", raising=False)
    default_activation(None, "this.s", 1)
    assert "this" not in sys.modules
    assert any(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("name", sorted(LEVELLING))
def test_a_stored_activation_that_makes_all_scores_equal_is_not_used(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over one label a softmax is 1 for every pair: the default takes its place, with a warning; over several it is."""
    stored = f"torch.nn.modules.activation.{name}"
    assert default_activation(None, stored, 1) == SIGMOID
    assert "does not tell pairs apart" in caplog.text
    assert type(default_activation(None, stored, 3)) is getattr(nn, name)
