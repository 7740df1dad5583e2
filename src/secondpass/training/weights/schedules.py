"""The learning rate over a run, by the seed's names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from secondpass.errors import InvalidInput

logger = logging.getLogger(__name__)

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
