"""What a family says of its architectures: how one is described, computed, trained and read from a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from secondpass.forwards.contract import Compute
from secondpass.forwards.description import Encoder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from secondpass.forwards.readout import LateInteraction


class Description(Protocol):
    """A model as plain weights, on one device and of one type."""

    @property
    def hidden(self) -> int:
        """Width of a token between layers."""
        ...

    @property
    def device(self) -> Any:
        """Where the weights are."""
        ...


D = TypeVar("D", bound=Description)


@dataclass(frozen=True, slots=True)
class TrainableModules:
    """A model's own modules, as the training forward without padding calls them: dropout and adapters stay in.

    Attributes:
        embeddings: int64 [1, tokens] as `input_ids`, `token_type_ids` and `position_ids` to [1, tokens, hidden].
        layers: each with BERT's `attention.self`, `attention.output`, `intermediate` and `output`.
        head: first tokens [pairs, 1, hidden] to logits [pairs, labels]; of a `late` model nothing.
        first_position: of every sequence.
        late: compares query and document, which are read apart then.
    """

    embeddings: Callable[..., torch.Tensor]
    layers: Sequence[nn.Module]
    head: Callable[[torch.Tensor], torch.Tensor]
    first_position: int = 0
    late: LateInteraction | None = None


@dataclass(frozen=True, slots=True)
class StoredKind:
    """How a model type is read from its folder's config.json and arrays.

    Attributes:
        defaults: what transformers' config class has where the file says nothing.
        prefix: of the names of the weights below a head.
        functions: keys of the config that name an activation, or names themselves behind "=", by the last two parts
            of the activation's place.
        aliases: other names of keys, by those that we ask for.
        passed_over: keys that we ask for under these names and that transformers' class has no such setting of.
    """

    defaults: Mapping[str, Any]
    prefix: str
    functions: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    passed_over: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Architecture(Generic[D]):
    """One class of transformers.

    Attributes:
        describe: its model as plain weights, of torch or stored; raises `NotDescribed` or AttributeError for a part
            that is another.
        trainable: its modules for training without padding; None, or where it gives None, trains in padded rectangles.
        model_type: of its configs, where folders of it are read without torch.
    """

    describe: Callable[[Any], D]
    trainable: Callable[[Any], TrainableModules | None] | None = None
    model_type: str | None = None


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
        stored: by model type how folders are read without torch.
    """

    architectures: Mapping[str, Architecture[D]]
    in_torch: Callable[[D, torch.dtype | None], Compute]
    for_kernel: Callable[[D], Encoder | None]
    below: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    stored: Mapping[str, StoredKind] = field(default_factory=dict)
