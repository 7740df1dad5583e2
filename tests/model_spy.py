"""Hooks on a real model: what it is given to read, and failures at the moment a test wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from secondpass import CrossEncoder

Before = Callable[[dict[str, torch.Tensor]], object]


@contextmanager
def before_forward(encoder: CrossEncoder, action: Before) -> Iterator[None]:
    """Call `action` with the model's named inputs ahead of each forward; it may raise."""

    def hook(module: object, args: object, kwargs: dict[str, Any]) -> None:
        action(kwargs)

    handle = encoder.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def inputs_read(encoder: CrossEncoder) -> Iterator[list[list[int]]]:
    """Collect the token ids of every input the model reads, padding left out, in the model's order."""
    read: list[list[int]] = []

    def note(inputs: dict[str, torch.Tensor]) -> None:
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            read.append(ids[mask.bool()].tolist())

    with before_forward(encoder, note):
        yield read


def not_reached(inputs: dict[str, torch.Tensor]) -> None:
    """Fail the test: the model should not have been asked."""
    raise AssertionError("the model was asked")
