"""Which groups each step reads: shuffled, of like length, and the same whatever machine or number of processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secondpass.tokens import Tokens
from secondpass.training.settings import TrainingSettings

Tokeniser = Callable[[Sequence[str], Sequence[str]], list[Tokens]]
"""(queries[i], documents[i]) to model inputs, cut to the window."""

# Groups sorted by length at a time: enough for like lengths to meet, few enough to keep the shuffle.
POOL = 512


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each pair, group after group: `tokens` int32 [pairs], group g has `starts[g]` to `starts[g + 1]`."""

    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, group: int) -> npt.NDArray[np.int32]:
        """Tokens of each pair of one group."""
        return self.tokens[self.starts[group] : self.starts[group + 1]]


def epoch_steps(lengths: Lengths, settings: TrainingSettings, epoch: int) -> list[tuple[int, ...]]:
    """Groups of each step of an epoch; every group once. Depends on nothing but the arguments."""
    order = list(range(len(lengths)))
    shuffle = random.Random(f"{settings.seed}/{epoch}")  # noqa: S311
    shuffle.shuffle(order)
    if settings.groups_per_step is not None:
        size = settings.groups_per_step
        return [tuple(order[start : start + size]) for start in range(0, len(order), size)]
    steps: list[tuple[int, ...]] = []
    for start in range(0, len(order), POOL):
        pool = sorted(order[start : start + POOL], key=lambda group: int(lengths.of(group).max()))
        steps += _filled(pool, lengths, settings.tokens_per_step)
    shuffle.shuffle(steps)
    return steps


def _filled(pool: Sequence[int], lengths: Lengths, tokens_per_step: int) -> list[tuple[int, ...]]:
    """Cut a pool into steps of at least so many tokens, the last one of what is left."""
    made: list[tuple[int, ...]] = []
    step: list[int] = []
    tokens = 0
    for group in pool:
        step.append(group)
        tokens += int(lengths.of(group).sum())
        if tokens >= tokens_per_step:
            made.append(tuple(step))
            step, tokens = [], 0
    if step:
        made.append(tuple(step))
    return made


def micro_batches(widths: Sequence[Sequence[int]], most_tokens: int) -> list[tuple[int, ...]]:
    """Positions of whole groups for each forward, longest first, under a budget of padded tokens.

    Args:
        widths: tokens of each pair of each group.
        most_tokens: of one forward; a group beyond it is alone.
    """
    order = sorted(range(len(widths)), key=lambda place: -max(widths[place]))
    made: list[tuple[int, ...]] = []
    batch: list[int] = []
    pairs = width = 0
    for place in order:
        fits = not batch or max(width, *widths[place]) * (pairs + len(widths[place])) <= most_tokens
        if not fits:
            made.append(tuple(batch))
            batch, pairs, width = [], 0, 0
        batch.append(place)
        pairs += len(widths[place])
        width = max(width, *widths[place])
    made.append(tuple(batch))
    return made
