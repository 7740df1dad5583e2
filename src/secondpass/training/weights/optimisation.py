"""Gradients to weights, and which weights count: one step, the learning rate, averages, the best so far."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secondpass.errors import CheckpointError, InvalidInput, TrainingError
from secondpass.training.weights.layers import is_read

logger = logging.getLogger(__name__)

# The seed's value of `best_score` before the first evaluation.
NO_SCORE = -9999999.0
# Places in a schedule that is stretched over time.
TICKS = 100_000
SCHEDULES = ("constantlr", "warmupconstant", "warmuplinear", "warmupcosine", "warmupcosinewithhardrestarts")


@dataclass(frozen=True, slots=True)
class Optimisation:
    """What changes `weights`; `scaler` does nothing unless it is enabled (float16 on CUDA)."""

    weights: tuple[nn.Parameter, ...]
    optimizer: Optimizer
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


def trainable_weights(model: Any) -> tuple[nn.Parameter, ...]:
    """All weights, for clipping; frozen ones have no gradient.

    Raises:
        InvalidInput: all are frozen, or they are too coarse to be trained.
    """
    weights = tuple(model.parameters())
    if not any(weight.requires_grad for weight in weights):
        raise InvalidInput("every parameter of the model is frozen: there is nothing to train")
    types = {weight.dtype for weight in weights if weight.requires_grad}
    if torch.float16 in types:
        raise InvalidInput("the weights are float16, too coarse to train: load them in float32, with use_amp=True")
    if torch.bfloat16 in types:
        logger.warning("the weights are bfloat16: small steps are rounded away; load them in float32, with use_amp")
    return weights


def changing(model: nn.Module, frozen: bool = False) -> dict[str, Any]:
    """What training may change, by name: trainable weights, one that modules share once, and buffers; not copies.

    With `frozen` the weights that are not trainable too, for a run that may unfreeze some of them on the way.
    """
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    own = {name for name, weight in model.named_parameters() if frozen or weight.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name in own or name not in every}


def put_back(model: nn.Module, weights: Mapping[str, Any], frozen: bool = False) -> None:
    """Put what `changing` gave, or a whole model's weights, back into the model, where it is.

    Raises:
        CheckpointError: weights are missing, or there is no place for them; the model may have taken others.
    """
    missing, unknown = model.load_state_dict(weights, strict=False)
    wrong = sorted({*unknown, *(changing(model, frozen).keys() & {*missing})})
    if wrong:
        raise CheckpointError(f"{len(wrong)} weights are not those of the model: {wrong[0]}")


def fingerprint_of_weights(model: torch.nn.Module) -> str:
    """SHA-256 of all weights and buffers that scores are made of, with their names."""
    digest = hashlib.sha256()
    read = {name: tensor for name, tensor in changing(model, frozen=True).items() if is_read(model, name)}
    for name, tensor in read.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def make_schedule(scheduler: Any, optimizer: Optimizer, warmup_steps: int, total_steps: int) -> Any:
    """Return the schedule of that name (in any case) for `optimizer`; an object with `step()` as it is.

    Warm-up rises linearly from 0 over `warmup_steps`; then "constant" stays, "linear" falls to 0 at
    `total_steps`, "cosine" falls there in half a wave, and "constantlr" has no warm-up. The formulae are
    transformers'.

    Raises:
        InvalidInput: an unknown name, or an object without `step()`.
    """
    if not isinstance(scheduler, str):
        if not callable(getattr(scheduler, "step", None)):
            raise InvalidInput(f"scheduler is {type(scheduler).__name__}, neither a name nor an object with step()")
        if getattr(scheduler, "optimizer", optimizer) is not optimizer:
            logger.warning("the scheduler belongs to another optimizer: it does not change this run's learning rate")
        return scheduler
    name = scheduler.lower()
    if name not in SCHEDULES:
        raise InvalidInput(f"Unknown scheduler {scheduler}: it is none of {', '.join(SCHEDULES)}")
    if name != "constantlr" and warmup_steps >= total_steps:
        reached = max(0, total_steps - 1) / max(1, warmup_steps)
        message = (
            "warmup_steps=%d is no less than the run's %d steps: it never leaves warm-up, and the learning rate "
            "reaches %.2g of the one asked for"
        )
        logger.warning(message, warmup_steps, total_steps, reached)
    # transformers.optimization takes a while to import, and only training needs it
    from transformers import optimization

    if name == "constantlr":
        return optimization.get_constant_schedule(optimizer)
    if name == "warmupconstant":
        return optimization.get_constant_schedule_with_warmup(optimizer, warmup_steps)
    with_warmup: dict[str, Callable[[Optimizer, int, int], Any]] = {
        "warmuplinear": optimization.get_linear_schedule_with_warmup,
        "warmupcosine": optimization.get_cosine_schedule_with_warmup,
        "warmupcosinewithhardrestarts": optimization.get_cosine_with_hard_restarts_schedule_with_warmup,
    }
    return with_warmup[name](optimizer, warmup_steps, total_steps)


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


class WeightAverages:
    """Averages of the weights that are trainable when it is made, in float32 on their device.

    Less noise than the last step's, at no cost in scoring: Polyak & Juditsky, "Acceleration of stochastic approximation
    by averaging" (SIAM J. Control Optim. 30, 1992); the exponential form with a warm start is TensorFlow's
    ExponentialMovingAverage. Weights that are made trainable later are not averaged; buffers are not either.

    Args:
        model: the one that is trained; the averages begin as its weights.
        decay: the share of the old average in the new one, above 0 and below 1. In step t it is at most
            (1 + t) / (10 + t), so that the first weights, which are far off, are forgotten.

    Raises:
        InvalidInput: another decay, or no trainable floating-point weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay < 1:
            raise InvalidInput(f"decay={decay!r} is not a number between 0 and 1")
        self.decay = float(decay)
        named = model.named_parameters()
        self._weights = {name: weight for name, weight in named if weight.requires_grad and weight.is_floating_point()}
        if not self._weights:
            raise InvalidInput("the model has no trainable weights: there is nothing to average")
        self._averages = {
            name: weight.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            for name, weight in self._weights.items()
        }
        self._swapped = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Let the weights after `step` steps (the first is 1) into the averages.

        Raises:
            InvalidInput: `step` is below 1.
            TrainingError: the model holds the averages itself at the moment.
        """
        if step < 1:
            raise InvalidInput(f"step={step!r} is below 1")
        self._refuse_swapped()
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        for name, weight in self._weights.items():
            self._averages[name].lerp_(weight.detach().to(torch.float32), share)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the model hold the averages, in its own dtype, inside a block; after it the same bits as before.

        Raises:
            TrainingError: it holds them already.
        """
        self._refuse_swapped()
        self._swapped = True
        before = {name: weight.detach().clone() for name, weight in self._weights.items()}
        try:
            self._fill(self._averages)
            yield
        finally:
            self._fill(before)
            self._swapped = False

    def publish(self) -> None:
        """Let the model have the averages, in its own dtype, for good.

        Raises:
            TrainingError: it holds them already, inside `swapped`.
        """
        self._refuse_swapped()
        self._fill(self._averages)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])

    def _refuse_swapped(self) -> None:
        if self._swapped:
            raise TrainingError("the model holds the averages at the moment, not its own weights")

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by the weights' names, float32; not copies."""
        return dict(self._averages)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy what `tensors()` gave into the averages.

        Raises:
            CheckpointError: other names, shapes or dtypes than this model's; nothing is changed.
        """
        for name in self._averages.keys() ^ tensors.keys():
            place = "the checkpoint" if name in tensors else "the model"
            raise CheckpointError(f"only {place} has an average of {name}")
        for name, average in self._averages.items():
            given = tensors[name]
            if given.shape != average.shape or given.dtype != average.dtype:
                there, here = (f"{tensor.dtype} {list(tensor.shape)}" for tensor in (given, average))
                raise CheckpointError(f"the average of {name} is {there} in the checkpoint, {here} in the model")
        for name, average in self._averages.items():
            average.copy_(tensors[name])


class BestWeights:
    """Keeps what scored highest; the first of equal scores wins, and NaN never does.

    Args:
        model: whose weights are kept, on the CPU.
        keeps: False remembers the score only.
        save: called when a score has won and its weights are kept.
        frozen: keep the weights that are not trainable too, see `changing`.

    Attributes:
        score: the best so far; None before the first.
        weights: that gave it, on the CPU; empty before the first.
    """

    def __init__(
        self, model: nn.Module, keeps: bool, save: Callable[[], object] | None = None, frozen: bool = True
    ) -> None:
        self.score: float | None = None
        self._model = model
        self._frozen = frozen
        self._keeps = keeps
        self._save = save
        self.weights: dict[str, Any] = {}

    def offer(self, score: float) -> bool:
        """Keep the model's weights if `score` is the best so far; tells if it is."""
        if math.isnan(score):
            logger.warning("the evaluator gave NaN: these weights do not count as the best")
            return False
        if self.score is not None and score <= self.score:
            return False
        self.score = score
        if self._keeps:
            self.weights = {
                name: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
                for name, value in changing(self._model, self._frozen).items()
            }
            if self._save is not None:
                self._save()
        return True

    def load(self, score: float | None, weights: Mapping[str, Any]) -> None:
        """Go on with what an interrupted run had found."""
        self.score = score
        self.weights = dict(weights)

    def restore(self) -> None:
        """Put the best weights back into the model, where it is; without any, leave it as it is."""
        if self.weights:
            put_back(self._model, self.weights, self._frozen)


def mean_weights(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of the weights of several runs from one start, float32: often better than any of them.

    Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time", arXiv:2203.05482. What is no floating-point number is taken from the first.

    Raises:
        InvalidInput: there are none, or they differ in names or shapes.
    """
    _refuse_other_names(states)
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0)
        if first.is_floating_point()
        else first.clone()
        for name, first in states[0].items()
    }


def with_changes(
    start: Mapping[str, torch.Tensor],
    changes: Sequence[tuple[Mapping[str, torch.Tensor], float]],
    names: Container[str],
) -> dict[str, torch.Tensor]:
    """`start` plus shares of what trainings from there have changed, in the weights of `names` alone.

    Sums and differences of changes: Ilharco et al. 2023, "Editing models with task arithmetic", arXiv:2212.04089.

    Args:
        start: weights by name; not changed.
        changes: weights after a training, and how much of the change is taken; below 0 it is taken away.
        names: of the weights to change, of which only floating-point ones are.

    Raises:
        InvalidInput: the weights differ in names or shapes.
    """
    _refuse_other_names([start, *(trained for trained, _ in changes)])
    made = {}
    for name, weight in start.items():
        made[name] = weight.clone()
        if name in names and weight.is_floating_point():
            for trained, share in changes:
                made[name] += share * (trained[name] - weight)
    return made


def _refuse_other_names(states: Sequence[Mapping[str, torch.Tensor]]) -> None:
    if not states:
        raise InvalidInput("states is empty: there is nothing to average")
    shapes = {name: tuple(weight.shape) for name, weight in states[0].items()}
    for number, state in enumerate(states[1:], start=1):
        found = {name: tuple(weight.shape) for name, weight in state.items()}
        other = next((name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)), None)
        if other is not None:
            there, first = (known.get(other, "absent") for known in (found, shapes))
            raise InvalidInput(f"states[{number}]: {other} is {there}, in states[0] {first}")
