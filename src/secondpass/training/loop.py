"""The loop over epochs and steps: one object holds the run's state.

batch -> labelled -> objective -> optimisation
                     evaluator -> best_weights
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from tqdm.autonotebook import tqdm, trange

from secondpass.errors import InvalidInput, TrainingError
from secondpass.training.best_weights import BestWeights
from secondpass.training.labelled import LabelRule, labelled
from secondpass.training.objective import Objective
from secondpass.training.optimisation import Optimisation

logger = logging.getLogger(__name__)

STEPS_PER_LOG = 50


class Trainable(Protocol):
    """What `fit` needs of a cross-encoder."""

    model: Any
    config: Any
    training_thread: int | None
    best_score: float | None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    def collate(self, texts: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """Turn [query, document] lists into padded model inputs on the device."""
        ...

    def save(self, path: str) -> None:
        """Write the model to a folder."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When the evaluator runs, who hears of its score, and what becomes of the best weights."""

    evaluator: Any
    every: int
    callback: Callable[[float, int, int], object] | None
    output_path: str | None
    save_best_model: bool


@dataclass(slots=True)
class Run:
    """One training run: where it stands, and what a step, an evaluation and the end of it do."""

    encoder: Trainable
    rule: LabelRule
    objective: Objective
    optimisation: Optimisation
    evaluation: Evaluation
    best: BestWeights
    epoch: int = 0
    step: int = 0

    def train(self, batches: Iterable[object], epochs: int, show: bool) -> None:
        """Go through `batches` `epochs` times, evaluate, and leave the weights that count."""
        for self.epoch in trange(epochs, desc="Epoch", disable=not show):
            self.step = 0
            self.encoder.model.train()
            for batch in tqdm(batches, desc="Iteration", smoothing=0.05, disable=not show):
                self._train_step(batch)
                if self.evaluation.every > 0 and self.step % self.evaluation.every == 0:
                    self._evaluate(self.step)
            if not self.step:
                raise TrainingError(f"epoch {self.epoch}: train_dataloader gave no batches")
            self._evaluate(-1)
        self._finish()

    def _train_step(self, batch: object) -> None:
        examples = labelled(batch, self.rule, f"epoch {self.epoch}, step {self.step + 1}")
        features = self.encoder.collate(examples.texts)
        loss = self.objective(features, examples.labels.to(self.encoder.device))
        norm = self.optimisation.backward(loss)
        self._refuse_non_finite(loss, norm, examples.guids)
        rate = self.optimisation.learning_rate
        self.optimisation.step()
        self.step += 1
        if self.step % STEPS_PER_LOG == 0 and logger.isEnabledFor(logging.DEBUG):
            logger.debug("epoch %d, step %d: loss %.6g, learning rate %.3g", self.epoch, self.step, loss.item(), rate)

    def _refuse_non_finite(self, loss: torch.Tensor, norm: torch.Tensor, guids: Sequence[str]) -> None:
        # one look at the device in the ordinary case
        if bool(torch.isfinite(loss.detach() + norm)):
            return
        if not bool(torch.isfinite(loss)):
            what = f"the loss is {loss.item()}"
        elif self.optimisation.tolerates_overflow:
            return
        else:
            what = f"the gradient's norm is {norm.item()}"
        named = ", ".join(repr(guid) for guid in guids if guid)
        raise TrainingError(
            f"epoch {self.epoch}, step {self.step + 1}: {what}" + (f" (examples {named})" if named else "")
        )

    def _evaluate(self, steps: int) -> None:
        plan, encoder = self.evaluation, self.encoder
        if plan.evaluator is None:
            return
        result = plan.evaluator(encoder, output_path=plan.output_path, epoch=self.epoch, steps=steps)
        score = _score(result, plan.evaluator)
        if plan.callback is not None:
            plan.callback(score, self.epoch, steps)
        if self.best.offer(score):
            encoder.best_score = score
        encoder.model.zero_grad()
        encoder.model.train()

    def _finish(self) -> None:
        """Let the best weights count, or the last ones where nothing was evaluated."""
        plan = self.evaluation
        if plan.evaluator is not None:
            if not plan.save_best_model:
                return
            if self.best.score is not None:
                self.best.restore()
                return
            logger.warning("no evaluation gave a score: the last weights count as the best")
        if plan.output_path is not None:
            self.encoder.save(plan.output_path)


def _score(result: Any, evaluator: Any) -> float:
    """Read a float, or that entry of a dict (sentence-transformers 4 and later) which the evaluator says counts."""
    if isinstance(result, Mapping):
        result = result.get(getattr(evaluator, "primary_metric", None))
    try:
        return float(result)
    except (TypeError, ValueError):
        raise InvalidInput(f"evaluator gives {type(result).__name__}, not a float") from None
