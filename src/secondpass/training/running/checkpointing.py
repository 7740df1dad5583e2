"""A run to a checkpoint and back: everything that makes the rest of it the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from secondpass.training.data.fingerprints import fingerprint
from secondpass.training.measuring.dev_ranking import DevRanking
from secondpass.training.running.loop import Run
from secondpass.training.running.model_state import Ready
from secondpass.training.running.plan import Plan
from secondpass.training.running.processes import Processes
from secondpass.training.survival.checkpoints import Checkpoint, Checkpoints
from secondpass.training.survival.optimizer_state import (
    optimizer_state,
    restore_optimizer,
    restore_scaler,
    restore_schedule,
    scaler_state,
    schedule_state,
)
from secondpass.training.survival.random_state import random_state, restore_random_state
from secondpass.training.weights.averages import WeightAverages

FOLDER = "checkpoints"
# Settings that a run may change on its way: they decide what is written and how much memory is used, not the weights.
FREE = ("keep", "log_every", "save_every", "micro_batch_tokens")
# Settings that came later, with the value that stands for what was done before: where they have it they are left out,
# so that a checkpoint of an older version goes on.
LATER: Mapping[str, object] = {"minutes": None, "beta2": 0.999}


class Remembering(Protocol):
    """What beside the weights a run remembers."""

    def as_json(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        ...


def identity_of(plan: Plan, model: torch.nn.Module, device: torch.device, evaluator: Any) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, data, first weights, and how it is measured."""
    settings = {
        name: value
        for name, value in plan.settings.as_json().items()
        if name not in FREE and (name not in LATER or value != LATER[name])
    }
    return {
        "settings": settings,
        "groups": fingerprint(plan.groups),
        "dev": fingerprint(evaluator.groups) if isinstance(evaluator, DevRanking) else type(evaluator).__name__,
        "model": fingerprint_of_weights(model),
        "device": device.type,
        "steps": plan.total,
    }


def fingerprint_of_weights(model: torch.nn.Module) -> str:
    """SHA-256 of all weights and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class RunStorage:
    """The checkpoints of one run.

    Args:
        folder: the run's output folder; checkpoints are in `checkpoints/` there.
        keep: how many are kept.
        identity: see `identity_of`.
        ready: the model in training, with its random numbers.
        averages: the moving average of the weights, if there is one.
        processes: the first one writes, all read; each has random numbers of its own.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        identity: Mapping[str, Any],
        ready: Ready,
        averages: WeightAverages | None,
        processes: Processes,
    ) -> None:
        self._checkpoints = Checkpoints(folder / FOLDER, keep, identity)
        self._ready = ready
        self._averages = averages
        self._processes = processes

    def save(self, run: Run, watch: Remembering, place: tuple[int, int]) -> None:
        """Write down where the run is; `place` is the epoch and the step of it to go on with.

        Raises:
            CheckpointError: it cannot be written; the checkpoint before is still there.
        """
        optimizer, optimizer_json = optimizer_state(run.optimisation.optimizer)
        random, random_json = random_state(self._ready.generators)
        arrays = {name: value.numpy() for name, value in random.items()}
        everywhere = self._processes.gathered((arrays, random_json))
        if not self._processes.first:
            return
        tensors: dict[str, Mapping[str, torch.Tensor]] = {
            "model": run.encoder.model.state_dict(),
            "optimizer": optimizer,
            "best": run.best.weights,
            "random": {
                f"{rank}.{name}": torch.from_numpy(value)
                for rank, (made, _) in enumerate(everywhere)
                for name, value in made.items()
            },
        }
        if self._averages is not None:
            tensors["average"] = self._averages.tensors()
        state = {
            "epoch": place[0],
            "step": place[1],
            "best_score": run.best.score,
            "optimizer": optimizer_json,
            "schedule": schedule_state(run.optimisation.schedule),
            "scaler": scaler_state(run.optimisation.scaler),
            "random": [json for _, json in everywhere],
            "watch": watch.as_json(),
        }
        self._checkpoints.save(Checkpoint(run.total, tensors, state))

    def restore(self, run: Run, watch: Remembering) -> int | None:
        """Put `run` where the newest checkpoint is; gives its step, None if there is no checkpoint.

        Raises:
            CheckpointError: it belongs to another run; the message says what differs.
        """
        found = self._checkpoints.newest()
        if found is None:
            return None
        state, rank = found.state, self._processes.rank
        run.encoder.model.load_state_dict(found.tensors["model"])
        restore_optimizer(run.optimisation.optimizer, found.tensors["optimizer"], state["optimizer"])
        restore_schedule(run.optimisation.schedule, state["schedule"])
        restore_scaler(run.optimisation.scaler, state["scaler"])
        if self._averages is not None:
            self._averages.restore(found.tensors["average"])
        run.best.load(state["best_score"], found.tensors["best"])
        if run.best.score is not None:
            run.encoder.best_score = run.best.score
        run.epoch, run.step, run.total = state["epoch"], state["step"], found.step
        watch.load(state["watch"])
        prefix = f"{rank}."
        own = {
            name.removeprefix(prefix): value
            for name, value in found.tensors["random"].items()
            if name.startswith(prefix)
        }
        restore_random_state(own, state["random"][rank], self._ready.generators)
        return found.step
