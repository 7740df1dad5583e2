"""One loss to one change of the weights: gradients, clipping, optimizer, learning rate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secondpass.errors import InvalidInput


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


# ---- The learning rate over a run, by the seed's names.
logger = logging.getLogger(__name__)

# Places in a schedule that is stretched over time.
TICKS = 100_000

SCHEDULES = ("constantlr", "warmupconstant", "warmuplinear", "warmupcosine", "warmupcosinewithhardrestarts")


def make_schedule(scheduler: Any, optimizer: Optimizer, warmup_steps: int, total_steps: int) -> Any:
    """Return the schedule of that name (in any case) for `optimizer`; an object with `step()` as it is.

    Warm-up rises linearly from 0 over `warmup_steps`; then "constant" stays, "linear" falls to 0 at
    `total_steps`, "cosine" falls there in half a wave, and "constantlr" has no warm-up. The formulae are
    transformers'.

    Raises:
        InvalidInput: an unknown name, or an object without `step()`.
    """
    if not isinstance(scheduler, str):
        return _given(scheduler, optimizer)
    name = scheduler.lower()
    if name not in SCHEDULES:
        raise InvalidInput(f"Unknown scheduler {scheduler}: it is none of {', '.join(SCHEDULES)}")
    if name != "constantlr" and warmup_steps >= total_steps:
        reached = max(0, total_steps - 1) / max(1, warmup_steps)
        logger.warning(
            "warmup_steps=%d is no less than the run's %d steps: it never leaves warm-up, and the learning rate "
            "reaches %.2g of the one asked for",
            warmup_steps,
            total_steps,
            reached,
        )
    return _maker(name, warmup_steps, total_steps)(optimizer)


class StretchedSchedule:
    """A schedule by name over whatever share of a run is done: for a run that ends by the clock.

    Args:
        scheduler: a name, see `make_schedule`.
        optimizer: whose learning rates it sets, those of the beginning at once.
        warmup: share of the run in which the learning rate rises.
    """

    def __init__(self, scheduler: str, optimizer: Optimizer, warmup: float) -> None:
        made = make_schedule(scheduler, optimizer, round(warmup * TICKS), TICKS)
        self._optimizer = optimizer
        self._factor: Callable[[int], float] = made.lr_lambdas[0]
        self._rates: list[float] = list(made.base_lrs)
        self.at(0.0)

    def at(self, done: float) -> None:
        """Set the learning rates for a run of which this share (0 to 1) is done."""
        factor = float(self._factor(round(min(1.0, done) * TICKS)))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def step(self) -> None:
        """Steps do not move it: see `at`."""

    def state_dict(self) -> dict[str, object]:
        """Nothing: where the run is, the run knows, and the learning rates are the optimizer's."""
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Nothing."""


def _given(scheduler: Any, optimizer: Optimizer) -> Any:
    if not callable(getattr(scheduler, "step", None)):
        raise InvalidInput(f"scheduler is {type(scheduler).__name__}, neither a name nor an object with step()")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        logger.warning("the scheduler belongs to another optimizer: it does not change this run's learning rate")
    return scheduler


def _maker(name: str, warmup_steps: int, total_steps: int) -> Callable[[Optimizer], Any]:
    # transformers.optimization takes a while to import, and only training needs it
    from transformers import optimization

    with_warmup: dict[str, Callable[[Optimizer, int, int], Any]] = {
        "warmuplinear": optimization.get_linear_schedule_with_warmup,
        "warmupcosine": optimization.get_cosine_schedule_with_warmup,
        "warmupcosinewithhardrestarts": optimization.get_cosine_with_hard_restarts_schedule_with_warmup,
    }
    if name == "constantlr":
        return optimization.get_constant_schedule
    if name == "warmupconstant":
        return lambda optimizer: optimization.get_constant_schedule_with_warmup(optimizer, warmup_steps)
    return lambda optimizer: with_warmup[name](optimizer, warmup_steps, total_steps)
