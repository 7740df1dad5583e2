"""All steps of a run, decided before the first one, and each step's way to clipped gradients.

Which groups a step reads is shuffled, of like length, and the same whatever machine or number of processes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from secondpass.errors import TrainingError
from secondpass.forwards.learning.packed import TrainingForward
from secondpass.tokens import Tokens
from secondpass.training.data.groups import Group, Teaching
from secondpass.training.losses.loss import Loss, Teachings
from secondpass.training.running.loop import Gradients, Processes
from secondpass.training.settings import TrainingSettings
from secondpass.training.weights.optimisation import Optimisation

logger = logging.getLogger(__name__)

Tokeniser = Callable[[Sequence[str], Sequence[str]], list[Tokens]]
"""(queries[i], documents[i]) to model inputs, cut to the window."""

# Groups sorted by length at a time: enough for like lengths to meet, few enough to keep the shuffle.
POOL = 512
# Pairs tokenised at a time to measure them.
CHUNK = 4096


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


def micro_batches(
    widths: Sequence[Sequence[int]], most_tokens: int, *, in_order: bool = False
) -> list[tuple[int, ...]]:
    """Positions of whole groups for each forward, under a budget of padded tokens.

    Args:
        widths: tokens of each pair of each group.
        most_tokens: of one forward; a group beyond it is alone.
        in_order: as they come, instead of the longest first.
    """
    order = range(len(widths)) if in_order else sorted(range(len(widths)), key=lambda place: -max(widths[place]))
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
    return [*made, tuple(batch)] if batch else made


def own_share(tokens: Sequence[int], rank: int, count: int) -> list[int]:
    """Positions, in order, of the groups of a step that process `rank` of `count` reads; `tokens` are those of each.

    The longest group left goes to whoever has the fewest tokens (Graham 1969): shares differ by no more than one group
    has, and nobody is idle while there are as many groups as processes.
    """
    loads, mine = [0] * count, []
    for place in sorted(range(len(tokens)), key=lambda place: -tokens[place]):
        owner = loads.index(min(loads))
        loads[owner] += tokens[place]
        if owner == rank:
            mine.append(place)
    return sorted(mine)


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
        cut += sum(item.cut is not None or bool(item.others) for item in made)
        place += size
    return Lengths(tokens, starts), cut


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The groups of one micro-batch: inputs of the pairs, group after group, their labels and the teacher's opinion."""

    tokens: list[Tokens]
    labels: list[tuple[float, ...]]
    teachings: list[Teaching | None]

    @property
    def widths(self) -> list[int]:
        """Tokens of each pair."""
        return [len(item) for item in self.tokens]


@dataclass(slots=True)
class GroupLearner:
    """Learns from steps of groups.

    Attributes:
        tokenised: gives the model inputs of (query, document) pairs, cut to the encoder's window.
        forward: model inputs to float32 logits [pairs, labels], with gradients.
        loss: judges them.
        optimisation: what the gradients are for.
        processes: who shares a step.
        autocast: makes the context of the forward pass.
        micro_tokens: padded tokens of one forward.
        cached: logits of a whole step first, then gradients a micro-batch at a time (Gao et al. 2021, GradCache).
        seed: of in-batch negatives.
        random_state: gives a function that puts the random numbers back to where they are now.
    """

    tokenised: Tokeniser
    forward: TrainingForward
    loss: Loss
    optimisation: Optimisation
    processes: Processes
    autocast: Callable[[], AbstractContextManager[object]]
    micro_tokens: int
    cached: bool
    seed: int
    random_state: Callable[[], Callable[[], None]]

    def __call__(self, step: Sequence[Group], where: str) -> Gradients:
        """Leave the gradients of the mean loss over all units of `step`, clipped; none where `_pass_over` says so."""
        groups = self._with_in_batch_negatives(step, where)
        tokens = self._tokens(groups)
        share = own_share([sum(item.widths) for item in tokens], self.processes.rank, self.processes.count)
        own = [tokens[place] for place in share]
        pairs = sum(len(group) for group in groups)
        parts = micro_batches([item.widths for item in own], self.micro_tokens)
        judged = [_joined([own[place] for place in part]) for part in parts]
        if not judged:  # a loss scale is made with the first loss, and every process needs it
            self.optimisation.scaler.scale(torch.zeros(1, device=self.optimisation.weights[0].device))
        learn = self._cached if self.cached else self._direct
        total, units = learn(judged, pairs)
        grads = self._gradients()
        self.processes.add_up([*grads, total, units])
        real, names = sum(sum(item.widths) for item in tokens), tuple(group.source for group in step)
        if not bool(units):
            self._pass_over(where)
            return Gradients(total[0], total.new_zeros(()), names, pairs, real, judged=False)
        # Each part was divided by the step's pairs, which all processes know; what counts is only known now.
        for grad in grads:
            grad.mul_(pairs / units)
        norm = self.optimisation.clip()
        return Gradients((total / units)[0], norm, names, pairs, real)

    def _pass_over(self, where: str) -> None:
        """Leave no gradient of a step without a unit: such as a positive alone in the last step of an epoch."""
        if not getattr(self.loss, "in_batch_negatives", 0):
            raise TrainingError(f"{where}: no group has anything for the loss to judge")
        for weight in self.optimisation.weights:
            weight.grad = None
        if self.processes.first:
            logger.warning("%s: no group has a negative, of its own or of another: no weight is changed", where)

    def _gradients(self) -> list[torch.Tensor]:
        """Gradients of every trained weight, zero where this process saw none: all processes add up the same ones."""
        made = []
        for weight in self.optimisation.weights:
            if weight.requires_grad:
                if weight.grad is None and self.processes.count > 1:
                    weight.grad = torch.zeros_like(weight)
                if weight.grad is not None:
                    made.append(weight.grad)
        return made

    def _tokens(self, groups: Sequence[Group]) -> list[MicroBatch]:
        queries = [group.query for group in groups for _ in group.documents]
        documents = [document for group in groups for document in group.documents]
        tokens = iter(self.tokenised(queries, documents))
        return [
            MicroBatch([next(tokens) for _ in group.documents], [group.labels], [group.teaching]) for group in groups
        ]

    def _direct(self, parts: Sequence[MicroBatch], pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.optimisation.weights[0].device
        total, units = torch.zeros(1, device=device), torch.zeros(1, device=device)
        for part in parts:
            with self.autocast():
                logits = self.forward(part.tokens)
            values = self._values(logits, part)
            torch.autograd.backward(self.optimisation.scaler.scale(values.sum() / pairs))
            total += values.detach().sum()
            units += len(values)
        return total, units

    def _cached(self, parts: Sequence[MicroBatch], pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two forwards: memory for one slice of pairs, however many documents a group has."""
        device = self.optimisation.weights[0].device
        if not parts:
            return torch.zeros(1, device=device), torch.zeros(1, device=device)
        whole = _joined(parts)
        places = micro_batches([[width] for width in whole.widths], self.micro_tokens, in_order=True)
        slices = [[whole.tokens[place] for place in part] for part in places]
        rewinds, scored = [], []
        with torch.no_grad(), self.autocast():
            for part in slices:
                rewinds.append(self.random_state())
                scored.append(self.forward(part))
        logits = torch.cat(scored).requires_grad_()
        values = self._values(logits, whole)
        torch.autograd.backward(self.optimisation.scaler.scale(values.sum() / pairs))
        after = self.random_state()
        grads = torch.zeros_like(logits) if logits.grad is None else logits.grad
        wanted = torch.split(grads, [len(part) for part in slices])
        for part, rewind, grad in zip(slices, rewinds, wanted, strict=True):
            rewind()
            with self.autocast():
                again = self.forward(part)
            torch.autograd.backward(again, grad)
        after()
        return values.detach().sum()[None], torch.tensor([float(len(values))], device=device)

    def _values(self, logits: torch.Tensor, part: MicroBatch) -> torch.Tensor:
        """What the loss says of flat logits, one value a unit."""
        grid, labels, mask = arranged(logits, part.labels)
        judge: Callable[..., torch.Tensor] = self.loss
        if not getattr(self.loss, "taught", False):
            return judge(grid, labels, mask)
        return judge(grid, labels, mask, arranged_teachings(part.teachings, mask))

    def _with_in_batch_negatives(self, step: Sequence[Group], where: str) -> list[Group]:
        """Add documents of the step's other groups, label 0, if the loss asks for them."""
        wanted = int(getattr(self.loss, "in_batch_negatives", 0))
        if not wanted:
            return list(step)
        rng = random.Random(f"{self.seed}/{where}")  # noqa: S311
        own: dict[str, set[str]] = {}
        for group in step:
            own.setdefault(group.query, set()).update(group.documents)
        pool = list(dict.fromkeys(document for group in step for document in group.documents))
        made = []
        for group in step:
            # what is judged for this query would be judged twice, and as not relevant
            others = [document for document in pool if document not in own[group.query]]
            chosen = rng.sample(others, min(wanted, len(others)))
            documents, labels = group.documents + tuple(chosen), group.labels + (0.0,) * len(chosen)
            made.append(Group(group.query, documents, labels, group.source))
        return made


def _joined(parts: Sequence[MicroBatch]) -> MicroBatch:
    return MicroBatch(
        [item for part in parts for item in part.tokens],
        [row for part in parts for row in part.labels],
        [teaching for part in parts for teaching in part.teachings],
    )


def arranged(
    logits: torch.Tensor, labels: Sequence[Sequence[float]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay flat logits out by group, as losses take them.

    Args:
        logits: float [pairs, labels], group after group.
        labels: of each document of each group.

    Returns:
        logits float32 [groups, documents] (several labels: [groups, documents, labels]), labels float32 and mask bool
        [groups, documents].
    """
    sizes = [len(row) for row in labels]
    width = max(sizes)
    mask = np.zeros((len(sizes), width), bool)
    values = np.zeros((len(sizes), width), np.float32)
    for number, row in enumerate(labels):
        mask[number, : len(row)] = True
        values[number, : len(row)] = row
    places = torch.from_numpy(np.flatnonzero(mask)).to(logits.device)
    flat: Any = logits.float()
    grid = flat.new_zeros((mask.size, flat.shape[1])).index_copy(0, places, flat).view(len(sizes), width, -1)
    placed = torch.from_numpy(mask).to(logits.device)
    return grid[..., 0] if flat.shape[1] == 1 else grid, torch.from_numpy(values).to(logits.device), placed


def arranged_teachings(teachings: Sequence[Teaching | None], mask: torch.Tensor) -> Teachings:
    """What a teacher thinks of each group, laid out as losses take it; `mask` is that of the groups."""
    scores = np.zeros(tuple(mask.shape), np.float32)
    weights = np.zeros((2, len(teachings)), np.float32)
    weights[1] = 1.0
    for number, teaching in enumerate(teachings):
        if teaching is not None:
            scores[number, : len(teaching.scores)] = teaching.scores
            weights[:, number] = teaching.weight, teaching.label_weight
    return Teachings(*(torch.from_numpy(array).to(mask.device) for array in (scores, *weights)))
