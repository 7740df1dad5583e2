"""One step: clipping, loss scaling, schedule."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.training.weights.optimisation import Optimisation, StretchedSchedule, make_schedule


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


WARMUP, TOTAL, PEAK = 4, 12, 0.5


def optimizer() -> torch.optim.SGD:
    """Make an optimizer of one weight."""
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def rates(name: str, warmup: int = WARMUP, total: int = TOTAL) -> list[float]:
    """Return the learning rate before each step of a run."""
    changed = optimizer()
    schedule = make_schedule(name, changed, warmup, total)
    seen = []
    for _ in range(total):
        seen.append(changed.param_groups[0]["lr"])
        changed.step()
        schedule.step()
    return seen


def warmed(step: int, after: float) -> float:
    """Rise to PEAK over the warm-up, then take the given share of it."""
    return PEAK * (step / WARMUP if step < WARMUP else after)


def progress(step: int) -> float:
    """Return the share of the way from warm-up to the end."""
    return (step - WARMUP) / (TOTAL - WARMUP)


FORMULAE = {
    "constantlr": lambda step: PEAK,
    "warmupconstant": lambda step: warmed(step, 1.0),
    "warmuplinear": lambda step: warmed(step, 1.0 - progress(step)),
    "warmupcosine": lambda step: warmed(step, 0.5 * (1.0 + math.cos(math.pi * progress(step)))),
    # one cycle: the seed does not pass a number of them
    "warmupcosinewithhardrestarts": lambda step: warmed(step, 0.5 * (1.0 + math.cos(math.pi * progress(step)))),
}


@pytest.mark.parametrize("name", FORMULAE)
def test_values(name):
    """Each schedule has the seed's learning rate before every step of a run."""
    assert rates(name) == pytest.approx([FORMULAE[name](step) for step in range(TOTAL)], abs=1e-12)


@pytest.mark.parametrize("name", ["WarmupLinear", "WARMUPLINEAR", "warmuplinear"])
def test_case_does_not_matter(name):
    """A name is understood in any case."""
    assert rates(name) == rates("warmuplinear")


def test_unknown_name():
    """An unknown name is refused with the seed's words, as a ValueError."""
    with pytest.raises(ValueError, match="Unknown scheduler warmupsquare") as raised:
        make_schedule("warmupsquare", optimizer(), 0, 1)
    assert isinstance(raised.value, InvalidInput)


def test_object_is_used_as_it_is():
    """An object with step() is returned untouched."""
    changed = optimizer()
    given = torch.optim.lr_scheduler.StepLR(changed, 1)
    assert make_schedule(given, changed, WARMUP, TOTAL) is given


@pytest.mark.parametrize("wrong", [None, 3])
def test_no_schedule(wrong):
    """What is neither a name nor has step() is refused before training."""
    with pytest.raises(InvalidInput, match="scheduler is"):
        make_schedule(wrong, optimizer(), WARMUP, TOTAL)


def test_object_of_another_optimizer_is_told(caplog):
    """A schedule object that cannot change this run's learning rate is used, and said to be idle."""
    make_schedule(torch.optim.lr_scheduler.StepLR(optimizer(), 1), optimizer(), WARMUP, TOTAL)
    assert "another optimizer" in caplog.text


def test_run_within_warm_up_is_told_and_not_changed(caplog):
    """A warm-up longer than the run keeps the seed's values, with one warning."""
    with caplog.at_level(logging.WARNING):
        seen = rates("WarmupLinear", warmup=10000, total=5)
    assert seen == pytest.approx([PEAK * step / 10000 for step in range(5)], abs=1e-15)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "never leaves warm-up" in caplog.text


@pytest.mark.parametrize(("name", "warmup"), [("constantlr", 10000), ("warmuplinear", 4)])
def test_no_warning_without_need(name, warmup, caplog):
    """A run that leaves warm-up, or has none, is not warned about."""
    rates(name, warmup=warmup, total=5)
    assert not caplog.records


@pytest.mark.parametrize("name", ["warmuplinear", "warmupcosine", "warmupconstant"])
def test_a_schedule_by_the_clock_is_that_by_steps(name):
    """At each share of the run the rate that the schedule by steps has there; steps alone do not move it."""
    changed = optimizer()
    schedule = StretchedSchedule(name, changed, WARMUP / TOTAL)
    for step, rate in enumerate(rates(name)):
        schedule.at(step / TOTAL)
        schedule.step()
        assert changed.param_groups[0]["lr"] == pytest.approx(rate, abs=1e-4 * PEAK)
    schedule.at(3.0)
    assert changed.param_groups[0]["lr"] == (PEAK if name == "warmupconstant" else pytest.approx(0.0, abs=1e-9))
