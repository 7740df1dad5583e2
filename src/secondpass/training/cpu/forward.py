"""The forward pass of training that is fastest where the model is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from secondpass.padded import Padding, pad
from secondpass.tokens import Tokens
from secondpass.training.cpu.masks import DropoutSource
from secondpass.training.cpu.packed import PackedForward, packable

TrainingForward = Callable[[Sequence[Tokens]], torch.Tensor]
"""Model inputs to logits float32 [pairs, labels] on the model's device, with gradients."""


def training_forward(
    model: Any, input_names: Sequence[str], padding: Padding, source: DropoutSource
) -> TrainingForward:
    """Choose how `model` computes logits while it learns.

    Args:
        model: a transformers sequence-classification model.
        input_names: of its tokenizer.
        padding: what it wants in unused places.
        source: of dropout in attention; give the same one to `dropout.cheap_dropout`.
    """
    if packable(model):
        return PackedForward(model, input_names, source)
    return PaddedForward(model, input_names, padding)


class PaddedForward:
    """transformers' own forward over one rectangle."""

    def __init__(self, model: Any, input_names: Sequence[str], padding: Padding) -> None:
        self._model = model
        self._input_names = tuple(input_names)
        self._padding = padding

    def __call__(self, tokens: Sequence[Tokens]) -> torch.Tensor:
        """-> logits float32 [pairs, labels]."""
        batch = pad(tokens, self._padding)
        logits: torch.Tensor = self._model(
            **batch.named(self._input_names, self._model.device), return_dict=True
        ).logits
        return logits.float()


def has_amx_bf16() -> bool:
    """Whether this CPU has a matrix unit for bfloat16 (Intel AMX): elsewhere float32 is as fast or faster."""
    # as `torch.backends.mkldnn` asks; torch has no public name for it
    known: Callable[[], bool] | None = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return known is not None and bool(known())
