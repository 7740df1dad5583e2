"""Activation functions and the dotted names under which model folders store them.

A name in a downloaded file is data, not code: only activation classes of `torch.nn` that take one tensor and need
no arguments are made from it. Any other import needs `trust_remote_code`, as in sentence-transformers 4 and later.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secondpass.errors import InvalidInput, ModelLoadError

logger = logging.getLogger(__name__)

Activation = Callable[[Tensor], Tensor]

MODULE_OF_FUNCTION: dict[object, type[nn.Module]] = {
    torch.sigmoid: nn.Sigmoid,
    torch.tanh: nn.Tanh,
    torch.relu: nn.ReLU,
    torch.selu: nn.SELU,
    functional.sigmoid: nn.Sigmoid,
    functional.tanh: nn.Tanh,
    functional.relu: nn.ReLU,
    functional.relu6: nn.ReLU6,
    functional.elu: nn.ELU,
    functional.selu: nn.SELU,
    functional.celu: nn.CELU,
    functional.gelu: nn.GELU,
    functional.silu: nn.SiLU,
    functional.mish: nn.Mish,
    functional.softplus: nn.Softplus,
    functional.softsign: nn.Softsign,
    functional.hardtanh: nn.Hardtanh,
    functional.hardsigmoid: nn.Hardsigmoid,
    functional.hardswish: nn.Hardswish,
    functional.leaky_relu: nn.LeakyReLU,
    functional.logsigmoid: nn.LogSigmoid,
    functional.tanhshrink: nn.Tanhshrink,
}


class TemperedSigmoid(nn.Module):
    """The sigmoid of logits over a temperature, from 0 to 1."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """Logits -> scores."""
        return torch.sigmoid(logits / self.temperature)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return str(self.temperature)


def default_activation(
    argument: Activation | None,
    stored_name: str | None,
    num_labels: int,
    trust_remote_code: bool = False,
    published: Activation | None = None,
) -> Activation:
    """Return the activation of a model: the caller's, else the stored one, else that `published` for its family.

    Without any, Sigmoid for 1 label, else Identity.

    Raises:
        InvalidInput: `argument` is a class or not callable.
        ModelLoadError: a trusted name cannot be imported or made without arguments.
    """
    if argument is not None:
        return checked_activation(argument)
    if stored_name is not None:
        made = named_activation(stored_name, trust_remote_code)
        if made is not None and (num_labels > 1 or _tells_apart(made)):
            return made
        if made is not None:
            logger.warning(
                "Activation %r of the model's configuration does not tell pairs apart where there is one label: the "
                "default is used instead",
                stored_name,
            )
        else:
            logger.warning(
                "Activation %r of the model's configuration is no activation of torch.nn: the default is used instead "
                "(trust_remote_code=True imports it)",
                stored_name,
            )
    return published or (nn.Sigmoid() if num_labels == 1 else nn.Identity())


def _tells_apart(activation: Activation) -> bool:
    """Whether logits [pairs, 1] have scores that differ: a softmax over one label is 1 for all, a GLU needs two."""
    if not type(activation).__module__.startswith("torch."):
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a softmax without a dimension
        try:
            scores = activation(torch.linspace(-3.0, 3.0, 7)[:, None])
        except (RuntimeError, ValueError, AssertionError):
            return False
    return bool((scores != scores.flatten()[0]).any())


def stored_name(activation: Activation) -> str | None:
    """Return the dotted class name to store; None, with a logged warning, for what a name cannot bring back."""
    made: type = type(activation)
    if inspect.isroutine(activation):
        known = MODULE_OF_FUNCTION.get(activation)
        if known is not None:
            return full_name(known)
        reason = "a function has no class that a name could bring back"
    elif "<locals>" in made.__qualname__ or made.__module__ == "__main__":
        reason = "its class cannot be imported by name"
    elif not _is_default(activation):
        reason = "only a class name is stored, which brings back the default settings"
    else:
        if full_name(made) not in _trusted_classes():
            logger.warning("Activation %s loads again only with trust_remote_code=True", full_name(made))
        return full_name(made)
    name = getattr(activation, "__qualname__", made.__qualname__)
    logger.warning("Activation %s is not stored: %s; give it again when the model is loaded", name, reason)
    return None


def checked_activation(argument: Activation, name: str = "default_activation_function") -> Activation:
    """Return `argument` if it can be called with logits; a class or no callable is InvalidInput, which has `name`."""
    if isinstance(argument, type):
        raise InvalidInput(f"{name} is the class {argument.__name__}; give an instance: {argument.__name__}()")
    if not callable(argument):
        raise InvalidInput(f"{name} is {type(argument).__name__}, which cannot be called")
    return argument


def named_activation(name: str, trust_remote_code: bool) -> Activation | None:
    """The activation of a dotted name, None for one that is not trusted; raises ModelLoadError as above."""
    made = _trusted_classes().get(name)
    if made is not None:
        # Randomised activations (RReLU) are fixed only in evaluation mode.
        return made().eval()
    if trust_remote_code:
        return _imported(name)
    return None


def _imported(name: str) -> Activation:
    module, _, attribute = name.rpartition(".")
    try:
        made: Activation = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # any code may run here, so anything may be raised
        reason = f"{type(error).__name__}: {error}"
        raise ModelLoadError(f"activation {name!r} of the model cannot be made ({reason})") from error
    return made


@cache
def _trusted_classes() -> dict[str, type[nn.Module]]:
    """Activation classes of torch.nn made without arguments and called with one tensor, by every name of theirs."""
    trusted: dict[str, type[nn.Module]] = {}
    for exported, made in vars(nn).items():
        if isinstance(made, type) and issubclass(made, nn.Module) and _is_plain(made):
            names = (f"torch.nn.{exported}", f"torch.nn.modules.{exported}", full_name(made))
            trusted |= dict.fromkeys(names, made)
    return trusted


def _is_plain(made: type[nn.Module]) -> bool:
    if made.__module__ != nn.Sigmoid.__module__ and made is not nn.Identity:
        return False
    return _required(made.__init__) == 1 and _required(made.forward) == 2


def _required(function: Callable[..., object]) -> int:
    """Count the parameters without a default, `self` included."""
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters)


def full_name(made: type) -> str:
    """The dotted name under which a class is stored."""
    return f"{made.__module__}.{made.__qualname__}"


def _is_default(activation: Activation) -> bool:
    """Tell whether a fresh instance of the same class, made without arguments, is the same function."""
    made: Callable[[], Any] = type(activation)
    try:
        fresh = made()
    except TypeError:
        return False
    if not isinstance(activation, nn.Module):
        return not getattr(activation, "__dict__", None)
    state = activation.state_dict()
    same = all(torch.equal(state[key].cpu(), value) for key, value in fresh.state_dict().items() if key in state)
    return same and len(state) == len(fresh.state_dict()) and repr(activation) == repr(fresh)
