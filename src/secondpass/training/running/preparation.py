"""A model made ready to learn, and put back as it was: dropout, frozen layers, low-rank additions, recomputation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.training.settings import TrainingSettings

# Attributes in which attention modules of transformers keep their dropout as a number.
NUMBERS = ("attention_dropout", "attn_dropout", "dropout_prob", "dropout")


def dropout_for(settings: TrainingSettings, device: torch.device) -> float | None:
    """The dropout to train with; None keeps the model's own."""
    if settings.dropout is None and device.type == "cpu":
        return 0.0
    return settings.dropout


@contextmanager
def dropout_set_to(model: nn.Module, share: float | None) -> Iterator[None]:
    """Give every dropout of `model` this share, and afterwards its own again; None changes nothing."""
    before: list[tuple[Any, str, float]] = []
    if share is not None:
        for module in model.modules():
            names = ("p",) if isinstance(module, nn.Dropout) else NUMBERS
            found = [name for name in names if isinstance(getattr(module, name, None), float)]
            before += [(module, name, getattr(module, name)) for name in found]
        for module, name, _ in before:
            setattr(module, name, share)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def recomputed_activations(model: Any, wanted: bool) -> Iterator[None]:
    """Let the model forget activations and compute them again for the gradient (Chen et al. 2016).

    Raises:
        InvalidInput: the model cannot.
    """
    if not wanted:
        yield
        return
    # transformers has renamed the methods; the old ones warn, and older versions lack the new ones
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    try:
        enable = getattr(model, f"{kind}_checkpointing_enable")
        enable(**{f"{kind}_checkpointing_kwargs": {"use_reentrant": False}})
    except (ValueError, AttributeError) as error:
        raise InvalidInput(f"gradient_checkpointing: {type(model).__name__} cannot: {error}") from error
    try:
        yield
    finally:
        getattr(model, f"{kind}_checkpointing_disable")()


def autocast_for(precision: torch.dtype, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Make contexts in which products are computed in `precision`."""
    if precision == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=precision)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a run, and give the caller's random numbers back afterwards."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
