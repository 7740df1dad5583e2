"""A program that trains, is killed with SIGKILL, and goes on: python killed_runs.py WHAT FOLDER NUMBER.

It imports torch once and forks every run, so that a kill costs milliseconds. Prints what it saw as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secondpass.errors import CheckpointError
from secondpass.training.checkpoints.checkpoints import Checkpoint, Checkpoints, check_files, read_manifest
from secondpass.training.checkpoints.state import (
    optimizer_state,
    random_state,
    restore_optimizer,
    restore_random_state,
    restore_schedule,
    schedule_state,
)
from secondpass.training.running.run_watch import RunLock
from secondpass.training.weights.optimisation import WeightAverages

STEPS, SAVE_EVERY = 30 * int(os.environ.get("SECONDPASS_KILLS", "12")), 6


def forked(work: Callable[[], None]) -> int:
    """Start `work` in a process of its own; it ends with 0, or 1 and a traceback."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stderr.flush()
        os._exit(status)


class Run:
    """A tiny model, everything a real run has, and random numbers of four kinds."""

    def __init__(self, folder: Path | None) -> None:
        torch.manual_seed(1)
        random.seed(2)
        np.random.seed(3)  # noqa: NPY002
        self.order = np.random.default_rng(4)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)
        self.averages = WeightAverages(self.model, 0.99)
        self.step = 0
        self.losses: list[float] = []
        self.checkpoints = Checkpoints(folder / "checkpoints", 2, {"steps": STEPS}) if folder else None

    def resume(self) -> None:
        """Go back to the newest checkpoint, if there is one."""
        found = self.checkpoints.newest() if self.checkpoints else None
        if found is None:
            return
        self.model.load_state_dict(found.tensors["model"])
        restore_optimizer(self.optimizer, found.tensors["optimizer"], found.state["optimizer"])
        restore_schedule(self.schedule, found.state["schedule"])
        self.averages.restore(found.tensors["average"])
        restore_random_state(found.tensors["random"], found.state["random"], {"order": self.order})
        self.step, self.losses = found.step, list(found.state["losses"])

    def save(self) -> None:
        """Write a checkpoint of everything."""
        if self.checkpoints is None:
            return
        optimizer, optimizer_json = optimizer_state(self.optimizer)
        numbers, numbers_json = random_state({"order": self.order})
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": optimizer,
            "average": self.averages.tensors(),
            "random": numbers,
        }
        state = {
            "optimizer": optimizer_json,
            "schedule": schedule_state(self.schedule),
            "random": numbers_json,
            "losses": self.losses,
        }
        self.checkpoints.save(Checkpoint(self.step, tensors, state))

    def train(self, tell: Callable[[str, int], None]) -> str:
        """Train to the end; give the SHA-256 of all numbers."""
        while self.step < STEPS:
            rows = torch.from_numpy(self.order.standard_normal((4, 8))).float()
            scale = random.random() + float(np.random.rand())  # noqa: NPY002
            loss = (self.model(rows) - scale).pow(2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.step += 1
            self.averages.update(self.step)
            self.losses = [*self.losses[-20:], loss.item()]
            tell("step", self.step)
            if self.step % SAVE_EVERY == 0:
                self.save()
                tell("saved", self.step)
        return self.digest()

    def digest(self) -> str:
        """The SHA-256 of weights, optimizer, averages and losses."""
        tensors = {**self.model.state_dict(), **optimizer_state(self.optimizer)[0]}
        tensors |= {f"average.{name}": tensor for name, tensor in self.averages.tensors().items()}
        made = hashlib.sha256(repr(self.losses).encode())
        for name in sorted(tensors):
            made.update(name.encode() + tensors[name].numpy().tobytes())
        return made.hexdigest()


def _train_in(folder: Path, pipe: int) -> None:
    def tell(what: str, step: int) -> None:
        os.write(pipe, f"{what} {step}\n".encode())

    with RunLock(folder):
        run = Run(folder)
        run.resume()
        os.write(pipe, f"digest {run.train(tell)}\n".encode())


def killed_in_training(folder: Path, kills: int) -> dict[str, Any]:
    """Kill runs at random moments until so many were, then let one finish."""
    moments = random.Random(5)
    reports: list[dict[str, Any]] = []
    saved, digest, unfinished = 0, "", 0
    while not digest:
        read, write = os.pipe()
        pid = forked(lambda write=write: _train_in(folder, write))  # type: ignore[misc]
        os.close(write)
        with os.fdopen(read) as pipe:
            lines = []
            if len(reports) < kills:
                lines = [pipe.readline() for _ in range(moments.randrange(24))]
                time.sleep(moments.random() * 0.01)
                os.kill(pid, signal.SIGKILL)
            told = [line.split() for line in [*lines, *pipe] if line.endswith("\n")]
        status = os.waitpid(pid, 0)[1]
        saved = max([saved, *(int(value) for what, value in told if what == "saved")])
        digest = next((value for what, value in told if what == "digest"), "")
        unfinished += len(list((folder / "checkpoints").glob(".unfinished-*")))
        found = Checkpoints(folder / "checkpoints", 2, {"steps": STEPS}).newest()
        reports.append({"signal": os.WTERMSIG(status), "saved": saved, "newest": found.step if found else 0})
        if len(reports) > kills:
            break
    return {"lives": reports, "digest": digest, "expected": Run(None).train(lambda *_: None), "unfinished": unfinished}


def checkpoint(step: int, value: float) -> Checkpoint:
    """One of two sets of tensors that hold `value` everywhere."""
    tensors = {"model": {"weight": torch.full((3, 5), value)}, "optimizer": {"exp_avg": torch.full((7,), value)}}
    return Checkpoint(step, tensors, {"value": value})


def value_of(found: Checkpoint | None) -> tuple[int, float] | None:
    """Step and value, checked to be the same in all places."""
    if found is None:
        return None
    values = {
        found.state["value"],
        *(v for t in found.tensors.values() for x in t.values() for v in x.unique().tolist()),
    }
    assert len(values) == 1, values
    return found.step, values.pop()


FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree")


def _save_and_die(checkpoints: Checkpoints, made: Checkpoint, moment: int) -> None:
    left = moment

    def count(event: str, _: object) -> None:
        nonlocal left
        if event in FILE_EVENTS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    checkpoints.save(made)


def killed_in_save(folder: Path, keep: int) -> list[dict[str, Any]]:
    """Kill a save before each thing it does to the file system: a new step, and one that is saved again."""
    reports = []
    for again in (False, True):
        moment, finished = 0, False
        while not finished:
            moment += 1
            place = folder / f"{again}-{moment}"
            checkpoints = Checkpoints(place, keep, {"run": 1})
            for step in range(1, 4):
                checkpoints.save(checkpoint(step, step))
            made = checkpoint(3 if again else 4, 9.0)
            pid = forked(lambda c=checkpoints, made=made, moment=moment: _save_and_die(c, made, moment))  # type: ignore[misc]
            finished = os.waitpid(pid, 0)[1] == 0
            for path in place.glob("step-*"):  # also those that were being removed
                check_files(path, read_manifest(path))
            after = value_of(Checkpoints(place, keep, {"run": 1}).newest())
            Checkpoints(place, keep, {"run": 1}).save(checkpoint(5, 5.0))
            last = value_of(Checkpoints(place, keep, {"run": 1}).newest())
            left = sorted(path.name for path in place.iterdir())
            reports.append({"again": again, "finished": finished, "after": after, "last": last, "left": left})
    return reports


def killed_with_lock(folder: Path, kills: int) -> list[str]:
    """Kill holders of the lock that have children of their own; the lock is free each time."""
    messages = []
    for _ in range(kills):
        read, write = os.pipe()

        def hold(write: int = write) -> None:
            with RunLock(folder):
                child = forked(lambda: time.sleep(30))
                os.write(write, f"{os.getpid()} {child}\n".encode())
                time.sleep(30)

        pid = forked(hold)
        with os.fdopen(read) as pipe:
            child = int(pipe.readline().split()[1])
        os.close(write)
        try:
            with RunLock(folder):
                messages.append("not refused")
        except CheckpointError as error:
            messages.append(str(error).replace(str(pid), "PID"))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with RunLock(folder):
            messages.append("free")
        os.kill(child, signal.SIGKILL)
    return messages


if __name__ == "__main__":
    torch.set_num_threads(1)
    import torch._dynamo  # the first optimizer of each life would import it, which takes a second

    programs: dict[str, Callable[[Path, int], Any]] = {
        "training": killed_in_training,
        "save": killed_in_save,
        "lock": killed_with_lock,
    }
    print(json.dumps(programs[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))  # noqa: T201
