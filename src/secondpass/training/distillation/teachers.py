"""Teachers' scores as labels: one cross-encoder, several averaged, or a file of scores.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network" (https://arxiv.org/abs/1503.02531); for rerankers
Hofstätter et al. 2020 (https://arxiv.org/abs/2010.02666), whose ensemble of teachers beats each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, cast

from tqdm import tqdm

from secondpass.errors import InvalidInput
from secondpass.text import positive_int
from secondpass.training.data.groups import Group, Teaching

if TYPE_CHECKING:
    from secondpass.ranking import Relevance
    from secondpass.reranker import Reranker

SHOWN = 3


class Teacher(Protocol):
    """Whatever has an opinion of every document of a group."""

    def __call__(self, groups: Sequence[Group], /) -> Sequence[Sequence[float]]:
        """For each group a finite score for each of its documents."""


@dataclass(frozen=True, slots=True)
class EncoderTeacher:
    """A cross-encoder's logits.

    Attributes:
        encoder: a `CrossEncoder`.
        activation: applied to the logits, `torch.nn.Sigmoid()` for labels in [0, 1]; None leaves them.
        relevance: for an encoder with several labels, as in `CrossEncoder.rank`.
        batch_size: pairs scored together at most.
    """

    encoder: Reranker
    activation: Callable[[Any], Any] | None = None
    relevance: Relevance | None = None
    batch_size: int = 32

    def __call__(self, groups: Sequence[Group], /) -> list[tuple[float, ...]]:
        """Score all pairs of the groups in shared batches.

        Raises:
            InvalidInput: a query is blank, or an argument is refused.
            NonFiniteScore: the encoder gave NaN or infinity.
        """
        rankings = self.encoder.rank_many(
            [group.query for group in groups],
            [group.documents for group in groups],
            batch_size=self.batch_size,
            show_progress_bar=False,
            activation_fct=self.activation,
            relevance=self.relevance,
        )
        made = []
        for ranking in rankings:
            in_order = sorted(ranking.documents, key=lambda document: document.index)
            made.append(tuple(d.logit if self.activation is None else d.score for d in in_order))
        return made


@dataclass(frozen=True, slots=True)
class MeanTeacher:
    """The weighted mean of several teachers, each standardised within the query first.

    Standardised scores have mean 0 and deviation 1 over a query's documents, so that no teacher outvotes the others
    by its scale; one that gives all documents the same score has no vote. A query with one document gets 0.

    Attributes:
        teachers: at least one.
        weights: one each, not negative and not all 0; None weighs them alike.
        scale: what the mean is multiplied by; losses that take a softmax of the labels need it.
    """

    teachers: Sequence[Teacher]
    weights: Sequence[float] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        weights = self._weights()
        if not self.teachers or len(weights) != len(self.teachers):
            raise InvalidInput(f"weights: {len(weights)} for {len(self.teachers)} teachers, which are at least one")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
            raise InvalidInput(f"weights={list(weights)}: not finite, below 0, or all 0")
        if not math.isfinite(self.scale) or self.scale <= 0:
            raise InvalidInput(f"scale={self.scale!r} is not a finite number above 0")

    def __call__(self, groups: Sequence[Group], /) -> list[tuple[float, ...]]:
        """Ask every teacher about the groups."""
        opinions = [_checked(groups, teacher(groups)) for teacher in self.teachers]
        weights = self._weights()
        total = sum(weights) / self.scale
        made = []
        for row in range(len(groups)):
            votes = zip(*(standardised(opinion[row]) for opinion in opinions), strict=True)
            sums = (sum(weight * vote for weight, vote in zip(weights, at, strict=True)) for at in votes)
            made.append(tuple(weighted / total for weighted in sums))
        return made

    def _weights(self) -> Sequence[float]:
        return [1.0] * len(self.teachers) if self.weights is None else self.weights


@dataclass(frozen=True, slots=True)
class RunTeacher:
    """Scores by query id and document id, such as a `Run` that was read from a file (`evaluation.runs.read_run`)."""

    scores: Mapping[str, Mapping[str, float | None]]

    def __call__(self, groups: Sequence[Group], /) -> list[tuple[float, ...]]:
        """Look every pair up.

        Raises:
            InvalidInput: a group has no ids, or pairs have no score; the message names the first of them.
        """
        missing: list[str] = []
        made = []
        for group in groups:
            if not group.query_id or not group.document_ids:
                raise InvalidInput(f"{_name(group)} has no ids of query and documents, by which scores are found")
            known = self.scores.get(group.query_id, {})
            found = [known.get(document) for document in group.document_ids]
            pairs = zip(group.document_ids, found, strict=True)
            missing += [f"({group.query_id}, {document})" for document, score in pairs if score is None]
            made.append(tuple(0.0 if score is None else score for score in found))
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise InvalidInput(f"no teacher's score for (query, document) {', '.join(missing[:SHOWN])}{more}")
        return made


def taught(
    groups: Iterable[Group],
    teacher: Teacher | Reranker,
    *,
    beside: bool = False,
    chunk: int = 256,
    progress: bool = False,
) -> Iterator[Group]:
    """The same groups with a teacher's scores as labels or beside them, in order, a chunk at a time.

    Args:
        groups: any number of them; each is read once.
        beside: False: the scores take the place of the labels. True: the labels stay, and the scores become the group's
            `teaching` (whose weights stay, if it had one), for the loss "labelled_distillation".
        teacher: an `EncoderTeacher`, `MeanTeacher`, `RunTeacher` or function; a `CrossEncoder` gives its logits.
        chunk: groups that are scored together.
        progress: show a bar on stderr.

    Raises:
        InvalidInput: an argument is refused, or the teacher has no finite score for a document.
        NonFiniteScore: a cross-encoder gave NaN or infinity.
    """
    asked: Any = EncoderTeacher(cast("Reranker", teacher)) if hasattr(teacher, "rank_many") else teacher
    if not callable(asked):
        raise InvalidInput(f"teacher is {type(teacher).__name__}, neither a teacher nor a CrossEncoder")
    return _taught(groups, asked, beside, positive_int(chunk, "chunk"), progress)


def _taught(groups: Iterable[Group], teacher: Teacher, beside: bool, chunk: int, progress: bool) -> Iterator[Group]:
    stream = iter(groups)
    total = len(groups) if isinstance(groups, Sequence) else None
    with tqdm(total=total, desc="Teaching", unit="groups", disable=not progress) as bar:
        while part := list(islice(stream, chunk)):
            scores = _checked(part, teacher(part))
            bar.update(len(part))
            for group, labels in zip(part, scores, strict=True):
                if beside:
                    yield replace(group, teaching=replace(group.teaching or Teaching(()), scores=labels))
                else:
                    yield replace(group, labels=labels, margins=False)


def standardised(scores: Sequence[float]) -> tuple[float, ...]:
    """Less their mean, over their deviation; all 0 if they are equal."""
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    # What rounding leaves of equal scores is no opinion.
    if deviation <= 1e-9 * max(1.0, abs(mean)):
        return (0.0,) * len(scores)
    return tuple((score - mean) / deviation for score in scores)


def _checked(groups: Sequence[Group], scores: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    if len(scores) != len(groups):
        raise InvalidInput(f"the teacher gave scores for {len(scores)} groups, not {len(groups)}")
    made = [tuple(float(score) for score in row) for row in scores]
    for group, row in zip(groups, made, strict=True):
        if len(row) != len(group):
            raise InvalidInput(f"{_name(group)}: the teacher gave {len(row)} scores for {len(group)} documents")
        wrong = next((place for place, score in enumerate(row) if not math.isfinite(score)), None)
        if wrong is not None:
            raise InvalidInput(f"{_name(group)}: the teacher's score of documents[{wrong}] is {row[wrong]}")
    return made


def _name(group: Group) -> str:
    return group.source or f"the group of query {group.query_id or group.query!r}"
