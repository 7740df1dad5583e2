"""A moving average of the weights: less noise than the last step's, at no cost in scoring.

Polyak & Juditsky, "Acceleration of stochastic approximation by averaging" (SIAM J. Control Optim. 30, 1992); the
exponential form with a warm start is TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from secondpass.errors import CheckpointError, InvalidInput, TrainingError


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
            raise InvalidInput(
                f"states[{number}]: {other} is {found.get(other, 'absent')}, in states[0] {shapes.get(other, 'absent')}"
            )


class WeightAverages:
    """Averages of the weights that are trainable when it is made, in float32 on their device.

    Weights that are made trainable later are not averaged; buffers are not either.

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
        self._weights = {
            name: weight
            for name, weight in model.named_parameters()
            if weight.requires_grad and weight.is_floating_point()
        }
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
                raise CheckpointError(
                    f"the average of {name} is {given.dtype} {list(given.shape)} in the checkpoint, "
                    f"{average.dtype} {list(average.shape)} in the model"
                )
        for name, average in self._averages.items():
            average.copy_(tensors[name])


# ---- The weights of the best evaluation so far: a copy in memory, and the model in a folder if there is one.
logger = logging.getLogger(__name__)

# The seed's value of `best_score` before the first evaluation.
NO_SCORE = -9999999.0


class BestWeights:
    """Keeps what scored highest; the first of equal scores wins, and NaN never does.

    Args:
        model: whose weights are kept, on the CPU.
        keeps: False remembers the score only.
        save: called when a score has won and its weights are kept.
    """

    def __init__(self, model: nn.Module, keeps: bool, save: Callable[[], object] | None = None) -> None:
        self.score: float | None = None
        self._model = model
        self._keeps = keeps
        self._save = save
        self._weights: dict[str, Any] = {}

    def offer(self, score: float) -> bool:
        """Keep the model's weights if `score` is the best so far; tells if it is."""
        if math.isnan(score):
            logger.warning("the evaluator gave NaN: these weights do not count as the best")
            return False
        if self.score is not None and score <= self.score:
            return False
        self.score = score
        if self._keeps:
            self._weights = {
                name: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
                for name, value in self._model.state_dict().items()
            }
            if self._save is not None:
                self._save()
        return True

    @property
    def weights(self) -> dict[str, Any]:
        """The best weights, on the CPU; empty before the first score."""
        return self._weights

    def load(self, score: float | None, weights: Mapping[str, Any]) -> None:
        """Go on with what an interrupted run had found."""
        self.score = score
        self._weights = dict(weights)

    def restore(self) -> None:
        """Put the best weights back into the model, where it is; without any, leave it as it is."""
        if self._weights:
            self._model.load_state_dict(self._weights)
