"""What everybody asks of an architecture: how it is described, computed and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from secondpass.forwards.contract import Compute
from secondpass.forwards.description import Encoder


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
        trainable: its modules for training without padding; None trains in padded rectangles.
    """

    describe: Callable[[Any], D]
    trainable: Callable[[Any], TrainableModules] | None = None


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
