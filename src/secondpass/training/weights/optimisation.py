"""One loss to one change of the weights: gradients, clipping, optimizer, learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Optimisation:
    """What changes `weights`; `scaler` does nothing unless it is enabled (float16 on CUDA)."""

    weights: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: torch.amp.GradScaler
    max_grad_norm: float

    @property
    def learning_rate(self) -> float:
        """That of the first group, for the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def tolerates_overflow(self) -> bool:
        """If a non-finite gradient is only a loss scale too large yet; 1e-4 is fairseq's smallest scale."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1e-4

    def backward(self, loss: torch.Tensor) -> torch.Tensor:
        """Make gradients, clip their norm to `max_grad_norm`, and return what it was: float32 []."""
        torch.autograd.backward(self.scaler.scale(loss))
        return self.clip()

    def clip(self) -> torch.Tensor:
        """Clip the gradients that are there to `max_grad_norm`, and return what their norm was: float32 []."""
        self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(self.weights, self.max_grad_norm)

    def step(self) -> None:
        """Change the weights, then the learning rate, unless the scaler left the weights as they were."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        # the scale falls when a step was skipped, and grows now and then after steps that were not
        if self.scaler.get_scale() >= scale:
            self.schedule.step()
