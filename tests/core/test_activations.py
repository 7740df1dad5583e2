"""activations: which function is used, which name is stored, and that names never import code."""

from __future__ import annotations

import logging
import os
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from secondpass.activations import default_activation, stored_name
from secondpass.errors import InvalidInput, ModelLoadError

SIGMOID = "torch.nn.modules.activation.Sigmoid"
IDENTITY = "torch.nn.modules.linear.Identity"


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
    assert default_activation(mine, SIGMOID, 1) is mine
    assert default_activation(torch.tanh, None, 3) is torch.tanh


@pytest.mark.parametrize(("labels", "made"), [(1, nn.Sigmoid), (2, nn.Identity), (5, nn.Identity)])
def test_without_argument_and_name_the_labels_decide(labels: int, made: type[nn.Module]) -> None:
    """One label gets Sigmoid, several get Identity."""
    assert type(default_activation(None, None, labels)) is made


@pytest.mark.parametrize(
    ("name", "made"),
    [
        (SIGMOID, nn.Sigmoid),
        (IDENTITY, nn.Identity),
        ("torch.nn.Identity", nn.Identity),
        ("torch.nn.modules.Tanh", nn.Tanh),
        ("torch.nn.modules.activation.GELU", nn.GELU),
    ],
)
def test_a_stored_torch_activation_is_made(name: str, made: type[nn.Module]) -> None:
    """Every dotted name of an activation class of torch.nn is understood, and wins over the label rule."""
    assert type(default_activation(None, name, 1)) is made


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
    assert type(default_activation(None, name, 1)) is nn.Sigmoid
    assert type(default_activation(None, name, 2)) is nn.Identity
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
        (nn.Sigmoid(), SIGMOID),
        (nn.Identity(), IDENTITY),
        (nn.GELU(), "torch.nn.modules.activation.GELU"),
        (nn.PReLU(), "torch.nn.modules.activation.PReLU"),
        (torch.sigmoid, SIGMOID),
        (functional.sigmoid, SIGMOID),
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


def test_every_well_known_function_is_its_class() -> None:
    """Each function in the table computes what the class it is stored as computes."""
    from secondpass.activations import MODULE_OF_FUNCTION

    logits = torch.linspace(-4, 4, 17)
    for function, made in MODULE_OF_FUNCTION.items():
        assert torch.allclose(function(logits), made()(logits), atol=1e-6), made  # type: ignore[operator]


@pytest.mark.parametrize("made", [Doubled, Callable])
def test_a_custom_class_is_stored_and_trusted_only_in_python(made: type, caplog: pytest.LogCaptureFixture) -> None:
    """A class of the user's is stored by name with a warning, and comes back only with trust_remote_code."""
    name = stored_name(made())
    assert name == f"{__name__}.{made.__name__}"
    assert "trust_remote_code" in caplog.text
    assert type(default_activation(None, name, 1, trust_remote_code=True)) is made
    assert type(default_activation(None, name, 1)) is nn.Sigmoid


def test_no_code_runs_for_a_refused_name(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The refusal comes before any import: a module that is not loaded yet stays unloaded."""
    import sys

    monkeypatch.delitem(sys.modules, "this", raising=False)
    default_activation(None, "this.s", 1)
    assert "this" not in sys.modules
    assert any(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Softmin", "GLU", "Softmax2d"])
def test_a_stored_activation_that_makes_all_scores_equal_is_not_used(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over one label a softmax is 1 for every pair: the default takes its place, with a warning; over several it is."""
    stored = f"torch.nn.modules.activation.{name}"
    assert type(default_activation(None, stored, 1)) is nn.Sigmoid
    assert "does not tell pairs apart" in caplog.text
    assert type(default_activation(None, stored, 3)) is getattr(nn, name)
