"""What an optimizer, its schedule and its loss scale remember, to tensors and JSON and back, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.survival.nested_state import flattened, restored


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], Any]:
    """Read an optimizer's state and the settings of its groups.

    Returns:
        Tensors by name (the optimizer's own, not copies) and JSON; for `restore_optimizer`.

    Raises:
        InvalidInput: something in its state cannot be stored; the message names it.
    """
    made = {"class": type(optimizer).__name__, "weights": _weights(optimizer), "state": optimizer.state_dict()}
    return flattened(made, "optimizer")


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], state: Any) -> None:
    """Put a state back into an optimizer of the same class over the same parameters; `tensors` are copied.

    Raises:
        CheckpointError: its class is another, or its parameters have other shapes or names; it is not changed.
    """
    made = _of_class(restored(tensors, state), optimizer, "optimizer")
    there, here = made["weights"], _weights(optimizer)
    if len(there) != len(here):
        raise CheckpointError(f"the optimizer had {len(there)} groups of parameters, and has {len(here)}")
    for place, (stored, own) in enumerate(zip(there, here, strict=True)):
        if len(stored) != len(own):
            raise CheckpointError(f"the optimizer's group {place} had {len(stored)} parameters, and has {len(own)}")
        for before, now in zip(stored, own, strict=True):
            if before != now:
                raise CheckpointError(f"the optimizer's group {place} had {_named(before)} where it has {_named(now)}")
    optimizer.load_state_dict(made["state"])
    _undo_casts(optimizer, made["state"])


def _weights(optimizer: torch.optim.Optimizer) -> list[list[list[Any]]]:
    """Name, if known, and shape of each parameter of each group: the state goes by position alone."""
    return [
        [
            [name, list(weight.shape)]
            for name, weight in zip(
                group.get("param_names") or [""] * len(group["params"]), group["params"], strict=True
            )
        ]
        for group in optimizer.param_groups
    ]


def _named(weight: Sequence[Any]) -> str:
    return f"{weight[0] or 'a parameter'} {weight[1]}"


def _undo_casts(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give every tensor its own dtype again: torch casts what it loads to that of the weight."""
    for group, mine in zip(state["param_groups"], optimizer.param_groups, strict=True):
        for number, weight in zip(group["params"], mine["params"], strict=True):
            for key, stored in state["state"].get(number, {}).items():
                loaded = optimizer.state[weight][key]
                if isinstance(stored, torch.Tensor):
                    optimizer.state[weight][key] = stored.detach().to(loaded.device, copy=True)


def _of_class(made: Any, part: object, name: str) -> dict[str, Any]:
    if not isinstance(made, dict) or "class" not in made or "state" not in made:
        raise CheckpointError(f"this is no state of {name}s")
    if made["class"] != type(part).__name__:
        raise CheckpointError(f"the {name} was {made['class']}, and is {type(part).__name__}")
    return made


def schedule_state(schedule: Any) -> Any:
    """Read a learning-rate schedule's state as JSON; for `restore_schedule`.

    Raises:
        InvalidInput: it has no `state_dict`, or something in it that JSON does not have, such as tensors.
    """
    return _plain(schedule, "schedule")


def restore_schedule(schedule: Any, state: Any) -> None:
    """Put a schedule's state back; the learning rates themselves are the optimizer's.

    Raises:
        CheckpointError: it is another schedule's.
    """
    schedule.load_state_dict(_of_class(restored({}, state), schedule, "schedule")["state"])


def scaler_state(scaler: torch.amp.GradScaler) -> Any:
    """Read a loss scale's state as JSON, empty if it is not enabled; for `restore_scaler`."""
    return _plain(scaler, "scaler")


def restore_scaler(scaler: torch.amp.GradScaler, state: Any) -> None:
    """Put a loss scale's state back.

    Raises:
        CheckpointError: one of both runs scales and the other does not.
    """
    made = _of_class(restored({}, state), scaler, "scaler")["state"]
    if bool(made) != scaler.is_enabled():
        raise CheckpointError("the loss was scaled before, or is now, but not both: the precision differs")
    if made:
        scaler.load_state_dict(made)


def _plain(part: Any, name: str) -> Any:
    if not callable(getattr(part, "state_dict", None)):
        raise InvalidInput(f"{name} ({type(part).__name__}) has no state_dict(): a run with it cannot be resumed")
    tensors, state = flattened({"class": type(part).__name__, "state": part.state_dict()}, name)
    if tensors:
        raise InvalidInput(f"{next(iter(tensors))} is a tensor, which a {name} cannot keep")
    return state
