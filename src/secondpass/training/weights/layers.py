"""Which layer a weight belongs to; the lowest layers frozen; a learning rate for each.

Howard & Ruder, "Universal language model fine-tuning for text classification" (2018): lower layers know more of the
language and less of the task, so they change less. The layer-wise decay of the rate is ELECTRA's (Clark et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from torch import nn

from secondpass.errors import InvalidInput
from secondpass.packed.families import below


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a model.

    Attributes:
        count: of the encoder.
        numbers: every parameter's name to its layer: 0 for embeddings, 1 to `count`, `head` for all above them.
    """

    count: int
    numbers: Mapping[str, int]

    @property
    def head(self) -> int:
        """The number of what stands on the encoder: pooler and classifier."""
        return self.count + 1


def layers_of(model: nn.Module) -> Layers:
    """Number the layers of a sequence classifier of transformers.

    Layers are the entries of the outermost `ModuleList` in the encoder; of several ones (encoder and decoder) one after
    the other; of several in the same module (XLM's attentions and norms) side by side. Embeddings, and what comes
    before the first layer, are 0; what is outside the encoder, its pooler and what comes after the last layer are the
    head.
    """
    base = str(getattr(model, "base_model_prefix", ""))
    prefix = f"{base}." if base and hasattr(model, base) else ""
    starts, count = _starts(model, prefix)
    known = below(str(getattr(getattr(model, "config", None), "model_type", "")))
    numbers: dict[str, int] = {}
    reached = 0
    for name, _ in model.named_parameters():
        found = _listed(name, starts)
        if found is not None:
            numbers[name] = found
            reached = max(reached, found)
        elif not name.startswith(prefix):
            numbers[name] = count + 1
        else:
            told = (number for part, number in known.items() if name.startswith(f"{prefix}{part}."))
            numbers[name] = next(told, _beside(model.get_submodule(name.rpartition(".")[0]), name, reached, count))
    return Layers(count, numbers)


def _starts(model: nn.Module, prefix: str) -> tuple[dict[str, int], int]:
    """The outermost lists of layers by name, with the number of layers below each; and the number of all layers."""
    lists: dict[str, dict[str, int]] = {}
    taken: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in taken)
        if isinstance(module, nn.ModuleList) and name.startswith(prefix) and not inside:
            if next(module.parameters(), None) is not None:
                taken.append(name)
                lists.setdefault(name.rpartition(".")[0], {})[name] = len(module)
    starts: dict[str, int] = {}
    count = 0
    for beside in lists.values():
        longest = max(beside.values())
        starts |= {name: count for name, length in beside.items() if length == longest}
        count += longest
    return starts, count


def _listed(name: str, starts: Mapping[str, int]) -> int | None:
    for start, number in starts.items():
        if name.startswith(f"{start}."):
            return number + int(name[len(start) + 1 :].partition(".")[0]) + 1
    return None


def _beside(owner: nn.Module, name: str, reached: int, count: int) -> int:
    """The layer of a weight of the encoder that is in none of its lists; `reached` is that of the one before."""
    if "pooler" in name:
        return count + 1
    if isinstance(owner, nn.Embedding) or "embed" in name:
        return 0
    return reached if reached < count else count + 1


class Frozen:
    """Weights that were frozen together; as a context manager it frees them at the end.

    Attributes:
        names: of those that were trainable before.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.names = tuple(weights)
        self._weights = weights

    def undo(self) -> None:
        """Make these weights trainable again, and no others."""
        for weight in self._weights.values():
            weight.requires_grad_(True)

    def __enter__(self) -> Frozen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def freeze(model: nn.Module, layers: int) -> Frozen:
    """Let the embeddings and the lowest `layers` of the encoder stay as they are; 0 freezes nothing.

    Nothing else of the model is changed; gradients that frozen weights have are dropped.

    Raises:
        InvalidInput: `layers` is below 0 or more than the encoder has.
    """
    found = layers_of(model)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 0 <= layers <= found.count:
        raise InvalidInput(
            f"frozen_layers={layers!r} is not a whole number from 0 to {found.count}, the model's layers"
        )
    chosen = {
        name: weight
        for name, weight in model.named_parameters()
        if layers and weight.requires_grad and found.numbers[name] <= layers
    }
    for weight in chosen.values():
        weight.requires_grad_(False)
        weight.grad = None
    return Frozen(chosen)


def rates(model: nn.Module, learning_rate: float, layer_decay: float) -> dict[str, float]:
    """Give every weight's learning rate: `learning_rate` for the head, `layer_decay` times less a layer downwards.

    Raises:
        InvalidInput: `learning_rate` is not above 0, or `layer_decay` not above 0 and at most 1.
    """
    if not 0 < learning_rate < float("inf"):
        raise InvalidInput(f"learning_rate={learning_rate!r} is not a number above 0")
    if not 0 < layer_decay <= 1:
        raise InvalidInput(f"layer_decay={layer_decay!r} is not above 0 and at most 1")
    found = layers_of(model)
    return {name: learning_rate * layer_decay ** (found.head - number) for name, number in found.numbers.items()}


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the outermost modules that hold weights of the head and no others."""
    found = layers_of(model)

    def inside(name: str, module: nn.Module) -> Iterator[str]:
        start = f"{name}." if name else ""
        held = {number for weight, number in found.numbers.items() if weight.startswith(start)}
        if held == {found.head}:
            yield name
        elif found.head in held:
            for child, below in module.named_children():
                yield from inside(f"{start}{child}", below)

    return tuple(inside("", model))


def encoder_linears(model: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers that are no part of the head."""
    found = layers_of(model)
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and found.numbers.get(f"{name}.weight", found.head) < found.head
    )
