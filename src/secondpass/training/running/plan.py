"""All steps of a run, decided before the first one: lengths of the inputs, groups of each step, how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from secondpass.training.data.groups import Group
from secondpass.training.running.steps import Lengths, Tokeniser, epoch_steps
from secondpass.training.settings import TrainingSettings

# Pairs tokenised at a time to measure them.
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run.

    Attributes:
        groups: what is learnt from.
        lengths: of their inputs.
        settings: that decide the steps.
        sizes: steps of each epoch that is begun.
        total: steps of the whole run.
        cut: pairs that lose tokens to fit the model's window.
    """

    groups: Sequence[Group]
    lengths: Lengths
    settings: TrainingSettings
    sizes: tuple[int, ...]
    total: int
    cut: int

    def steps(self, epoch: int, first: int) -> Iterator[list[Group]]:
        """Groups of each step of an epoch, from number `first` on."""
        for step in epoch_steps(self.lengths, self.settings, epoch)[first:]:
            yield [self.groups[number] for number in step]

    @property
    def epochs(self) -> int:
        """How many are begun."""
        return len(self.sizes)


def planned(groups: Sequence[Group], tokenised: Tokeniser, settings: TrainingSettings) -> Plan:
    """Measure all inputs once and count the steps: of `settings.epochs`, or of as many as `max_steps` takes."""
    lengths, cut = measured(groups, tokenised)
    sizes: list[int] = []
    while len(sizes) < settings.epochs if settings.max_steps is None else sum(sizes) < settings.max_steps:
        sizes.append(len(epoch_steps(lengths, settings, len(sizes))))
    return Plan(groups, lengths, settings, tuple(sizes), min(sum(sizes), settings.max_steps or sum(sizes)), cut)


def measured(groups: Sequence[Group], tokenised: Tokeniser) -> tuple[Lengths, int]:
    """Tokens of every pair, and how many pairs are cut."""
    starts = np.cumsum([0, *map(len, groups)], dtype=np.int64)
    tokens = np.empty(int(starts[-1]), np.int32)
    queries = (group.query for group in groups for _ in group.documents)
    documents = (document for group in groups for document in group.documents)
    cut = place = 0
    while place < len(tokens):
        size = min(CHUNK, len(tokens) - place)
        made = tokenised([next(queries) for _ in range(size)], [next(documents) for _ in range(size)])
        tokens[place : place + size] = [len(item) for item in made]
        cut += sum(item.cut is not None for item in made)
        place += size
    return Lengths(tokens, starts), cut
