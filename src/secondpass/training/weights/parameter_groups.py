"""The weights in groups for an optimizer: a learning rate for each layer, weight decay where it belongs."""

from __future__ import annotations

from typing import Any

from torch import nn

from secondpass.errors import InvalidInput
from secondpass.training.weights.layers import rates


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float | None = None,
    weight_decay: float,
    layer_decay: float = 1.0,
    frozen: bool = False,
) -> list[dict[str, Any]]:
    """Group the weights by learning rate and weight decay.

    Biases and the weights of normalisation, whatever the architecture calls it, are not decayed: they set scales, which
    the decay would pull to 0 (Loshchilov & Hutter 2019 decay all; BERT's authors left these out, and everyone since).

    Args:
        model: a transformers model, or any other without `layer_decay`.
        learning_rate: of the head; None leaves it to the optimizer, the same for all.
        weight_decay: of what is decayed.
        layer_decay: the rate of each layer is so much that of the layer above.
        frozen: take the weights that are not trainable too, so that they may be unfrozen on the way.

    Returns:
        Groups for any optimizer of torch, with `param_names`: the highest rate first, the decayed before the others,
        weights in the model's order. A weight that several modules share is in one group.

    Raises:
        InvalidInput: there is nothing to train, or a number is refused.
    """
    if not 0 <= weight_decay < float("inf"):
        raise InvalidInput(f"weight_decay={weight_decay!r} is not a number from 0 on")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    rate_of = {} if learning_rate is None else rates(model, learning_rate, layer_decay)
    for name, weight in model.named_parameters():
        if not weight.requires_grad and not frozen:
            continue
        kept = not is_decayed(model, name)
        rate = {"lr": rate_of[name]} if rate_of else {}
        group = groups.setdefault(
            (-rate.get("lr", 0.0), kept),
            {"params": [], "param_names": [], **rate, "weight_decay": 0.0 if kept else float(weight_decay)},
        )
        group["params"].append(weight)
        group["param_names"].append(name)
    if not groups:
        raise InvalidInput("every parameter of the model is frozen: there is nothing to train")
    return [group for _, group in sorted(groups.items())]


def is_decayed(model: nn.Module, name: str) -> bool:
    """Tell whether the weight of that name is neither a bias nor one of normalisation."""
    owner, _, own = name.rpartition(".")
    return not (own == "bias" or own.endswith("_bias") or "norm" in type(model.get_submodule(owner)).__name__.lower())
