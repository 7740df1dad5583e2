"""What a long run has beside learning: a folder of its own, a log, patience, checkpoints that it goes on from."""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from secondpass.errors import CheckpointError, MissingExtra
from secondpass.forwards.learning.dropout import give_back_memory
from secondpass.system import at_fork, lock
from secondpass.training.checkpoints import state as states
from secondpass.training.checkpoints.checkpoints import (
    Checkpoint,
    Checkpoints,
    listed,
    other_run,
    plain_json,
    read_json,
    sha256_of,
    sync,
    write_json,
)
from secondpass.training.data.groups import fingerprint
from secondpass.training.losses.loss import Loss, described
from secondpass.training.measuring.before_after import DevRanking
from secondpass.training.running.loop import Gradients, Hooks, Processes, Trainable, TrainingRun, reading_of
from secondpass.training.running.plan import Plan
from secondpass.training.settings import TrainingSettings, worded
from secondpass.training.weights.optimisation import (
    StretchedSchedule,
    WeightAverages,
    changing,
    fingerprint_of_weights,
    put_back,
)

FILE = "training.jsonl"
# What tells where an entry belongs is no curve.
NO_CURVE = ("step", "time")
# Batches of many shapes tear holes into the heap: the price of keeping freed memory.
STEPS_PER_TRIM = 25
# Figures of the run that a checkpoint keeps as they are.
KEPT = ("misses", "pairs", "tokens", "epochs", "finished")
LOCK = ".run.lock"
FINISHED = "finished.json"
# Seconds for the children of a holder that has ended.
PATIENCE = 5.0
# Settings that a run may change on its way: they decide what is written and how much memory is used, not the weights.
FREE = ("keep", "log_every", "save_every", "micro_batch_tokens")
# Settings that came later, with the value of what was done before: at that they are left out, for older checkpoints.
LATER: Mapping[str, object] = {"minutes": None, "beta2": 0.999}


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
    _clock: float = 0.0
    _read: int = 0
    _saved: int = -1

    @property
    def seconds(self) -> float:
        """Time of the whole run, all its parts."""
        return self.before + time.monotonic() - self._began

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds, "scores": self.scores} | {name: getattr(self, name) for name in KEPT}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.before = self._clock = state["seconds"]
        self.scores = [(int(step), float(score)) for step, score in state["scores"]]
        for name in KEPT:
            setattr(self, name, state[name])

    def done(self, run: TrainingRun) -> float:
        """The share of the run that is behind it, by steps or by the clock, whichever is further."""
        clock = 0.0 if self.settings.minutes is None else self._clock / (60 * self.settings.minutes)
        return max(run.total / self.plan.total, clock)

    def _look_at_the_clock(self) -> None:
        """All go by the first process's: where each went by its own, one would stop a step before another."""
        if self.settings.minutes is not None:
            self._clock = self.processes.from_first(self.seconds)

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.settings.patience <= self.misses

    def on_step(self, run: TrainingRun, gradients: Gradients, rate: float) -> None:
        """Move a schedule that goes by the clock, average the weights, and write the log."""
        self._look_at_the_clock()
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
            speed = self._read / max(time.monotonic() - self._began, 1e-9)
            left = (1 - self.done(run)) / self.done(run) * self.seconds
            made = {"loss": float(gradients.loss), "norm": float(gradients.norm), "learning_rate": rate}
            read = {"pairs": self.pairs, "tokens": self.tokens, "seconds": round(self.seconds, 3)}
            pace = {"pairs_per_second": round(speed, 2), "seconds_left": round(left, 1)}
            self.log.write("step", run.total, epoch=run.epoch, **made, **read, **pace)

    def on_score(self, run: TrainingRun, score: float, best: bool) -> None:
        """Remember the score, and lose patience or gain it."""
        self.scores.append((run.total, score))
        self.misses = 0 if best else self.misses + 1
        self._look_at_the_clock()
        if self.processes.first:
            self.log.write("evaluation", run.total, epoch=run.epoch, score=score, best=best)

    def on_pause(self, run: TrainingRun, epoch_ends: bool) -> None:
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

    def stops(self, run: TrainingRun) -> bool:
        """Whether the last step has been made, the time is up, or patience is at its end."""
        overdue = self.settings.minutes is not None and self._clock >= 60 * self.settings.minutes
        return run.total >= self.plan.total or overdue or self.exhausted

    def expected(self, run: TrainingRun) -> int | None:
        """The plan's steps, or as many as fit into the time."""
        return max(run.total, round(run.total / self.done(run))) if run.total else self.plan.total

    def evaluated_weights(self) -> AbstractContextManager[object]:
        """Put the moving average into the model, if there is one."""
        return nullcontext() if self.averages is None else self.averages.swapped()


# ---- The run's folder: what happened at each step as JSON lines, and a lock on it.
class StepLog:
    """Appends one JSON object a line to `training.jsonl` in a folder; without a folder it only tells `watch`.

    Args:
        folder: where the file is.
        watch: hears of every entry.
        after: the step of the checkpoint the run goes on from; entries of later steps are taken out. -1: all are.
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


def make_folder(path: str | os.PathLike[str] | None, argument: str = "output_path") -> None:
    """Make a folder if it is missing.

    Raises:
        CheckpointError: `path` is no folder; the message names `argument`.
    """
    if path is None:
        return
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{argument} {path} cannot be made: {error.strerror}") from error


class RunLock:
    """An exclusive lock on a folder, held from `__enter__` to `__exit__`.

    The kernel holds it (flock) and lets go of it when the process ends, however it ends: a lock file left behind means
    nothing, and is never removed. Another process, another thread and this very object are refused alike. Children made
    by fork do not hold it: it is free as soon as the process that took it has ended.

    Args:
        folder: made if it is missing; gets the file `LOCK`, which holds pid and host while the lock is held.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Take the lock, at once or not at all.

        Raises:
            CheckpointError: it is held (the message names pid and host), or the folder cannot be locked.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be locked: {error.strerror}") from error
        try:
            _lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except BlockingIOError:
            pid, host = _written(descriptor)
            holder = f"process {pid} on {host}" if pid.isdigit() and host else "another run"
            os.close(descriptor)
            raise CheckpointError(f"{self.folder} is in use by {holder}: one run at a time") from None
        except OSError as error:
            os.close(descriptor)
            raise CheckpointError(f"{self.folder} cannot be locked: {error.strerror}") from error
        self._descriptor = descriptor
        _HELD.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the lock."""
        descriptor, self._descriptor = self._descriptor, None
        _HELD.discard(self)
        if descriptor is not None:
            try:
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_all() -> None:
    """In a forked child: close its copies of the descriptors, which would hold the locks after the parent's end."""
    for held in list(_HELD):
        if held._descriptor is not None:
            os.close(held._descriptor)
            held._descriptor = None
    _HELD.clear()


at_fork(after_in_child=_forget_all)


def _lock(descriptor: int) -> None:
    """Take the kernel's lock, or raise BlockingIOError."""
    # A holder that was killed right after it forked leaves a child that has not let go yet and will in a moment: only
    # for that child is it worth waiting.
    end = time.monotonic() + PATIENCE
    while True:
        try:
            lock(descriptor)
            return
        except BlockingIOError:
            if not _holder_has_ended(descriptor) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _holder_has_ended(descriptor: int) -> bool:
    pid, host = _written(descriptor)
    if not pid.isdigit() or host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _written(descriptor: int) -> tuple[str, str]:
    """Pid and host as the holder wrote them."""
    pid, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
    return pid, host


def identity_of(plan: Plan, encoder: Trainable, evaluator: Any, loss: Loss | None) -> dict[str, Any]:
    """What must be the same for a run to go on; `loss` is an object in place of the settings' name.

    Of an evaluator that is no `DevRanking` the type alone is told: many name their measure when they are first called.
    """
    given = {name: value for name, value in plan.settings.as_json().items() if name not in FREE}
    ranks = isinstance(evaluator, DevRanking)
    return {
        "settings": {name: value for name, value in given.items() if name not in LATER or value != LATER[name]},
        "groups": fingerprint(plan.groups),
        "dev": fingerprint(evaluator.groups) if ranks else type(evaluator).__name__,
        "measure": evaluator.primary_metric if ranks else None,
        "model": fingerprint_of_weights(encoder.model),
        "device": encoder.device.type,
        "steps": plan.total,
        "loss": None if loss is None else described(loss),
        **reading_of(encoder),
    }


@dataclass(frozen=True, slots=True)
class RunStorage:
    """The checkpoints of one run: the first process writes, all read; each has random numbers of its own.

    Attributes:
        checkpoints: in `FOLDER` of the run's output folder; their identity is that of `identity_of`.
        generators: random numbers beside torch's.
    """

    checkpoints: Checkpoints
    generators: Mapping[str, states.Generator]

    def save(self, run: TrainingRun, watch: RunWatch, place: tuple[int, int]) -> None:
        """Write down where the run is; `place` is the epoch and the step of it to go on with.

        Raises:
            CheckpointError: it cannot be written; the checkpoint before is still there.
        """
        optimizer, optimizer_json = states.optimizer_state(run.optimisation.optimizer)
        random, random_json = states.random_state(self.generators)
        arrays = {name: value.numpy() for name, value in random.items()}
        everywhere = watch.processes.gathered((arrays, random_json))
        if not watch.processes.first:
            return
        tensors: dict[str, Mapping[str, torch.Tensor]] = {
            "model": changing(run.encoder.model),
            "optimizer": optimizer,
            "best": run.best.weights,
            "random": {
                f"{rank}.{name}": torch.from_numpy(value)
                for rank, (made, _) in enumerate(everywhere)
                for name, value in made.items()
            },
        }
        if watch.averages is not None:
            tensors["average"] = watch.averages.tensors()
        state = {
            "epoch": place[0],
            "step": place[1],
            "best_score": run.best.score,
            "optimizer": optimizer_json,
            "schedule": states.schedule_state(run.optimisation.schedule),
            "scaler": states.scaler_state(run.optimisation.scaler),
            "random": [json for _, json in everywhere],
            "watch": watch.as_json(),
        }
        self.checkpoints.save(Checkpoint(run.total, tensors, state))

    def restore(self, run: TrainingRun, watch: RunWatch) -> int | None:
        """Put `run` where the newest checkpoint is; gives its step, None if there is no checkpoint.

        Raises:
            CheckpointError: it belongs to another run; the message says what differs.
        """
        found = self.checkpoints.newest()
        if found is None:
            return None
        state, rank = found.state, watch.processes.rank
        put_back(run.encoder.model, found.tensors["model"])
        states.restore_optimizer(run.optimisation.optimizer, found.tensors["optimizer"], state["optimizer"])
        states.restore_schedule(run.optimisation.schedule, state["schedule"])
        states.restore_scaler(run.optimisation.scaler, state["scaler"])
        if watch.averages is not None:
            watch.averages.restore(found.tensors["average"])
        run.best.load(state["best_score"], found.tensors["best"])
        if run.best.score is not None:
            run.encoder.best_score = run.best.score
        run.epoch, run.step, run.total = state["epoch"], state["step"], found.step
        watch.load(state["watch"])
        parted = ((name.partition("."), value) for name, value in found.tensors["random"].items())
        own = {name: value for (owner, _, name), value in parted if owner == str(rank)}
        # One more than there were goes on with its first random numbers.
        if rank < len(state["random"]):
            states.restore_random_state(own, state["random"][rank], self.generators)
        return found.step


# ---- What stands for the checkpoints when a run is done: which run's model the folder has, and what was reported.
def write_finished(
    folder: Path, identity: Mapping[str, Any], report: Mapping[str, Any], weights: Sequence[Path]
) -> None:
    """Say in `folder` that the run of that identity is done; `weights` are the files that it left there."""
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in weights}
    partial = folder / f"{FINISHED}.partial"
    write_json(partial, {"version": 1, "identity": identity, "report": report, "weights": files})
    sync(partial)
    partial.replace(folder / FINISHED)


def read_finished(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a finished run reported; None where there was none.

    Raises:
        CheckpointError: it was another run, the page cannot be read, or the weights are not those that the run left.
    """
    anew = f"to begin anew: {worded('resume', False)}"
    try:
        page = read_json(folder / FINISHED)
        found, report, files = page["identity"], dict(page["report"]), dict(page["weights"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / FINISHED} cannot be read: {error}; {anew}") from None
    if differs := other_run(found, plain_json(identity, "identity")):
        raise CheckpointError(f"{folder} has a model that belongs to another run: {listed(differs)}; {anew}")
    for name, digest in files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise CheckpointError(f"{folder / name} is not as the finished run left it; {anew}")
    return report
