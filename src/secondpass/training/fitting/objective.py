"""Model inputs and labels to the loss that one training step lowers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from secondpass.errors import InvalidInput

logger = logging.getLogger(__name__)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Activation = Callable[[torch.Tensor], torch.Tensor]


class Objective:
    """The loss of a batch: forward, activation, `loss_fct(logits, labels)`.

    Logits are float32, [examples] for one label, else [examples, labels]; labels float32 or int64 [examples].

    Args:
        model: a transformers sequence-classification model.
        loss_fct: None takes `BCEWithLogitsLoss` for one label, else `CrossEntropyLoss`.
        activation_fct: applied to the logits [examples, labels] first.
        use_amp: mixed precision: float16 on CUDA, bfloat16 elsewhere.

    Raises:
        InvalidInput: `loss_fct` is a class.
    """

    def __init__(self, model: Any, loss_fct: Loss | None, activation_fct: Activation, use_amp: bool) -> None:
        if isinstance(loss_fct, type):
            raise InvalidInput(f"loss_fct is the class {loss_fct.__name__}: give an object of it")
        self._model = model
        self._num_labels: int = model.config.num_labels
        self._activation = activation_fct
        self._use_amp = use_amp
        if loss_fct is None:  # an empty module is false, and a loss all the same
            loss_fct = nn.BCEWithLogitsLoss() if self._num_labels == 1 else nn.CrossEntropyLoss()
        self._loss: Loss = loss_fct
        if isinstance(self._loss, nn.Module):
            self._loss.to(model.device)
            if any(weight.requires_grad for weight in self._loss.parameters()):
                logger.warning("loss_fct has parameters of its own: fit trains only the model's")

    def __call__(self, features: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss.

        Raises:
            InvalidInput: `loss_fct` gives no scalar tensor that depends on the weights.
        """
        device = self._model.device.type
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        with torch.autocast(device, dtype=dtype, enabled=self._use_amp):
            logits = self._model(**features, return_dict=True).logits
            logits = self._activation(logits.float())
            if self._num_labels == 1:
                logits = logits.reshape(-1)
            loss = self._loss(logits, labels)
        if not isinstance(loss, torch.Tensor):
            raise InvalidInput(f"loss_fct(logits, labels) gives {type(loss).__name__}, not a scalar tensor")
        if loss.numel() != 1:
            raise InvalidInput(f"loss_fct(logits, labels) gives a tensor of shape {tuple(loss.shape)}, not a scalar")
        if not loss.requires_grad:
            raise InvalidInput("loss_fct(logits, labels) gives a tensor that does not depend on the model's weights")
        return loss.reshape(())
