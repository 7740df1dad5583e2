"""What a long run does beside learning: log, moving average, patience, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from secondpass.training.cpu.memory import give_back_memory
from secondpass.training.running.checkpointing import RunStorage
from secondpass.training.running.loop import Gradients, Hooks, Run
from secondpass.training.running.plan import Plan
from secondpass.training.running.processes import Processes
from secondpass.training.running.step_log import StepLog
from secondpass.training.settings import TrainingSettings
from secondpass.training.weights.averages import WeightAverages
from secondpass.training.weights.schedules import StretchedSchedule

# Batches of many shapes tear holes into the heap: the price of keeping freed memory.
STEPS_PER_TRIM = 25


@dataclass(slots=True)
class RunWatch(Hooks):
    """The hooks of `trainer.train`.

    Attributes:
        settings: when to log, save and stop.
        plan: how many steps there are.
        processes: only the first one writes.
        log: gets a line every `log_every` steps and each evaluation.
        averages: the moving average of the weights, if there is one.
        storage: checkpoints, if there is a folder.
        before: seconds of the run before it was resumed.
        scores: (step, score) of each evaluation.
        misses: evaluations since the best one.
        pairs: read so far.
        tokens: read so far.
        epochs: read so far, in part counts.
        finished: the whole run is over, and its last checkpoint says so.
    """

    settings: TrainingSettings
    plan: Plan
    processes: Processes
    log: StepLog
    averages: WeightAverages | None
    storage: RunStorage | None
    before: float = 0.0
    scores: list[tuple[int, float]] = field(default_factory=list)
    misses: int = 0
    pairs: int = 0
    tokens: int = 0
    epochs: float = 0.0
    finished: bool = False
    _began: float = field(default_factory=time.monotonic)
    _read: int = 0
    _saved: int = -1

    @property
    def seconds(self) -> float:
        """Time of the whole run, all its parts."""
        return self.before + time.monotonic() - self._began

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "seconds": self.seconds,
            "scores": self.scores,
            "misses": self.misses,
            "pairs": self.pairs,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "finished": self.finished,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.before = state["seconds"]
        self.scores = [(int(step), float(score)) for step, score in state["scores"]]
        self.misses, self.pairs, self.tokens = state["misses"], state["pairs"], state["tokens"]
        self.epochs, self.finished = state["epochs"], state["finished"]

    def done(self, run: Run) -> float:
        """The share of the run that is behind it, by steps or by the clock, whichever is further."""
        clock = 0.0 if self.settings.minutes is None else self.seconds / (60 * self.settings.minutes)
        return max(run.total / self.plan.total, clock)

    @property
    def overdue(self) -> bool:
        """Whether the time is up."""
        return self.settings.minutes is not None and self.seconds >= 60 * self.settings.minutes

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.settings.patience <= self.misses

    def on_step(self, run: Run, gradients: Gradients, rate: float) -> None:
        """Move a schedule that goes by the clock, average the weights, and write the log."""
        if isinstance(run.optimisation.schedule, StretchedSchedule):
            run.optimisation.schedule.at(self.done(run))
        if run.total % STEPS_PER_TRIM == 0 and run.encoder.device.type == "cpu":
            give_back_memory()
        if self.averages is not None:
            self.averages.update(run.total)
        self.pairs += gradients.pairs
        self.tokens += gradients.tokens
        self._read += gradients.pairs
        self.epochs = run.epoch + run.step / self.plan.sizes[run.epoch]
        if run.total % self.settings.log_every == 0 and self.processes.first:
            here = time.monotonic() - self._began
            speed = self._read / max(here, 1e-9)
            left = (1 - self.done(run)) / self.done(run) * self.seconds
            self.log.write(
                "step",
                run.total,
                epoch=run.epoch,
                loss=float(gradients.loss),
                norm=float(gradients.norm),
                learning_rate=rate,
                pairs=self.pairs,
                tokens=self.tokens,
                seconds=round(self.seconds, 3),
                pairs_per_second=round(speed, 2),
                seconds_left=round(left, 1),
            )

    def on_score(self, run: Run, score: float, best: bool) -> None:
        """Remember the score, and lose patience or gain it."""
        self.scores.append((run.total, score))
        self.misses = 0 if best else self.misses + 1
        if self.processes.first:
            self.log.write("evaluation", run.total, epoch=run.epoch, score=score, best=best)

    def on_pause(self, run: Run, epoch_ends: bool) -> None:
        """Write a checkpoint if one is due; the last step of an epoch waits for the epoch's own evaluation."""
        if self.storage is None or self._saved == run.total:
            return
        last = self.stops(run)
        every = self.settings.save_every
        due = every > 0 and run.total % every == 0 and run.step < self.plan.sizes[run.epoch]
        if epoch_ends or (due and not last):
            place = (run.epoch + 1, 0) if epoch_ends else (run.epoch, run.step)
            self.storage.save(run, self, place)
            self._saved = run.total

    def stops(self, run: Run) -> bool:
        """Whether the last step has been made, the time is up, or patience is at its end."""
        return run.total >= self.plan.total or self.overdue or self.exhausted

    def evaluated_weights(self) -> AbstractContextManager[object]:
        """Put the moving average into the model, if there is one."""
        return nullcontext() if self.averages is None else self.averages.swapped()
