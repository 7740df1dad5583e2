"""The loop over epochs and steps, on a model that nobody else uses meanwhile, in one process or several.

batch -> gradients -> optimisation -> hooks
                      evaluator -> best_weights
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

import torch
from tqdm.autonotebook import tqdm, trange

from secondpass.errors import InvalidInput, MissingExtra, SecondPassError, TrainingError
from secondpass.forwards.contract import Padding
from secondpass.tokens import Tokens
from secondpass.training.weights.optimisation import BestWeights, Optimisation

logger = logging.getLogger(__name__)

STEPS_PER_LOG = 50


class Trainable(Protocol):
    """What training needs of a cross-encoder."""

    model: Any
    config: Any
    tokenizer: Any
    training_thread: int | None
    best_score: float | None

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    @property
    def padding(self) -> Padding:
        """What the model wants in the unused places of a batch."""

    def tokens(self, queries: Sequence[str], documents: Sequence[str]) -> list[Tokens]:
        """Model inputs of (queries[i], documents[i]), cut to the window."""

    def collate(self, texts: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """Turn [query, document] lists into padded model inputs on the device."""

    def save(self, path: str, **options: Any) -> None:
        """Write the model to a folder; `storage` is given where it is not None."""


def reading_of(encoder: Trainable) -> dict[str, Any]:
    """How an encoder reads pairs, as JSON: its window in tokens, and what is cut.

    "reads" are ids of an example in the template that the model brings along, with the instruction it is trained with.
    """
    own: Any = encoder
    cut = str(getattr(own, "truncation", None))
    made: dict[str, Any] = {"max_length": getattr(own, "window", None), "truncation": cut}
    if getattr(own, "template", None) is not None:
        made["reads"] = [int(number) for number in own.tokens(["query"], ["document"])[0].ids]
    return made


@dataclass(frozen=True, slots=True)
class Gradients:
    """What one batch left in the weights' `grad`.

    Attributes:
        loss: float32 [], the mean of the step.
        norm: float32 [], of the gradient before it was clipped.
        names: of what was learnt from, for messages; "" has no name.
        pairs: (query, document) pairs read.
        tokens: real tokens read.
        judged: False if there was nothing for the loss to judge: then there are no gradients, and no weight changes.
    """

    loss: torch.Tensor
    norm: torch.Tensor
    names: tuple[str, ...]
    pairs: int
    tokens: int
    judged: bool = True


Learner = Callable[[Any, str], Gradients]
"""Takes a batch, and where we are in words; leaves clipped gradients."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When the evaluator runs, who hears of its score, and what becomes of the best weights.

    `twice` evaluates at the end of an epoch also where the last step was evaluated, as the seed does.
    """

    evaluator: Any
    every: int
    callback: Callable[[float, int, int], object] | None
    output_path: str | None
    save_best_model: bool
    twice: bool = True


class Hooks:
    """What else happens in a run; this one does nothing, and `fit` takes it."""

    def on_step(self, run: TrainingRun, gradients: Gradients, rate: float) -> None:
        """The weights have changed."""

    def on_score(self, run: TrainingRun, score: float, best: bool) -> None:
        """An evaluation gave `score`."""

    def on_pause(self, run: TrainingRun, epoch_ends: bool) -> None:
        """A step, with its evaluation, or an epoch is over: `run` may be written down."""

    def stops(self, run: TrainingRun) -> bool:
        """Whether to end the run now."""
        return False

    def expected(self, run: TrainingRun) -> int | None:
        """How many steps the whole run will have, as far as it is known; None: a bar for each epoch."""
        return None

    def evaluated_weights(self) -> AbstractContextManager[object]:
        """Put the weights that count into the model meanwhile."""
        return nullcontext()


@dataclass(slots=True)
class TrainingRun:
    """One training run: where it stands, and what a step, an evaluation and the end of it do.

    `epoch` and `step` (of that epoch) are where it goes on; `total` counts steps since the start.
    """

    encoder: Trainable
    learner: Learner
    optimisation: Optimisation
    evaluation: Evaluation
    best: BestWeights
    hooks: Hooks = field(default_factory=Hooks)
    epoch: int = 0
    step: int = 0
    total: int = 0

    def train(self, batches: Callable[[int, int], Iterable[object]], epochs: int, show: bool) -> None:
        """Read `batches(epoch, first step)` for the epochs left, evaluate, and leave the weights that count."""
        total = self.hooks.expected(self)
        by_epoch = show and total is None
        bar = trange(self.epoch, epochs, initial=self.epoch, total=epochs, desc="Epoch", disable=not by_epoch)
        whole = tqdm(total=total, initial=self.total, desc="Training", unit="step", disable=not show or total is None)
        with whole:
            for self.epoch in bar:
                self._epoch(batches(self.epoch, self.step), by_epoch, whole)
                if self.hooks.stops(self):
                    break
                self.step = 0
        self._finish()

    def _epoch(self, batches: Iterable[object], show: bool, whole: Any) -> None:
        self.encoder.model.train()
        evaluated = False
        bar = tqdm(batches, initial=self.step, desc="Iteration", smoothing=0.05, disable=not show)
        for batch in bar:
            loss = self._train_step(batch)
            if not whole.disable:
                whole.total = self.hooks.expected(self)
                whole.set_postfix(loss=f"{float(loss):.4g}", refresh=False)
                whole.update()
            evaluated = self.evaluation.every > 0 and self.step % self.evaluation.every == 0
            if evaluated:
                self.evaluate(self.step)
            self.hooks.on_pause(self, epoch_ends=False)
            if self.hooks.stops(self):
                break
        if not self.step:
            raise TrainingError(f"epoch {self.epoch}: train_dataloader gave no batches")
        if self.evaluation.twice or not evaluated:
            self.evaluate(-1)
        self.hooks.on_pause(self, epoch_ends=not self.hooks.stops(self))

    def _train_step(self, batch: object) -> torch.Tensor:
        gradients = self.learner(batch, f"epoch {self.epoch}, step {self.step + 1}")
        self._refuse_non_finite(gradients)
        rate = self.optimisation.learning_rate
        if gradients.judged:
            self.optimisation.step()
        self.step += 1
        self.total += 1
        if self.step % STEPS_PER_LOG == 0 and logger.isEnabledFor(logging.DEBUG):
            loss = gradients.loss.item()
            logger.debug("epoch %d, step %d: loss %.6g, learning rate %.3g", self.epoch, self.step, loss, rate)
        self.hooks.on_step(self, gradients, rate)
        return gradients.loss

    def _refuse_non_finite(self, gradients: Gradients) -> None:
        # one look at the device in the ordinary case
        loss, norm = gradients.loss.detach(), gradients.norm
        if bool(torch.isfinite(loss + norm)):
            return
        finite_loss = bool(torch.isfinite(loss))
        if finite_loss and self.optimisation.tolerates_overflow:
            return
        what = f"the gradient's norm is {norm.item()}" if finite_loss else f"the loss is {loss.item()}"
        named = ", ".join(repr(name) for name in gradients.names if name)
        examples = f" (examples {named})" if named else ""
        raise TrainingError(f"epoch {self.epoch}, step {self.step + 1}: {what}{examples}")

    def evaluate(self, steps: int) -> None:
        """Measure the weights that count; `steps` is what the evaluator hears: of the epoch, -1 at its end."""
        plan, encoder = self.evaluation, self.encoder
        if plan.evaluator is None:
            return
        with self.hooks.evaluated_weights():
            result = plan.evaluator(encoder, output_path=plan.output_path, epoch=self.epoch, steps=steps)
            score = _score(result, plan.evaluator)
            if plan.callback is not None:
                plan.callback(score, self.epoch, steps)
            best = self.best.offer(score)
        if best:
            encoder.best_score = score
        self.hooks.on_score(self, score, best)
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


_CLAIMING = threading.Lock()


@contextmanager
def claimed(encoder: Any) -> Iterator[None]:
    """Make other threads' calls fail instead of meeting dropout; leave the model ready to score.

    Raises:
        SecondPassError: `encoder` is closed, or being trained already.
        InvalidInput: its tokenizer was changed, and would be saved with weights that have not learned from it.
    """
    if encoder.model is None:
        raise SecondPassError("this CrossEncoder is closed: load the model again")
    if encoder.tokenizer_changed:
        raise InvalidInput(
            "tokenizer was changed since the model was loaded, and texts are still read as before: save the model, "
            "load what was saved, and train that"
        )
    with _CLAIMING:
        if encoder.training_thread is not None:
            raise SecondPassError("this CrossEncoder is being trained already")
        encoder.training_thread = threading.get_ident()
    if getattr(encoder, "calibration", None) is not None:
        encoder.forget_calibration()
    model = encoder.model
    if getattr(model.config, "pad_token_id", None) is None:
        # from now on what is scored is told by it, as by every config that is saved
        model.config.pad_token_id = encoder.padding.token_id
    try:
        yield
    finally:
        model.zero_grad()
        model.eval()
        encoder.training_thread = None


# ---- Several processes, one run: torchrun or `accelerate launch` start them, accelerate joins them.
#
# Each process reads its share of a step's groups; gradients are summed, so the step is that of one process.
# How long the others wait for the first, which measures and saves alone: torch's 10 minutes with NCCL and 30 with gloo
# end runs whose held-out data are large. That a process has died is the launcher's to notice.
WAIT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Processes:
    """One process among `count`; alone, everything is a no-op."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process evaluates, saves and prints."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count == 1 or not tensors:
            return
        from accelerate.utils import reduce

        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        total: torch.Tensor = reduce(flat, "sum")
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, part in zip(tensors, torch.split(total, sizes), strict=True):
            tensor.copy_(part.view_as(tensor))

    def from_first(self, value: Any) -> Any:
        """Give every process the first one's value."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gathered(self, value: Any) -> list[Any]:
        """Give every process the values of all, by rank."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))


ALONE = Processes()


def joined(device: torch.device) -> Processes:
    """Join the processes that a launcher started (WORLD_SIZE above 1), for a model on `device`; once joined they stay.

    They wait `WAIT` for each other, or as long as the caller said who initialised torch's process group.

    Raises:
        MissingExtra: accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        # accelerate names a place to meet where it was told of several processes, and on CPUs starts one all the same
        if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_PORT" in os.environ:
            _say_alone()
        return ALONE
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingExtra('training in several processes needs accelerate: pip install "secondpass[train]"') from None
    state = PartialState(cpu=device.type == "cpu", timeout=WAIT)
    return Processes(state.process_index, state.num_processes)


@cache
def _say_alone() -> None:
    logger.warning("this process trains alone: on CPUs `accelerate launch` starts one; torchrun starts several")
