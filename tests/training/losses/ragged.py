"""Groups of uneven size for the tests of losses: random, and laid side by side with rubbish where nothing stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from secondpass.training.losses.loss import Loss

SIZES = (5, 2, 7, 1, 3, 4)
CLASSES = 3


@dataclass(frozen=True)
class Ragged:
    """One array per group: logits [documents] or [documents, classes], labels [documents], in float64."""

    logits: list[np.ndarray]
    labels: list[np.ndarray]

    @property
    def groups(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Logits and labels of each."""
        return list(zip(self.logits, self.labels, strict=True))

    def only(self, number: int) -> Ragged:
        """One group alone."""
        return Ragged([self.logits[number]], [self.labels[number]])


def drawn(loss: Loss, seed: int, sizes: tuple[int, ...] = SIZES, ties: bool = True, scale: float = 3.0) -> Ragged:
    """Random groups with labels that `loss` can read; few different ones, thus equal ones, if `ties`."""
    random = np.random.default_rng(seed)
    shape = (CLASSES,) if loss.labels == "class" else ()
    logits = [random.normal(scale=scale, size=(size, *shape)) for size in sizes]
    return Ragged(logits, [_labels(random, loss.labels, size, ties) for size in sizes])


def _labels(random: np.random.Generator, kind: str, size: int, ties: bool) -> np.ndarray:
    if kind == "class":
        return random.integers(CLASSES, size=size).astype(float)
    if kind == "relevance":
        return random.choice([0.0, 1.0, 0.25], size=size) if ties else random.uniform(size=size)
    if kind == "grade":
        return random.integers(4, size=size).astype(float) if ties else random.permutation(size) / 2
    return random.choice([-2.0, -0.5, 0.0, 1.5], size=size) if ties else random.normal(size=size)


def padded(
    ragged: Ragged, dtype: torch.dtype = torch.float32, fill: float = float("nan"), extra: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (with gradient), labels and mask as a loss is given them, `fill` where nothing stands."""
    width = max(map(len, ragged.labels), default=0) + extra
    classes = ragged.logits[0].shape[1:] if ragged.logits else ()
    logits = np.full((len(ragged.logits), width, *classes), fill)
    labels = np.full((len(ragged.labels), width), fill)
    mask = np.zeros(labels.shape, dtype=bool)
    for row, (some_logits, some_labels) in enumerate(ragged.groups):
        logits[row, : len(some_logits)] = some_logits
        labels[row, : len(some_labels)] = some_labels
        mask[row, : len(some_labels)] = True
    made = torch.tensor(logits, dtype=dtype).requires_grad_()
    return made, torch.tensor(labels, dtype=dtype), torch.tensor(mask)


def units(loss: Loss, ragged: Ragged, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """What `loss` says of the groups side by side."""
    return loss(*padded(ragged, dtype)).detach().numpy()
