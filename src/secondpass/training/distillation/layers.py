"""Fewer layers of a transformer: a student that begins as a part of its teacher.

Sanh et al. 2019, "DistilBERT" (https://arxiv.org/abs/1910.01108), which starts from every second layer; Sajjad et al.
2020, "On the Effect of Dropping Layers" (https://arxiv.org/abs/2004.03844).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from secondpass.errors import InvalidInput

# What configurations call the number of layers.
COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")


def drop_layers(encoder: Any, keep: Sequence[int] | int) -> tuple[int, ...]:
    """Keep some of a model's transformer layers, in place; it scores with those from now on.

    The configuration is changed with it, so that what `save` writes loads everywhere. A forward that was put in with
    `CrossEncoder.use_forward` is the caller's to change, and no other thread may score meanwhile.

    Args:
        encoder: a `CrossEncoder`, or a transformers model with one stack of layers (BERT, RoBERTa, DistilBERT,
            ELECTRA, ModernBERT, DeBERTa and the like).
        keep: the layers' numbers, from 0, rising; or how many, which takes them evenly spaced with the first and the
            last among them (one alone is the first).

    Returns:
        The numbers of the layers that were kept.

    Raises:
        InvalidInput: `keep` names layers that there are not, the model has no such stack, or the model would not load
            again (ModernBERT's first layer has another shape than the others, so it has to stay); nothing is changed.
    """
    model = encoder if isinstance(encoder, nn.Module) else encoder.model
    owner, name = _stack(model)
    layers = getattr(owner, name)
    kept = _numbers(keep, len(layers))
    config = _smaller(model.config, kept, len(layers))
    remaining = nn.ModuleList(layers[number] for number in kept)
    setattr(owner, name, remaining)
    try:
        _check_loads(model, config, kept)
    except InvalidInput:
        setattr(owner, name, layers)
        raise
    for number, layer in enumerate(remaining):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                setattr(part, "layer_idx", number)  # noqa: B010 - torch's types allow only tensors
    for key, value in _changes(model.config, config).items():
        # Every part of the model holds this object, or reads a copy of it made in its constructor.
        setattr(model.config, key, value)
    return kept


def _stack(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that has the layers, and what it calls them."""
    count = next((getattr(model.config, name) for name in COUNTS if hasattr(model.config, name)), None)
    found = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList)
        and len(part) == count
        and name.rpartition(".")[2] in ("layer", "layers", "h")
    ]
    if len(found) != 1:
        raise InvalidInput(f"{type(model).__name__} has {len(found)} stacks of {count} layers, not one")
    parent, _, name = found[0].rpartition(".")
    return model.get_submodule(parent), name


def _numbers(keep: Sequence[int] | int, count: int) -> tuple[int, ...]:
    if isinstance(keep, int) and not isinstance(keep, bool):
        if not 1 <= keep <= count:
            raise InvalidInput(f"keep={keep}: the model has {count} layers")
        return tuple(round(place * (count - 1) / max(1, keep - 1)) for place in range(keep))
    numbers = tuple(keep) if isinstance(keep, Sequence) and not isinstance(keep, (str, bytes)) else ()
    if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise InvalidInput(f"keep={keep!r} is neither a number of layers nor a list of their numbers")
    if list(numbers) != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= count:
        raise InvalidInput(f"keep={list(numbers)} is not a rising list of numbers from 0 to {count - 1}")
    return numbers


def _smaller(config: Any, kept: tuple[int, ...], count: int) -> Any:
    """A copy of the configuration for the layers that are kept, its lists of one entry a layer included."""
    made = copy.deepcopy(config)
    for name in COUNTS:
        if hasattr(made, name):
            setattr(made, name, len(kept))
    for name, value in list(vars(made).items()):
        if "layer" in name and isinstance(value, (list, tuple)) and len(value) == count:
            setattr(made, name, [value[number] for number in kept])
    return made


def _check_loads(model: nn.Module, config: Any, kept: tuple[int, ...]) -> None:
    """Make sure that a model made from the configuration has weights of the same names and shapes."""
    import torch

    with torch.device("meta"):
        fresh = type(model)(config)
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in fresh.state_dict().items()}
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        raise InvalidInput(
            f"keep={list(kept)}: {type(model).__name__} with these layers would not load again ({wrong[0]} differs)"
        )


def _changes(before: Any, after: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(after).items() if vars(before).get(name) != value}
