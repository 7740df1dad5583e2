"""The training loop of the pocket model: soft targets, resumable, exact on CPU.

Loss: KL from the targets' softmax over a query's documents to the student's plus 0.2 times the squared
error of centred logits (MarginMSE over all pairs, Hofstätter et al. 2020), weighted per example, and
cross-entropy on the labelled documents where there are some: at least one of them must win.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from recipes.pocket.student import logits, pack
from secondpass.templates import Ids
from secondpass.training.cpu.memory import give_back_memory

log = logging.getLogger(__name__)


# Groups sorted by length at a time: enough for like lengths to meet, few enough to keep the shuffle.
POOL = 600


@dataclass(frozen=True)
class Settings:
    steps: int
    tokens_per_step: int = 8192
    learning_rate: float = 1e-4
    warmup: float = 0.04
    weight_decay: float = 0.01
    save_every: int = 200
    seed: int = 29
    dtype: torch.dtype = torch.float32
    seconds: float = math.inf  # stop early, with the schedule stretched over what fits


@dataclass(frozen=True)
class Example:
    """One query with its documents as token ids, ready to lay end to end."""

    ids: list[Ids]
    types: list[Ids]
    targets: list[float]
    relevant: list[int]
    soft_weight: float = 1.0
    label_weight: float = 0.5

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))

    @property
    def longest(self) -> int:
        return max(map(len, self.ids))


def loss(scores: Tensor, batch: Sequence[Example]) -> Tensor:
    """The mean over the examples; `scores` is [pairs], laid out example after example."""
    total = scores.new_zeros(())
    for score, example in zip(torch.split(scores, [len(e.ids) for e in batch]), batch, strict=True):
        target = torch.tensor(example.targets)
        log_student = F.log_softmax(score, dim=0)
        soft = F.kl_div(log_student, F.log_softmax(target, dim=0), reduction="sum", log_target=True)
        soft = soft + 0.2 * F.mse_loss(score - score.mean(), target - target.mean())
        total = total + example.soft_weight * soft
        if example.relevant:
            total = total - example.label_weight * torch.logsumexp(log_student[example.relevant], dim=0)
    return total / len(batch)


def scored(model: Any, batch: Sequence[Example], dtype: torch.dtype) -> Tensor:
    """-> float32 [pairs], example after example."""
    return logits(
        model, pack([ids for e in batch for ids in e.ids], [types for e in batch for types in e.types], dtype)
    )


class Masters:
    """float32 copies of the weights for the optimiser, while the model computes in `dtype`."""

    def __init__(self, model: torch.nn.Module, settings: Settings) -> None:
        self._live = list(model.parameters())
        self.masters = [p.detach().float().clone().requires_grad_() for p in self._live]
        decayed = [m for m, p in zip(self.masters, self._live, strict=True) if p.ndim > 1]
        plain = [m for m, p in zip(self.masters, self._live, strict=True) if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)

    def step(self, rate: float) -> float:
        for master, live in zip(self.masters, self._live, strict=True):
            master.grad = None if live.grad is None else live.grad.float()
            live.grad = None
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, 1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.publish()
        return norm

    @torch.no_grad()
    def publish(self) -> None:
        for master, live in zip(self.masters, self._live, strict=True):
            live.copy_(master)

    def state(self) -> dict[str, Tensor]:
        tensors = {f"weight.{i}": m.detach() for i, m in enumerate(self.masters)}
        for i, master in enumerate(self.masters):
            for key, value in self.optimizer.state.get(master, {}).items():
                tensors[f"{key}.{i}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        for i, master in enumerate(self.masters):
            master.copy_(tensors[f"weight.{i}"])
            self.optimizer.state[master] = {
                key: tensors[f"{key}.{i}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{i}" in tensors
            }
        self.publish()


def epoch_batches(examples: list[Example], settings: Settings, epoch: int) -> list[list[int]]:
    """Batches of one epoch, depending only on seed and epoch: attention pads, so like lengths go together."""
    rng = random.Random(f"{settings.seed}/{epoch}")
    order = list(range(len(examples)))
    rng.shuffle(order)
    made = []
    for start in range(0, len(order), POOL):
        batch: list[int] = []
        for index in sorted(order[start : start + POOL], key=lambda index: examples[index].longest):
            batch.append(index)
            if sum(examples[member].tokens for member in batch) >= settings.tokens_per_step:
                made.append(batch)
                batch = []
    rng.shuffle(made)
    return made


def batches(examples: list[Example], settings: Settings, position: int) -> Iterator[list[Example]]:
    """Batches without end, from number `position` on."""
    epoch = 0
    while True:
        made = epoch_batches(examples, settings, epoch)
        for batch in made[position:]:
            yield [examples[index] for index in batch]
        position = max(0, position - len(made))
        epoch += 1


def _rate(settings: Settings, progress: float) -> float:
    warm = min(1.0, progress / settings.warmup)
    return settings.learning_rate * warm * max(0.02, 1.0 - progress)


def _save(folder: Path, masters: Masters, progress: dict[str, float]) -> None:
    """Write beside the old checkpoint, then swap: a kill at any instant leaves one whole file."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "state.partial"
    save_file(masters.state(), partial, metadata={"progress": json.dumps(progress)})
    os.replace(partial, folder / "state.safetensors")


def _restore(folder: Path, masters: Masters) -> dict[str, float]:
    path = folder / "state.safetensors"
    if not path.exists():
        return {"step": 0, "seconds": 0.0}
    from safetensors import safe_open

    masters.restore(load_file(path))
    with safe_open(path, "pt") as handle:
        progress: dict[str, float] = json.loads(handle.metadata()["progress"])
    return progress


def train(
    model: Any,
    examples: list[Example],
    settings: Settings,
    folder: Path,
    watch: Callable[[int], object] = lambda step: None,
) -> None:
    """Train `model` in place; continues from `folder` when it holds a checkpoint. `watch` hears of each step."""
    model.to(settings.dtype).train()
    masters = Masters(model, settings)
    progress = _restore(folder, masters)
    step, before = int(progress["step"]), progress["seconds"]
    began = time.monotonic()
    running = 0.0
    pairs = 0
    for batch in batches(examples, settings, step):
        spent = before + time.monotonic() - began
        done = max(step / settings.steps, spent / settings.seconds)
        if done >= 1.0:
            break
        scores = scored(model, batch, settings.dtype)
        value = loss(scores, batch)
        if not torch.isfinite(value):
            raise FloatingPointError(f"step {step}: the loss is {value.item()}")
        value.backward()  # type: ignore[no-untyped-call]
        norm = masters.step(_rate(settings, done))
        step += 1
        watch(step)
        running += value.item()
        pairs += len(scores)
        if step % 25 == 0:
            give_back_memory()
        if step % 50 == 0:
            rate = pairs / (time.monotonic() - began)
            log.info("step %d  %.3f done  loss %.4f  norm %.2f  %.1f pairs/s", step, done, running / 50, norm, rate)
            running = 0.0
        if step % settings.save_every == 0:
            _save(folder, masters, {"step": step, "seconds": spent})
    _save(folder, masters, {"step": step, "seconds": settings.seconds})
    model.to(torch.float32)
    with torch.no_grad():
        for master, live in zip(masters.masters, model.parameters(), strict=True):
            live.copy_(master)
