"""Optimizers, schedules and loss scales: a step after coming back has the same bits as one without."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.checkpoints.checkpoints import Checkpoint, Checkpoints
from secondpass.training.checkpoints.state import (
    optimizer_state,
    restore_optimizer,
    restore_scaler,
    restore_schedule,
    scaler_state,
    schedule_state,
)
from secondpass.training.weights.optimisation import SCHEDULES, make_schedule


class Wide(torch.optim.Optimizer):
    """Momentum in float32 whatever the weight's dtype, as optimizers for bfloat16 keep it."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                kept = self.state[weight].setdefault("momentum", torch.zeros(weight.shape))
                kept.mul_(0.9).add_(weight.grad.float())
                weight.data.sub_((group["lr"] * kept).to(weight.dtype))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "foreach": lambda groups: torch.optim.AdamW(groups, foreach=True),
    "fused": lambda groups: torch.optim.AdamW(groups, fused=True),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, amsgrad=True),
    "tensor rate": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.01), foreach=False),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
    "plain sgd": torch.optim.SGD,
    "nadam": torch.optim.NAdam,
    "adafactor": torch.optim.Adafactor,
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, momentum=0.5, centered=True),
    "wide": Wide,
}


def model_of(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A small model, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 1)).to(dtype)


def groups_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Its weights in two groups."""
    return [
        {"params": list(model[0].parameters()), "weight_decay": 0.1, "lr": 0.02},
        {"params": [*model[1].parameters(), *model[2].parameters()], "weight_decay": 0.0},
    ]


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take steps on data that depends on the step alone."""
    dtype = next(model.parameters()).dtype
    for step in steps:
        rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.zero_grad()
        model(rows).float().pow(2).mean().backward()
        optimizer.step()


def bits(tensors) -> dict[str, tuple[torch.dtype, list[int]]]:
    """Dtypes and bytes, to be compared."""
    return {name: (t.dtype, t.detach().reshape(-1).view(torch.uint8).tolist()) for name, t in tensors.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_goes_on_bit_by_bit(tmp_path, name, dtype):
    """Through the files of a checkpoint, into a new optimizer over a new model."""
    model = model_of(dtype)
    optimizer = OPTIMIZERS[name](groups_of(model))
    train(model, optimizer, range(3))
    tensors, state = optimizer_state(optimizer)
    Checkpoints(tmp_path, 1, {}).save(Checkpoint(3, {"model": model.state_dict(), "optimizer": tensors}, {"o": state}))
    found = Checkpoints(tmp_path, 1, {}).newest()
    assert found is not None
    twin = model_of(dtype)
    twin.load_state_dict(found.tensors["model"])
    other = OPTIMIZERS[name](groups_of(twin))
    restore_optimizer(other, found.tensors["optimizer"], found.state["o"])
    assert bits(optimizer_state(other)[0]) == bits(tensors)
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    train(model, optimizer, range(3, 6))
    train(twin, other, range(3, 6))
    assert bits(twin.state_dict()) == bits(model.state_dict())
    assert bits(optimizer_state(other)[0]) == bits(optimizer_state(optimizer)[0])


def test_before_the_first_step():
    """An optimizer that remembers nothing yet."""
    model = model_of()
    tensors, state = optimizer_state(torch.optim.AdamW(groups_of(model)))
    assert tensors == {}
    restore_optimizer(torch.optim.AdamW(groups_of(model)), tensors, state)


def test_frozen_weights_have_no_state():
    """Weights without gradients are passed by."""
    model = model_of()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(groups_of(model))
    train(model, optimizer, range(2))
    tensors, state = optimizer_state(optimizer)
    assert not any(".state.0." in name for name in tensors)
    other = torch.optim.AdamW(groups_of(model))
    restore_optimizer(other, tensors, state)
    assert bits(optimizer_state(other)[0]) == bits(tensors)


def test_what_is_restored_is_a_copy():
    """The checkpoint in memory stays as it was."""
    model = model_of()
    optimizer = torch.optim.AdamW(groups_of(model))
    train(model, optimizer, range(2))
    tensors, state = optimizer_state(optimizer)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    before = bits(kept)
    restore_optimizer(optimizer, kept, state)
    train(model, optimizer, range(2, 3))
    assert bits(kept) == before


def named(model: torch.nn.Module, *order: str) -> list[dict[str, Any]]:
    """Weights with their names, in an order."""
    weights = dict(model.named_parameters())
    return [{"params": [weights[name] for name in order], "param_names": list(order)}]


def test_another_order_of_weights_is_refused():
    """The state goes by position; where names are known they are compared."""
    model = model_of()
    optimizer = torch.optim.AdamW(named(model, "1.weight", "1.bias"))
    train(model, optimizer, range(1))
    tensors, state = optimizer_state(optimizer)
    with pytest.raises(CheckpointError, match=r"group 0 had 1\.weight \[5\] where it has 1\.bias \[5\]"):
        restore_optimizer(torch.optim.AdamW(named(model, "1.bias", "1.weight")), tensors, state)
    restore_optimizer(torch.optim.AdamW(named(model, "1.weight", "1.bias")), tensors, state)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda model: torch.optim.SGD(groups_of(model)), "the optimizer was AdamW, and is SGD"),
        (lambda model: torch.optim.AdamW(model.parameters()), "had 2 groups of parameters, and has 1"),
        (
            lambda model: torch.optim.AdamW([{"params": model[0].parameters()}, {"params": model[2].parameters()}]),
            "group 1 had 4 parameters, and has 2",
        ),
        (
            lambda model: torch.optim.AdamW(
                [{"params": model[2].parameters()}, {"params": list(model[:2].parameters())}]
            ),
            r"group 0 had a parameter \[5, 6\] where it has a parameter \[1, 5\]",
        ),
    ],
)
def test_another_optimizer_is_refused(other, words):
    """And stays as it was."""
    model = model_of()
    optimizer = torch.optim.AdamW(groups_of(model))
    train(model, optimizer, range(1))
    tensors, state = optimizer_state(optimizer)
    made = other(model)
    with pytest.raises(CheckpointError, match=words):
        restore_optimizer(made, tensors, state)
    assert not made.state


@pytest.mark.parametrize("state", [None, {}, [], {"state": {}}])
def test_no_state(state):
    """Something else is told so."""
    with pytest.raises(CheckpointError, match="no state of"):
        restore_optimizer(torch.optim.AdamW(groups_of(model_of())), {}, state)


def test_state_that_cannot_be_stored():
    """The message says where it is."""
    optimizer = torch.optim.AdamW(groups_of(model_of()))
    optimizer.param_groups[1]["hook"] = len
    with pytest.raises(InvalidInput, match=r"optimizer\.state\.param_groups\.1\.hook is builtin"):
        optimizer_state(optimizer)


TORCHS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, 0.5)], [3]
    ),
}
OURS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    name: (lambda optimizer, name=name: make_schedule(name, optimizer, 3, 9)) for name in SCHEDULES
}


def stepped(optimizer: torch.optim.Optimizer, schedule: Any, steps: int) -> list[list[float]]:
    """Learning rates of the next steps."""
    rates = []
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates


@pytest.mark.parametrize("name", [*OURS, *TORCHS])
def test_schedule_goes_on(name):
    """Every schedule by name, and torch's own, through JSON text."""
    make = (OURS | TORCHS)[name]
    optimizer = torch.optim.SGD(groups_of(model_of()), lr=0.01)
    schedule = make(optimizer)
    stepped(optimizer, schedule, 4)
    tensors, state = optimizer_state(optimizer)
    stored = json.loads(json.dumps(schedule_state(schedule)))
    twin = torch.optim.SGD(groups_of(model_of()), lr=0.01)
    other = make(twin)
    restore_optimizer(twin, tensors, state)
    restore_schedule(other, stored)
    twin.step()  # torch warns where a schedule is stepped before its optimizer
    assert stepped(twin, other, 4) == stepped(optimizer, schedule, 4)


def test_schedule_that_watches_a_score():
    """ReduceLROnPlateau remembers infinity and the best score."""
    optimizer = torch.optim.SGD(groups_of(model_of()), lr=0.01)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    schedule.step(1.0)
    stored = json.loads(json.dumps(schedule_state(schedule)))
    other = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    restore_schedule(other, stored)
    assert other.state_dict() == schedule.state_dict()


def test_refused_schedules():
    """Without a state, or of another class."""
    optimizer = torch.optim.SGD(groups_of(model_of()))
    with pytest.raises(
        InvalidInput, match=r"schedule \(object\) has no state_dict\(\): a run with it cannot be resumed"
    ):
        schedule_state(object())
    stored = schedule_state(lr_scheduler.StepLR(optimizer, 2))
    with pytest.raises(CheckpointError, match="the schedule was StepLR, and is ExponentialLR"):
        restore_schedule(lr_scheduler.ExponentialLR(optimizer, 0.5), stored)


def test_scaler_goes_on():
    """Its scale and how long it has been growing."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(4):
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    stored = json.loads(json.dumps(scaler_state(scaler)))
    other = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3)
    restore_scaler(other, stored)
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == 16.0


def test_scaler_that_is_off():
    """Comes back off, and is not mixed with one that is on."""
    off, on = torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu")
    restore_scaler(off, scaler_state(off))
    for one, other in ((off, on), (on, off)):
        with pytest.raises(CheckpointError, match="precision differs"):
            restore_scaler(other, scaler_state(one))
