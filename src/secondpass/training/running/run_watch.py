"""What a long run does beside learning: log, moving average, patience, checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from secondpass.errors import CheckpointError, MissingExtra
from secondpass.forwards.learning.dropout import give_back_memory
from secondpass.training.checkpoints.checkpoints import RunStorage
from secondpass.training.running.loop import Gradients, Hooks, Run
from secondpass.training.running.plan import Plan
from secondpass.training.running.processes import Processes
from secondpass.training.settings import TrainingSettings
from secondpass.training.weights.averages import WeightAverages
from secondpass.training.weights.optimisation import StretchedSchedule

# ---- What happened at each step, as JSON lines; a resumed run goes on where its checkpoint was.
FILE = "training.jsonl"


class StepLog:
    """Appends one JSON object a line to `training.jsonl` in a folder; without a folder it only tells `watch`.

    Args:
        folder: where the file is.
        watch: hears of every entry.
        after: the step of the checkpoint the run goes on from; entries of later steps are taken out.
    """

    def __init__(self, folder: Path | None, watch: Callable[[Mapping[str, Any]], object] | None, after: int) -> None:
        self._path = None if folder is None else folder / FILE
        self._watch = watch
        if self._path is not None:
            self._forget_after(self._path, after)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Add an entry: its kind ("step", "evaluation", "end"), the step since the start, and values."""
        entry = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(entry) + "\n")
            except OSError as error:
                raise CheckpointError(f"{self._path} cannot be written: {error.strerror}") from error
        if self._watch is not None:
            self._watch(entry)

    @staticmethod
    def _forget_after(path: Path, step: int) -> None:
        """Keep whole lines of steps up to `step`: what came later was lost with the process, and comes again."""
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("step", step + 1) <= step and entry.get("kind") != "end":
                kept.append(line + "\n")
        partial = path.with_name(f"{FILE}.partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)


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


# ---- The log of a run as TensorBoard reads it.
# What tells where an entry belongs is no curve.
NO_CURVE = ("step", "time")


@contextmanager
def tensorboard_log(folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write every number of the log's entries to event files in `folder`, named "kind/value", by step.

    Raises:
        MissingExtra: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra('output.tensorboard needs TensorBoard: pip install "secondpass[tensorboard]"') from None
    writer = cast(Any, SummaryWriter)(str(folder))

    def watch(entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if isinstance(value, (int, float)) and name not in NO_CURVE:
                writer.add_scalar(f"{entry['kind']}/{name}", float(value), entry["step"])

    try:
        yield watch
    finally:
        writer.close()
