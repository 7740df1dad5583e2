"""A task a tiny model learns in a few steps: documents with a word of one set are relevant, of the other not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from secondpass import CrossEncoder, InputExample

RELEVANT = ("account", "password", "reset", "email")
OTHER = ("cat", "river", "garden", "sun")
QUERY = "how to reset"


def document(label: int, draw: random.Random) -> str:
    """Draw a document with that label."""
    words = [draw.choice(RELEVANT if label else OTHER), *draw.choices(("the", "a", "on", "in", "big"), k=3)]
    draw.shuffle(words)
    return " ".join(words)


def examples(count: int, labels: int = 2, seed: int = 0) -> list[InputExample]:
    """Make examples with labels 0, 1, ... in turn and guids e0, e1, ..."""
    draw = random.Random(seed)
    return [
        InputExample(f"e{number}", [QUERY, document(number % labels, draw)], number % labels) for number in range(count)
    ]


def loader(count: int, batch_size: int = 4, labels: int = 2, **options: Any) -> DataLoader[InputExample]:
    """Make a shuffling loader whose order depends on its own seed only."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(examples(count, labels), batch_size, shuffle=True, generator=generator, **options)


def state(encoder: CrossEncoder) -> dict[str, torch.Tensor]:
    """Copy all weights."""
    return {name: value.clone() for name, value in encoder.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Tell if two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Scripted:
    """An evaluator that gives the scores it was told to, and notes how it was called and the weights it saw."""

    def __init__(self, scores: list[float], then: Callable[[CrossEncoder], object] = lambda encoder: None) -> None:
        self.scores = iter(scores)
        self.calls: list[tuple[object, int, int]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.then = then

    def __call__(self, model: CrossEncoder, output_path: str | None = None, epoch: int = -1, steps: int = -1) -> float:
        """Note the call and the weights, do what is to be done, and give the next score."""
        self.calls.append((output_path, epoch, steps))
        self.weights.append(state(model))
        self.then(model)
        return next(self.scores)
