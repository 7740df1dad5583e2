"""An encoder under a readout as plain weights: what packed forwards compute from, whatever class it came from.

Covers encoders with normalisation behind each block, of absolute positions (BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA,
DistilBERT) or of relative ones (DeBERTa-v2 and v3), and those with normalisation in front and rotary positions
(ModernBERT). Every tensor is contiguous, on one device, of one floating type, and in torch's [out, in] layout. What any
family says of its architectures stands at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secondpass.forwards.contract import Compute

T = TypeVar("T")

HiddenActivation = Literal["gelu", "gelu_tanh", "relu", "silu"]
StepActivation = Literal[HiddenActivation, "tanh", "none"]
Pooling = Literal["first", "mean", "max", "last"]


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`: weight [out, in], bias [out] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation over the last dimension: weight and bias [hidden], the bias may be None."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Words [vocabulary, width], positions [most tokens + first_position, width] or None, types [types, width] or None.

    The sum is normalised; `projection` then widens it to the hidden size (ELECTRA), None where they are equal.
    Position i of a sequence is row `first_position + i`.
    """

    words: torch.Tensor
    positions: torch.Tensor | None
    types: torch.Tensor | None
    norm: Norm
    first_position: int
    projection: Linear | None


@dataclass(frozen=True, slots=True)
class Relative:
    """What the distance of two tokens adds to the score between them (He et al., DeBERTa, 2021).

    Rows [buckets, hidden] are cut into heads as queries and keys are: each query is multiplied with the row of `keys`
    for its distance from the key, each key with that of `queries`. None adds nothing. Float32 or finer, whatever the
    weights are.
    """

    keys: torch.Tensor | None
    queries: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention and feed-forward, each added to its input; `qkv` has [3 * hidden, hidden].

    The norms are for the sums, or where the encoder has them in front for what attention and feed-forward are given
    (`attention_norm` None there takes it as it is). A gated feed-forward has inner values and then gates in `up`.
    `frequencies` float32 [head size / 2] turn queries and keys by their positions (Su et al. 2021, halves instead of
    neighbours); `window` is how far a token sees to either side, None for all of its sequence.
    """

    qkv: Linear
    attention_out: Linear
    attention_norm: Norm | None
    up: Linear
    down: Linear
    output_norm: Norm
    relative: Relative | None = None
    frequencies: npt.NDArray[np.float32] | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class ReadoutStep:
    """`linear` -> `activation` -> `norm`, then with `unit` to length 1 (over the root of the sum of squares)."""

    linear: Linear | None
    activation: StepActivation = "none"
    norm: Norm | None = None
    unit: bool = False


@dataclass(frozen=True, slots=True)
class Readout:
    """What becomes of the last hidden states: one row of each sequence by `pooling`, through `steps` to its logits."""

    pooling: Pooling
    steps: tuple[ReadoutStep, ...]

    @property
    def labels(self) -> int:
        """How many logits a sequence has."""
        return next(len(step.linear.weight) for step in reversed(self.steps) if step.linear is not None)


@dataclass(frozen=True, slots=True)
class Encoder:
    """The whole model; `heads` attention heads of hidden / heads each.

    Scores are divided by the root of that, times the number of parts a score has where layers have a `relative`.
    `buckets` int64 [2 * span] then is the row of each distance (query's place minus key's) from -span to span - 1;
    tokens further apart are as those. `final_norm` is that of an encoder whose layers have their norms in front; None
    for those that have them behind. `gated` multiplies activated inner values by gates.
    """

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    readout: Readout
    heads: int
    activation: HiddenActivation
    buckets: npt.NDArray[np.int64] | None = None
    final_norm: Norm | None = None
    gated: bool = False

    @property
    def hidden(self) -> int:
        """Width of a token between layers."""
        return int(self.layers[0].qkv.weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.layers[0].qkv.weight.device


def mapped(value: T, change: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """A copy of a description (or a part of one) with every tensor changed, say to another type."""
    made: object = value
    if isinstance(value, torch.Tensor):
        made = change(value)
    elif isinstance(value, tuple):
        made = tuple(mapped(item, change) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        made = type(value)(**{part.name: mapped(getattr(value, part.name), change) for part in fields(value)})
    return made  # type: ignore[return-value]


# ---- Single modules of torch and transformers as plain weights.
#
# transformers' classes by the function they compute.
ACTIVATIONS: dict[str, HiddenActivation] = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}


class NotDescribed(Exception):
    """A part is not what its family has."""


def hidden_activation(*modules: nn.Module) -> HiddenActivation:
    """Which function modules compute, all of them the same."""
    found = {ACTIVATIONS.get(type(module).__name__) for module in modules}
    activation = found.pop() if len(found) == 1 else None
    if activation is None:
        raise NotDescribed
    return activation


def linear(module: nn.Module, bare: bool = False) -> Linear:
    """A linear layer, with a bias unless `bare` ones are known too."""
    if type(module) is not nn.Linear or (module.bias is None and not bare):
        raise NotDescribed
    return Linear(module.weight.detach().contiguous(), _detached(module.bias))


def joined(*modules: nn.Module) -> Linear:
    """Linear layers of one input, all with biases or all without, as one layer, outputs side by side."""
    parts = [linear(module, bare=True) for module in modules]
    biases = [part.bias for part in parts if part.bias is not None]
    if biases and len(biases) < len(parts):
        raise NotDescribed
    return Linear(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None)


def norm(module: nn.Module, bare: bool = False) -> Norm:
    """A layer normalisation with weight and bias, or where `bare` ones are known with a weight alone."""
    if type(module) is not nn.LayerNorm or module.weight is None or (module.bias is None and not bare):
        raise NotDescribed
    return Norm(module.weight.detach(), _detached(module.bias), module.eps)


def _detached(parameter: torch.Tensor | None) -> torch.Tensor | None:
    return None if parameter is None else parameter.detach()


def table(module: nn.Module) -> torch.Tensor:
    """The rows of an embedding."""
    if type(module) is not nn.Embedding or module.max_norm is not None:
        raise NotDescribed
    return module.weight.detach().contiguous()


# ---- Whether a model is what its class says.
#
# A packed forward computes from weights alone, so it may stand in for a model only while nobody has put anything else
# into it: adapters, hooks, quantised layers, replaced modules. Here is where those of an unchanged one come from.
SOURCES = ("torch.nn.modules.", "transformers.models.", "transformers.activations", "secondpass.forwards.readout")


def is_plain(model: nn.Module) -> bool:
    """Whether every module is one of torch's or transformers' own, with nothing attached that changes its result."""
    return all(
        (type(module).__module__.startswith(SOURCES) or isinstance(module, nn.Dropout)) and not _is_hooked(module)
        for module in model.modules()
    )


def _is_hooked(module: nn.Module) -> bool:
    # training puts other random numbers into dropout, which does nothing here
    replaced = "forward" in module.__dict__ and not isinstance(module, nn.Dropout)
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced)


# ---- What is asked of an architecture: how it is described, computed and trained.
class Description(Protocol):
    """A model as plain weights, on one device and of one type."""

    @property
    def hidden(self) -> int:
        """Width of a token between layers."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...


D = TypeVar("D", bound=Description)


@dataclass(frozen=True, slots=True)
class TrainableModules:
    """A model's own modules, as the training forward without padding calls them: dropout and adapters stay in.

    Attributes:
        embeddings: int64 [1, tokens] as `input_ids`, `token_type_ids` and `position_ids` to [1, tokens, hidden].
        layers: each with BERT's `attention.self`, `attention.output`, `intermediate` and `output`.
        head: first tokens [pairs, 1, hidden] to logits [pairs, labels].
        first_position: of every sequence.
    """

    embeddings: Callable[..., torch.Tensor]
    layers: Sequence[nn.Module]
    head: Callable[[torch.Tensor], torch.Tensor]
    first_position: int = 0


@dataclass(frozen=True, slots=True)
class Architecture(Generic[D]):
    """One class of transformers.

    Attributes:
        describe: its model as plain weights; raises `NotDescribed` or AttributeError for a part that is another.
        trainable: its modules for training without padding; None, or where it gives None, trains in padded rectangles.
    """

    describe: Callable[[Any], D]
    trainable: Callable[[Any], TrainableModules | None] | None = None


@dataclass(frozen=True, slots=True)
class Family(Generic[D]):
    """Architectures that are described by the same kind of weights.

    Attributes:
        architectures: by the name of transformers' class.
        in_torch: a description to its forward in torch; the type is that of its layers, None is that of the weights.
        for_kernel: a description as the compiled kernel reads it, None where it has no such form; what it can compute
            of that the kernel says, see `kernel.weights.unsupported`.
        below: by model type the weights that are registered above the layers and work below one of them: the number of
            the layer that they are counted to, see `training/weights/layers.py`.
    """

    architectures: Mapping[str, Architecture[D]]
    in_torch: Callable[[D, torch.dtype | None], Compute]
    for_kernel: Callable[[D], Encoder | None]
    below: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
