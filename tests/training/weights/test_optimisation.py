"""One step: clipping, loss scaling, schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secondpass.training.weights.optimisation import Optimisation


def one_weight(scaler: torch.amp.GradScaler, max_grad_norm: float = 1.0) -> tuple[nn.Parameter, Optimisation]:
    """Make a weight of 1 under SGD with rate 1, halved at each step."""
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    return weight, Optimisation((weight,), optimizer, schedule, scaler, max_grad_norm)


def idle() -> torch.amp.GradScaler:
    """Make a scaler that does nothing."""
    return torch.amp.GradScaler("cpu", enabled=False)


@pytest.mark.parametrize(("limit", "left"), [(2.0, -1.0), (100.0, -7.0), (float("inf"), -7.0)])
def test_clipping(limit, left):
    """A gradient longer than the limit is shortened to it; the norm returned is that before."""
    weight, optimisation = one_weight(idle(), limit)
    norm = optimisation.backward(8 * weight.sum())
    optimisation.step()
    assert norm.item() == pytest.approx(8.0)
    assert weight.item() == pytest.approx(left, abs=1e-5)


def test_step_clears_gradients_and_moves_the_schedule():
    """After a step the gradient is gone and the learning rate is the next one."""
    weight, optimisation = one_weight(idle())
    optimisation.backward(weight.sum())
    optimisation.step()
    assert weight.grad is None
    assert optimisation.learning_rate == 0.5


def test_overflow_skips_weights_and_schedule():
    """With loss scaling, a gradient that overflows changes neither weights nor learning rate, only the scale."""
    weight, optimisation = one_weight(torch.amp.GradScaler("cpu", init_scale=2.0**20))
    assert optimisation.tolerates_overflow
    optimisation.backward(weight.sum() * torch.tensor(1e38))
    optimisation.step()
    assert weight.item() == 1.0
    assert optimisation.learning_rate == 1.0
    assert optimisation.scaler.get_scale() == 2.0**19


def test_growing_scale_does_not_cost_a_step_of_the_schedule():
    """The seed skipped the schedule whenever the scale changed; it moves when the scale grows."""
    weight, optimisation = one_weight(torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1))
    optimisation.backward(weight.sum())
    optimisation.step()
    assert optimisation.scaler.get_scale() == 16.0
    assert weight.item() == pytest.approx(0.0, abs=1e-5)
    assert optimisation.learning_rate == 0.5


@pytest.mark.parametrize(
    "scaler", [idle(), torch.amp.GradScaler("cpu", init_scale=1e-5)], ids=["without scaling", "scale at its end"]
)
def test_overflow_is_not_tolerated_for_ever(scaler):
    """Without loss scaling, or when no scale helps, a non-finite gradient is an error."""
    _, optimisation = one_weight(scaler)
    assert not optimisation.tolerates_overflow
