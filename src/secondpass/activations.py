"""Activation functions, computed without torch where they are known, and the names under which folders store them.

A name in a downloaded file is data, not code: only activation classes of `torch.nn` that take one tensor and need
no arguments are made from it. Any other import needs `trust_remote_code`, as in sentence-transformers 4 and later.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.lazy import optional

logger = logging.getLogger(__name__)

Activation = Callable[[Any], Any]
"""Logits to scores: an `Elementwise`, a function or module of torch, or any other callable."""

Array = npt.NDArray[np.float64]


# ---- What torch computes, number by number, in float64.
_erf = np.frompyfunc(math.erf, 1, 1)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
GELU_SLOPE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715
# Where a series of tanh's, and its distance from 1, are right to the last bit.
NEAR, FAR = 0.02, 3.0


def _tanh(x: Array) -> Array:
    """Right to the last bit where most of it cancels afterwards: near 0 (tanhshrink) and near 1 (GELU)."""
    square, size = x * x, np.abs(x)
    near = x - x * square * (1 / 3 - square * (2 / 15 - square * (17 / 315 - square * (62 / 2835))))
    far = np.sign(x) * (1 - 2 / (np.exp(2 * size) + 1))
    made: Array = np.where(size < NEAR, near, np.where(size > FAR, far, np.tanh(x)))
    return made


def _gelu(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return 0.5 * x * (1 + _tanh(GELU_SLOPE * (x + GELU_CUBIC * (x * x * x))))
    made: Array = 0.5 * x * (1 + np.asarray(_erf(x * math.sqrt(0.5)), np.float64))
    return made


def _softplus(x: Array, beta: float, threshold: float) -> Array:
    return np.where(x * beta > threshold, x, np.log1p(np.exp(x * beta)) / beta)


# Of each class of torch.nn its settings as they are by default, and its function.
SETTINGS: Mapping[str, Mapping[str, float | str]] = {
    "ELU": {"alpha": 1.0},
    "CELU": {"alpha": 1.0},
    "GELU": {"approximate": "none"},
    "Hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "LeakyReLU": {"negative_slope": 0.01},
    "Softplus": {"beta": 1.0, "threshold": 20.0},
}
COMPUTE: Mapping[str, Callable[..., Array]] = {
    "Identity": lambda x: x,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": _tanh,
    "ReLU": lambda x: np.maximum(x, 0.0),
    "ReLU6": lambda x: np.clip(x, 0.0, 6.0),
    "ELU": lambda x, alpha: np.where(x < 0, np.expm1(x) * alpha, x),
    "SELU": lambda x: np.where(x < 0, np.expm1(x) * (SELU_ALPHA * SELU_SCALE), x * SELU_SCALE),
    "CELU": lambda x, alpha: np.where(x < 0, np.expm1(x * (1 / alpha)) * alpha, x),
    "GELU": _gelu,
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "Mish": lambda x: x * _tanh(np.log1p(np.exp(x))),
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Hardtanh": np.clip,
    "Hardsigmoid": lambda x: np.clip(x + 3, 0.0, 6.0) / 6,
    "Hardswish": lambda x: x * np.clip(x + 3, 0.0, 6.0) / 6,
    "LeakyReLU": lambda x, negative_slope: np.where(x > 0, x, x * negative_slope),
    "LogSigmoid": lambda x: np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x))),
    "Tanhshrink": lambda x: x - _tanh(x),
}
# Those that torch alone computes; over one label the first give all pairs one score, or nothing.
LEVELLING = frozenset({"GLU", "LogSoftmax", "Softmax", "Softmax2d", "Softmin"})
OTHERS = LEVELLING | {"Hardshrink", "PReLU", "RReLU", "Softshrink"}


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An activation that treats every number by itself; equal to another of the same function.

    Attributes:
        name: of its class in torch.nn.
        settings: those that are not the class's defaults.
    """

    name: str
    settings: tuple[tuple[str, float | str], ...] = ()

    def __call__(self, values: Any) -> Any:
        """An array of float64 to one of the same shape; a tensor is left to torch's module."""
        if not isinstance(values, np.ndarray):
            return as_torch(self)(values)
        with np.errstate(all="ignore"):
            return COMPUTE[self.name](values, *self.arguments().values())

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments().items())})"

    def arguments(self) -> dict[str, Any]:
        """Every setting by its name."""
        return {**SETTINGS.get(self.name, {}), **dict(self.settings)}


IDENTITY, SIGMOID = Elementwise("Identity"), Elementwise("Sigmoid")
# What gives no score outside, by its name in torch.nn or, where it is ours, its dotted one.
FROM_0_TO_1 = frozenset({"Sigmoid", "Hardsigmoid", f"{__name__}.TemperedSigmoid"})


def as_torch(activation: Activation | None) -> Any:
    """The module of torch.nn that computes an `Elementwise`, made anew; anything else as it is.

    Raises:
        MissingExtra: torch is not installed.
    """
    if not isinstance(activation, Elementwise):
        return activation
    nn = optional("torch.nn", f"torch, which has {activation!r} as a module,", "torch")
    return getattr(nn, activation.name)(**activation.arguments())


# ---- What torch has, recognised without importing it: who holds a part of it has imported it.
_ONE_NAME = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "ReLU",
    "selu": "SELU",
}
FUNCTIONS: Mapping[str, Mapping[str, str]] = {
    "torch": _ONE_NAME,
    "torch.nn.functional": _ONE_NAME
    | {
        "relu6": "ReLU6",
        "elu": "ELU",
        "celu": "CELU",
        "gelu": "GELU",
        "silu": "SiLU",
        "mish": "Mish",
        "softplus": "Softplus",
        "softsign": "Softsign",
        "hardtanh": "Hardtanh",
        "hardsigmoid": "Hardsigmoid",
        "hardswish": "Hardswish",
        "leaky_relu": "LeakyReLU",
        "logsigmoid": "LogSigmoid",
        "tanhshrink": "Tanhshrink",
    },
}


def known(activation: Activation) -> Elementwise | None:
    """The same function as a value of ours; None for any that is none of torch's elementwise ones."""
    if isinstance(activation, Elementwise):
        return activation
    if inspect.isroutine(activation):
        return next(
            (
                Elementwise(made)
                for home, names in FUNCTIONS.items()
                for name, made in names.items()
                if getattr(sys.modules.get(home), name, None) is activation
            ),
            None,
        )
    name = type(activation).__name__
    if name not in COMPUTE or not _is_torchs(activation, torch_name(name)):
        return None
    given = {setting: getattr(activation, setting) for setting in SETTINGS.get(name, {})}
    if not all(isinstance(value, (int, float, str)) for value in given.values()):
        return None
    if given.get("approximate", "none") not in ("none", "tanh"):
        return None  # torch says so
    return Elementwise(name, tuple(item for item in given.items() if item[1] != SETTINGS[name][item[0]]))


def known_steps(activation: Activation) -> tuple[Elementwise, ...] | None:
    """The same of several in a row, or none (torch.nn.Sequential); None where one of them is not known."""
    if not _is_torchs(activation, "torch.nn.modules.container.Sequential"):
        own = known(activation)
        return None if own is None else (own,)
    found: tuple[Elementwise, ...] = ()
    for step in activation:  # type: ignore[attr-defined]
        steps = known_steps(step)
        if steps is None:
            return None
        found += steps
    return found


def _is_torchs(module: object, name: str) -> bool:
    """Whether this is a module of exactly that class, with nothing attached that changes its result."""
    made = type(module)
    if full_name(made) != name or getattr(sys.modules.get(made.__module__), made.__name__, None) is not made:
        return False
    own = vars(module)
    return not (own.get("_forward_hooks") or own.get("_forward_pre_hooks") or "forward" in own)


def torch_name(name: str) -> str:
    """The dotted name under which a class of torch.nn is stored."""
    return f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"


def full_name(made: type) -> str:
    """The dotted name under which a class is stored."""
    return f"{made.__module__}.{made.__qualname__}"


@cache
def _trusted_names() -> dict[str, str]:
    """Activation classes of torch.nn made without arguments and called with one tensor, by every name of theirs."""
    return {
        spelled: name
        for name in (*COMPUTE, *OTHERS)
        for spelled in (f"torch.nn.{name}", f"torch.nn.modules.{name}", torch_name(name))
    }


# ---- Which one a model has, and what is stored of it.
def default_activation(
    argument: Activation | None,
    stored_name: str | None,
    num_labels: int,
    trust_remote_code: bool = False,
    published: Activation | None = None,
) -> Activation:
    """Return the activation of a model: the caller's, else the stored one, else that `published` for its family.

    Without any, Sigmoid for 1 label, else Identity. What is not the caller's is an `Elementwise` wherever it can be.

    Raises:
        InvalidInput: `argument` is a class or not callable.
        ModelLoadError: a trusted name cannot be imported or made without arguments.
        MissingExtra: the stored one is torch's alone, which is not installed.
    """
    if argument is not None:
        return checked_activation(argument)
    if stored_name is not None:
        levels = num_labels == 1 and _trusted_names().get(stored_name) in LEVELLING
        made = None if levels else named_activation(stored_name, trust_remote_code)
        if made is not None:
            return made
        if levels:
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
    return published or (SIGMOID if num_labels == 1 else IDENTITY)


def scaled(own: Activation, num_labels: int = 1, relevance: object = None) -> Activation:
    """What makes scores from 0 to 1 of logits: a model's own activation where it is known to, else the sigmoid.

    Of several labels one number is ranked by, of which the sigmoid makes the probability of the label; or, where
    `relevance` is "expected", the grade that is expected, of which it is the share of the last label's.
    """
    if relevance == "expected" and num_labels > 1:
        return lambda grades: grades / (num_labels - 1)
    found = known(own)
    name = full_name(type(own)) if found is None else found.name
    return own if num_labels == 1 and name in FROM_0_TO_1 else SIGMOID


def stored_name(activation: Activation) -> str | None:
    """Return the dotted class name to store; None, with a logged warning, for what a name cannot bring back."""
    made: type = type(activation)
    if isinstance(activation, Elementwise) or inspect.isroutine(activation):
        own = known(activation)
        if own is not None and not own.settings:
            return torch_name(own.name)
    name = getattr(activation, "__qualname__", made.__qualname__)
    if isinstance(activation, Elementwise):
        name, reason = activation.name, "only a class name is stored, which brings back the default settings"
    elif inspect.isroutine(activation):
        reason = "a function has no class that a name could bring back"
    elif "<locals>" in made.__qualname__ or made.__module__ == "__main__":
        reason = "its class cannot be imported by name"
    elif not _is_default(activation):
        reason = "only a class name is stored, which brings back the default settings"
    else:
        if full_name(made) not in _trusted_names():
            logger.warning("Activation %s loads again only with trust_remote_code=True", full_name(made))
        return full_name(made)
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
    """The activation of a dotted name, None for one that is not trusted; raises as `default_activation`."""
    made = _trusted_names().get(name, "")
    if made in COMPUTE:
        return Elementwise(made)
    if made:
        nn = optional("torch.nn", f"torch, which alone has the activation {name!r},", "torch")
        # Randomised activations (RReLU) are fixed only in evaluation mode.
        own: Activation = getattr(nn, made)().eval()
        return own
    return _imported(name) if trust_remote_code else None


def _imported(name: str) -> Activation:
    module, _, attribute = name.rpartition(".")
    try:
        made: Activation = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # any code may run here, so anything may be raised
        reason = f"{type(error).__name__}: {error}"
        raise ModelLoadError(f"activation {name!r} of the model cannot be made ({reason})") from error
    return made


def _is_default(activation: Activation) -> bool:
    """Tell whether a fresh instance of the same class, made without arguments, is the same function."""
    made: Callable[[], Any] = type(activation)
    try:
        fresh = made()
    except TypeError:
        return False
    if not hasattr(activation, "state_dict"):
        return not getattr(activation, "__dict__", None)
    state, plain = activation.state_dict(), fresh.state_dict()
    if repr(activation) != repr(fresh) or state.keys() != plain.keys():
        return False
    return all(bool((state[key].cpu() == value).all()) for key, value in plain.items())


# ---- A module of torch that is made when somebody asks for it.
def __getattr__(name: str) -> Any:
    if name == "TemperedSigmoid":
        return tempered_sigmoid()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def tempered_sigmoid() -> Any:
    """The class `TemperedSigmoid`; raises MissingExtra without torch."""
    torch = optional("torch", "torch, which has sigmoids over a temperature,", "torch")

    class TemperedSigmoid(torch.nn.Module):  # type: ignore[misc, name-defined]
        """The sigmoid of logits over a temperature, from 0 to 1."""

        def __init__(self, temperature: float) -> None:
            super().__init__()
            self.temperature = temperature

        def forward(self, logits: Any) -> Any:
            """Logits -> scores."""
            return torch.sigmoid(logits / self.temperature)

        def extra_repr(self) -> str:
            """What `repr` shows."""
            return str(self.temperature)

    TemperedSigmoid.__qualname__ = "TemperedSigmoid"  # copies and pickles find it by name
    return TemperedSigmoid
