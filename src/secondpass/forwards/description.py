"""An encoder under a readout as plain weights: what packed forwards compute from, whatever class it came from.

Covers encoders with normalisation behind each block, of absolute positions (BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA,
DistilBERT) or of relative ones (DeBERTa-v2 and v3), and those with normalisation in front and rotary positions
(ModernBERT). Every array is contiguous, on one device, of one floating type, and in torch's [out, in] layout. They are
torch's tensors where a model of torch is described, and float32 numbers of a file where a folder is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")

Array = Any
"""A tensor of torch, a float32 array of numpy or a `StoredArray`; all of a description are of one kind."""

HiddenActivation = Literal["gelu", "gelu_tanh", "relu", "silu"]
StepActivation = Literal[HiddenActivation, "tanh", "none"]
Pooling = Literal["first", "mean", "max", "last", "tokens"]


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`: weight [out, in], bias [out] or None."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation over the last dimension: weight and bias [hidden], the bias may be None."""

    weight: Array
    bias: Array | None
    eps: float


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Words [vocabulary, width], positions [most tokens + first_position, width] or None, types [types, width] or None.

    The sum is normalised; `projection` then widens it to the hidden size (ELECTRA), None where they are equal.
    Position i of a sequence is row `first_position + i`.
    """

    words: Array
    positions: Array | None
    types: Array | None
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

    keys: Array | None
    queries: Array | None


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
class LateComparison:
    """Two texts that were read apart, compared at last, see `forwards.late`.

    `importance` [vocabulary]: logarithms of what a token of the query counts. `scales` [3]: logits of the texts'
    cosine, of the tokens' matches, and what is added. `sharpness`: how much the likest tokens count before others.
    """

    importance: Array
    scales: Array
    sharpness: float


@dataclass(frozen=True, slots=True)
class Readout:
    """What becomes of the last hidden states: one row of each sequence by `pooling`, through `steps` to its logits.

    Or all "tokens" as they are, which `late` compares: then query and document are sequences of their own.
    """

    pooling: Pooling
    steps: tuple[ReadoutStep, ...]
    late: LateComparison | None = None

    @property
    def labels(self) -> int:
        """How many logits a sequence has."""
        if self.late is not None:
            return 1
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
        """Where the weights are, for those of torch."""
        device: torch.device = self.layers[0].qkv.weight.device
        return device


# What has weights; rotations and buckets are numpy's whatever these are.
WEIGHTED = (Linear, Norm, Embeddings, Relative, LateComparison)


def mapped(value: T, change: Callable[[Array], Array]) -> T:
    """A copy of a description (or a part of one) with every weight changed, say to another type."""
    made: object = value
    if isinstance(value, tuple):
        made = tuple(mapped(item, change) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: getattr(value, part.name) for part in fields(value)}
        holds = isinstance(value, WEIGHTED)
        made = type(value)(
            **{
                name: change(part) if holds and hasattr(part, "shape") else mapped(part, change)
                for name, part in parts.items()
            }
        )
    return made  # type: ignore[return-value]


# ---- Single modules as plain weights: of torch, or of a folder's arrays with the face of torch's.
#
# transformers' classes by the function they compute, and what a config.json calls them.
ACTIVATIONS: dict[str, HiddenActivation] = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}
ACTIVATION_NAMES: dict[str, HiddenActivation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


# What modules of a chain hand on, by sentence-transformers' names; and its poolings that families compute.
STATES, POOLED, SCORES = "token_embeddings", "sentence_embedding", "scores"
PLAIN_POOLINGS: dict[tuple[str, ...], Pooling] = {
    ("cls",): "first",
    ("mean",): "mean",
    ("max",): "max",
    ("lasttoken",): "last",
}


def fewer(steps: Sequence[ReadoutStep]) -> list[ReadoutStep]:
    """A normalisation belongs to the linear layer in front of it."""
    made: list[ReadoutStep] = []
    for step in steps:
        before = made[-1] if made else None
        if step.linear is not None or before is None or before.unit or (step.norm and before.norm):
            made.append(step)
        else:
            made[-1] = replace(before, norm=step.norm or before.norm, unit=step.unit)
    return made


class NotDescribed(Exception):
    """A part is not what its family has; the message says which, where one is known."""


class Broken(NotDescribed):
    """Weights and config.json do not go together, so that transformers would refuse them too.

    Attributes:
        lacks: the weight, or the module, that is not there under the name that we know.
    """

    def __init__(self, message: str, lacks: str | None = None) -> None:
        super().__init__(message)
        self.lacks = lacks


class StoredConfig:
    """A config.json as transformers reads it: with the defaults of its kind, and keys by any of their names."""

    def __init__(self, settings: Mapping[str, Any], defaults: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
        self._values = {**defaults, **settings}
        for name, other in aliases.items():
            given = [settings[key] for key in (other, name) if key in settings] or [defaults.get(name)]
            if given[0] != given[-1]:
                raise NotDescribed(f"config.json has {other} {given[0]!r} and {name} {given[-1]!r}")
            self._values[name] = given[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(name)
        return self._values[name]

    def count(self, name: str) -> int:
        """A positive whole number."""
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Broken(f"{name} of config.json is {value!r}")
        return value


@dataclass(frozen=True, slots=True)
class CompactRows:
    """A matrix as it is stored in few bits.

    Attributes:
        parts: reads its numbers and scales, of each a row for a row of the matrix.
        decode: some rows of them to float32 [rows, width], each by itself; it can be pickled.
    """

    parts: Callable[[], tuple[Array, ...]]
    decode: Callable[..., npt.NDArray[np.float32]]


class StoredArray:
    """float32 numbers of a file, which are read each time that somebody asks for them (`numpy.asarray`).

    So a model is described by the heads of its files alone, and nobody has to hold all of it at once. `compact` says
    how they are stored, of matrices in few bits.
    """

    def __init__(
        self, shape: tuple[int, ...], read: Callable[[], npt.NDArray[np.float32]], compact: CompactRows | None = None
    ) -> None:
        self.shape, self._read, self.compact = shape, read, compact

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        made = self._read()
        return made if dtype is None else made.astype(dtype, copy=False)


class StoredWeights(Mapping[str, Array]):
    """Arrays float32 by name, which remember which of them were asked for."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self.read: set[str] = set()
        self.prefixes = {name[: found.end()] for name in arrays for found in re.finditer(r"\.", name)}

    def __getitem__(self, name: str) -> Array:
        found = self._arrays[name]
        self.read.add(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class StoredModule:
    """Arrays below a prefix of their names, with the attributes of the module that they are the weights of.

    So one description reads a model of torch and a folder without torch. A list of modules has as many as the config
    has layers, whatever is stored.

    Args:
        weights: all of the folder.
        config: what the model's config.json says, with the defaults of its kind.
        prefix: of the names, with a full stop at its end; empty for all.
        functions: names of activations, which have no weights, by the last two parts of their place ("mlp.act").
    """

    def __init__(self, weights: StoredWeights, config: StoredConfig, prefix: str, functions: Mapping[str, str]) -> None:
        self.weights, self.config, self.prefix, self.functions = weights, config, prefix, functions

    def below(self, name: str) -> StoredModule:
        """What is stored of a child, which may be nothing."""
        return StoredModule(self.weights, self.config, f"{self.prefix}{name}.", self.functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        function = self.functions.get(".".join(f"{self.prefix}{name}".split(".")[-2:]))
        if function is not None:
            return function
        made = self.below(name)
        if made.prefix in self.weights.prefixes:
            return made
        raise AttributeError(f"there is no weight {made.prefix.removesuffix('.')}", name=name, obj=self)

    def __iter__(self) -> Iterator[StoredModule]:
        return (self.below(str(place)) for place in range(self.config.count("num_hidden_layers")))

    def named_children(self) -> Iterator[tuple[str, StoredModule]]:
        """The first parts of what stands behind the prefix."""
        own = [key[len(self.prefix) :].partition(".")[0] for key in self.weights if key.startswith(self.prefix)]
        return ((name, self.below(name)) for name in dict.fromkeys(own))

    def array(self, name: str, axes: int, optional: bool = False) -> Array | None:
        """A weight of this module."""
        found = self.weights.get(f"{self.prefix}{name}")
        if found is None and optional:
            return None
        if found is None:
            raise Broken(f"the weight {self.prefix}{name} is missing", f"{self.prefix}{name}")
        if len(found.shape) != axes:
            raise Broken(f"the weight {self.prefix}{name} has shape {list(found.shape)}")
        return found


class StoredEncoder(StoredModule):
    """The whole of a folder's model, with the head below it or the `readout` of its chain."""

    def __init__(
        self,
        weights: StoredWeights,
        config: StoredConfig,
        functions: Mapping[str, str],
        prefix: str,
        readout: Readout | None = None,
    ) -> None:
        super().__init__(weights, config, "", functions)
        self.base_model = self.below(prefix) if prefix else self
        self.body, self.readout = self, readout


def hidden_activation(*modules: Any) -> HiddenActivation:
    """Which function modules compute, all of them the same; or which one a config names."""
    kinds = (ACTIVATION_NAMES.get(m) if isinstance(m, str) else ACTIVATIONS.get(type(m).__name__) for m in modules)
    found = set(kinds)
    activation = found.pop() if len(found) == 1 else None
    if activation is None:
        raise NotDescribed("an activation is another than those that are known")
    return activation


def linear(module: Any, bare: bool = False) -> Linear:
    """A linear layer, with a bias unless `bare` ones are known too."""
    if isinstance(module, StoredModule):
        return Linear(module.array("weight", 2), module.array("bias", 1, bare))
    from torch import nn

    if type(module) is not nn.Linear or (module.bias is None and not bare):
        raise NotDescribed
    return Linear(module.weight.detach().contiguous(), _detached(module.bias))


def joined(*modules: Any) -> Linear:
    """Linear layers of one input, all with biases or all without, as one layer, outputs side by side."""
    parts = [linear(module, bare=True) for module in modules]
    biases = [part.bias for part in parts if part.bias is not None]
    if len(biases) not in (0, len(parts)):
        raise NotDescribed("not all of the projections of query, key and value have a bias")
    return Linear(side_by_side([part.weight for part in parts]), side_by_side(biases) if biases else None)


def side_by_side(parts: Sequence[Array]) -> Array:
    """One array of the rows of several."""
    if isinstance(parts[0], StoredArray):
        if len({part.shape for part in parts}) > 1:
            raise NotDescribed("query, key and value have projections of several shapes")
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        return StoredArray(shape, partial(_concatenated, parts))
    import torch

    return torch.cat(list(parts))


def _concatenated(parts: Sequence[StoredArray]) -> npt.NDArray[np.float32]:
    return np.concatenate([np.asarray(part) for part in parts])


def norm(module: Any, bare: bool = False) -> Norm:
    """A layer normalisation with weight and bias, or where `bare` ones are known with a weight alone."""
    if isinstance(module, StoredModule):
        return Norm(module.array("weight", 1), module.array("bias", 1, bare), module.config.layer_norm_eps)
    from torch import nn

    if type(module) is not nn.LayerNorm or module.weight is None or (module.bias is None and not bare):
        raise NotDescribed
    return Norm(module.weight.detach(), _detached(module.bias), module.eps)


def _detached(parameter: torch.Tensor | None) -> torch.Tensor | None:
    return None if parameter is None else parameter.detach()


def table(module: Any) -> Array:
    """The rows of an embedding."""
    if isinstance(module, StoredModule):
        return module.array("weight", 2)
    from torch import nn

    if type(module) is not nn.Embedding or module.max_norm is not None:
        raise NotDescribed
    return module.weight.detach().contiguous()


# ---- Whether a model is what its class says.
#
# A packed forward computes from weights alone, so it may stand in for a model only while nobody has put anything else
# into it: adapters, hooks, quantised layers, replaced modules. Here is where those of an unchanged one come from.
SOURCES = ("torch.nn.modules.", "transformers.models.", "transformers.activations", "secondpass.forwards.readout")


def is_plain(model: nn.Module, sources: tuple[str, ...] = SOURCES) -> bool:
    """Whether every module comes from one of `sources`, with nothing attached that changes its result."""
    from torch import nn

    return all(
        (type(module).__module__.startswith(sources) or isinstance(module, nn.Dropout)) and not _is_hooked(module)
        for module in model.modules()
    )


def _is_hooked(module: nn.Module) -> bool:
    from torch import nn

    # training puts other random numbers into dropout, which does nothing here
    replaced = "forward" in module.__dict__ and not isinstance(module, nn.Dropout)
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced)
