"""The weights of the best evaluation so far: a copy in memory, and the model in a folder if there is one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

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
