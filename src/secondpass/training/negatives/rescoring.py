"""A cross-encoder against false negatives: what it finds as relevant as the positive is no negative.

Qu et al. 2021, "RocketQA" (https://arxiv.org/abs/2010.08191): most of a first pass's best unlabelled documents are
relevant, and nobody has labelled them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secondpass.training.negatives.rule import MiningRule
from secondpass.training.negatives.sifting import RESCORED, Judged, Scored, Sifted, highest

if TYPE_CHECKING:
    from secondpass.relevance import Relevance
    from secondpass.reranker import Reranker


@dataclass(slots=True)
class Choice:
    """One query's negatives while they are being found.

    Attributes:
        judged: the query.
        sifted: what may be a negative.
        negatives: those taken so far.
        dropped: how many candidates were not, by reason.
        scores: the cross-encoder's by document id, of what it has read.
    """

    judged: Judged
    sifted: Sifted
    negatives: list[Scored]
    dropped: Counter[str]
    scores: dict[str, float] = field(default_factory=dict)


def choices(sifted: Sequence[tuple[Judged, Sifted]], rule: MiningRule) -> list[Choice]:
    """For each query the first of its possible negatives, as many as the rule asks for."""
    return [
        Choice(judged, found, [*found.judged, *found.unjudged][: rule.negatives], Counter(found.dropped))
        for judged, found in sifted
    ]


def rescored_choices(
    sifted: Sequence[tuple[Judged, Sifted]],
    rule: MiningRule,
    corpus: Mapping[str, str],
    encoder: Reranker,
    relevance: Relevance | None = None,
) -> list[Choice]:
    """The same, but of unjudged documents only those that the cross-encoder scores below the positives.

    They are read in the order in which they are taken, and only until enough are found; the queries share batches.

    Raises:
        InvalidInput: the encoder refuses a text, or `relevance`.
        NonFiniteScore: it gave NaN or infinity.
    """
    made = [
        Choice(judged, found, list(found.judged[: rule.negatives]), Counter(found.dropped)) for judged, found in sifted
    ]
    read = dict.fromkeys(range(len(made)), 0)

    def lacking() -> list[int]:
        return [
            row
            for row, choice in enumerate(made)
            if len(choice.negatives) < rule.negatives and read[row] < len(choice.sifted.unjudged)
        ]

    _score([(made[row], made[row].sifted.positives) for row in lacking()], corpus, encoder, relevance)
    while rows := lacking():
        parts = []
        for row in rows:
            end = read[row] + rule.negatives - len(made[row].negatives)
            parts.append((made[row], made[row].sifted.unjudged[read[row] : end]))
            read[row] = end
        _score(parts, corpus, encoder, relevance)
        for choice, items in parts:
            _take(choice, items, rule)
    return made


def _take(choice: Choice, items: Sequence[Scored], rule: MiningRule) -> None:
    positives = [choice.scores[item.id] for item in choice.sifted.positives]
    limit = highest(positives, rule.rescore_margin, None, rule.against)
    for item in items:
        if limit is None or choice.scores[item.id] >= limit:
            choice.dropped[RESCORED] += 1
        else:
            choice.negatives.append(item)


def _score(
    asked: Sequence[tuple[Choice, Sequence[Scored]]],
    corpus: Mapping[str, str],
    encoder: Reranker,
    relevance: Relevance | None,
) -> None:
    rankings = encoder.rank_many(
        [choice.judged.text for choice, _ in asked],
        [[corpus[item.id] for item in items] for _, items in asked],
        relevance=relevance,
        show_progress_bar=False,
    )
    for (choice, items), ranking in zip(asked, rankings, strict=True):
        for document in ranking.documents:
            choice.scores[items[document.index].id] = document.score
