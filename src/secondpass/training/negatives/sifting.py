"""One query's candidates to those that may be its negatives, with a count of the others by reason."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, get_args

from secondpass.errors import InvalidInput
from secondpass.text import finite_number, is_blank, positive_int

if TYPE_CHECKING:
    from secondpass.ranking import Relevance
    from secondpass.reranker import Reranker

Sampling = Literal["top", "random"]
Against = Literal["lowest", "highest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningRule:
    """Which candidates of a query are its negatives.

    The margins are those of Moreira et al. 2024, "NV-Retriever" (https://arxiv.org/abs/2407.15831), which does best
    with `relative_margin=0.05`; sentence-transformers' `mine_hard_negatives` has them under the same names.

    Attributes:
        negatives: for each query, at most.
        first: rank of the first candidate that may be one, from 1. Ranks are those of the candidates' list as it
            comes, without the documents that are judged relevant.
        last: rank of the last one; None takes the whole list.
        min_score: a candidate with a lower score is dropped.
        max_score: a candidate with a higher score is dropped.
        absolute_margin: a negative's score is lower than the positive's by more than this.
        relative_margin: the same as a share of the positive's score: 0.05 is five percent of its magnitude.
        rescore_margin: the same for the cross-encoder's scores (activated, as `predict` gives them).
        against: which of several positives the margins are measured from.
        sampling: "top" takes the best candidates that are left, "random" any of them.
        judged_first: documents judged and not relevant are taken before any other and, since somebody has looked at
            them, whatever their rank and score. False: they are candidates like all others.
        positives: for each query, at most, of the best grade first; None takes all.
        graded: labels are the grades; False: 1 for the positives. Negatives have 0.
        ignore_identical_ids: no document is a negative whose id is the query's, nor one with its text: where ids are
            shared (ArguAna, Quora) it is the query itself. It has no rank.
        seed: of "random" and of the choice among positives. Each query is sampled by itself.
    """

    negatives: int = 5
    first: int = 1
    last: int | None = None
    min_score: float | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    rescore_margin: float = 0.0
    against: Against = "lowest"
    sampling: Sampling = "top"
    judged_first: bool = True
    positives: int | None = None
    graded: bool = False
    ignore_identical_ids: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("negatives", "first"):
            positive_int(getattr(self, name), name)
        for name in ("last", "positives"):
            if getattr(self, name) is not None:
                positive_int(getattr(self, name), name)
        if self.last is not None and self.last < self.first:
            raise InvalidInput(f"last={self.last} is before first={self.first}")
        for name in ("min_score", "max_score", "absolute_margin", "relative_margin", "rescore_margin"):
            value = getattr(self, name)
            if value is not None and finite_number(value, name) < 0 and name.endswith("margin"):
                raise InvalidInput(f"{name}={value!r} is below 0: negatives would outscore the positive")
        for name, known in (("against", get_args(Against)), ("sampling", get_args(Sampling))):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidInput(f"seed={self.seed!r} is not a whole number")

    @property
    def needs_scores(self) -> str | None:
        """The first setting that cannot be followed for a candidate without a score."""
        named = ("min_score", "max_score", "absolute_margin", "relative_margin")
        return next((name for name in named if getattr(self, name) is not None), None)

    def as_json(self) -> dict[str, object]:
        """Plain values, for reports."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


RELEVANT = "judged relevant"
OUTSIDE = "outside the ranks"
BLANK = "no text"
QUERY = "the query itself"
LIKE_RELEVANT = "same text as a relevant document"
REPEATED = "same text as another candidate"
BELOW = "below min_score"
ABOVE = "above max_score"
UNMEASURED = "no score of a relevant document to measure from"
WITHIN = "within the margin"
RESCORED = "relevant to the cross-encoder"
REASONS = (
    RELEVANT, OUTSIDE, BLANK, QUERY, LIKE_RELEVANT, REPEATED, BELOW, ABOVE, UNMEASURED, WITHIN, RESCORED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A document and its score in the candidates' list; None if it is not in it or has none."""

    id: str
    score: float | None


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """What is known about a query before mining; `relevant` are all ids that may never be a negative."""

    query_id: str
    text: str
    positives: tuple[str, ...]
    relevant: Collection[str]
    not_relevant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sifted:
    """Possible negatives in the order in which they are taken: first `judged`, then `unjudged`."""

    positives: tuple[ScoredCandidate, ...]
    judged: tuple[ScoredCandidate, ...]
    unjudged: tuple[ScoredCandidate, ...]
    dropped: Mapping[str, int]


def plain(text: str) -> str:
    """A text without what is no difference between two documents: case and white space."""
    return " ".join(text.casefold().split())


def drawn(seed: int, query_id: str, document_id: str) -> bytes:
    """A random place in an order that depends on nothing else: neither on other queries nor on other documents."""
    name = "\0".join((str(seed), query_id, document_id))
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def sift(
    judged: JudgedQuery, corpus: Mapping[str, str], candidates: Sequence[tuple[str, float | None]], rule: MiningRule
) -> Sifted:
    """Apply all of the rule but the cross-encoder. A candidate is counted under the first reason that drops it.

    Raises:
        InvalidInput: a candidate is not in the corpus, comes twice, or has a score that is not finite, or none
            although the rule is about scores; the message names query and document.
    """
    scores = _checked(judged.query_id, corpus, candidates, rule)
    positives = tuple(ScoredCandidate(document, scores.get(document)) for document in judged.positives)
    own = judged.query_id if rule.ignore_identical_ids and judged.query_id in corpus else None
    texts = {plain(text): QUERY for text in (judged.text, *([] if own is None else [corpus[own]]))}
    texts |= {plain(corpus[document]): LIKE_RELEVANT for document in judged.relevant if document in corpus}
    limit = highest([item.score for item in positives], rule.absolute_margin, rule.relative_margin, rule.against)
    first = _judged_first(judged, corpus, scores) if rule.judged_first else {}
    # The first reason that holds; those without one are left, judged ones before the others.
    reasons = {document: _by_text(document, judged, corpus, texts) for document in first}
    rank = 0
    for document, score in scores.items():
        rank += document != own and document not in judged.relevant
        if document not in first:
            outside = rank < rule.first or (rule.last is not None and rank > rule.last)
            reason = _by_text(document, judged, corpus, texts) or (OUTSIDE if outside else None)
            reasons[document] = reason or _by_score(score, rule, limit)
    left = [document for document, reason in reasons.items() if reason is None]
    if rule.sampling == "random":
        left.sort(key=lambda name: (name not in first, drawn(rule.seed, judged.query_id, name)))
    seen: set[str] = set()
    for document in left:
        text = plain(corpus[document])
        if text in seen:
            reasons[document] = REPEATED
        seen.add(text)
    kept = [ScoredCandidate(document, scores.get(document)) for document in left if reasons[document] is None]
    looked_at = tuple(item for item in kept if item.id in first)
    others = tuple(item for item in kept if item.id not in first)
    return Sifted(positives, looked_at, others, Counter(reason for reason in reasons.values() if reason is not None))


def highest(
    positives: Sequence[float | None], absolute: float | None, relative: float | None, against: Against
) -> float | None:
    """The score that a negative has to stay below; None if no positive has a score to measure from."""
    known = [score for score in positives if score is not None]
    if not known:
        return None
    base = min(known) if against == "lowest" else max(known)
    return base - max(absolute or 0.0, abs(base) * (relative or 0.0))


def _judged_first(judged: JudgedQuery, corpus: Mapping[str, str], scores: Mapping[str, object]) -> dict[str, None]:
    """Documents judged and not relevant, those that were found in their order before the others."""
    known = {document for document in judged.not_relevant if document in corpus}
    return dict.fromkeys([name for name in scores if name in known] + [n for n in judged.not_relevant if n in known])


def _by_text(document: str, judged: JudgedQuery, corpus: Mapping[str, str], texts: Mapping[str, str]) -> str | None:
    if document in judged.relevant:
        return RELEVANT
    return BLANK if is_blank(corpus[document]) else texts.get(plain(corpus[document]))


def _by_score(score: float | None, rule: MiningRule, limit: float | None) -> str | None:
    if score is None:
        return None
    if rule.min_score is not None and score < rule.min_score:
        return BELOW
    if rule.max_score is not None and score > rule.max_score:
        return ABOVE
    if rule.absolute_margin is None and rule.relative_margin is None:
        return None
    if limit is None:
        return UNMEASURED
    return WITHIN if score >= limit else None


def _checked(
    query_id: str, corpus: Mapping[str, str], candidates: Sequence[tuple[str, float | None]], rule: MiningRule
) -> dict[str, float | None]:
    """Score by document id, in order."""
    scores: dict[str, float | None] = {}
    needed = rule.needs_scores
    for document, score in candidates:
        name = f"candidates of query {query_id!r}: document {document!r}"
        if document not in corpus:
            raise InvalidInput(f"{name} is not in the corpus: do they belong together?")
        if document in scores:
            raise InvalidInput(f"{name} comes twice")
        if score is None and needed is not None:
            raise InvalidInput(f"{name} has no score, which {needed} needs")
        if score is not None and not math.isfinite(score):
            raise InvalidInput(f"{name} has the score {score}")
        scores[document] = score
    return scores


# ---- A cross-encoder against false negatives: what it finds as relevant as the positive is no negative.
#
# Qu et al. 2021, "RocketQA" (https://arxiv.org/abs/2010.08191): most of a first pass's best unlabelled documents are
# relevant, and nobody has labelled them.
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

    judged: JudgedQuery
    sifted: Sifted
    negatives: list[ScoredCandidate]
    dropped: Counter[str]
    scores: dict[str, float] = field(default_factory=dict)


def choices(sifted: Sequence[tuple[JudgedQuery, Sifted]], rule: MiningRule) -> list[Choice]:
    """For each query the first of its possible negatives, as many as the rule asks for."""
    return [
        Choice(judged, found, [*found.judged, *found.unjudged][: rule.negatives], Counter(found.dropped))
        for judged, found in sifted
    ]


def rescored_choices(
    sifted: Sequence[tuple[JudgedQuery, Sifted]],
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


def _take(choice: Choice, items: Sequence[ScoredCandidate], rule: MiningRule) -> None:
    positives = [choice.scores[item.id] for item in choice.sifted.positives]
    limit = highest(positives, rule.rescore_margin, None, rule.against)
    for item in items:
        if limit is None or choice.scores[item.id] >= limit:
            choice.dropped[RESCORED] += 1
        else:
            choice.negatives.append(item)


def _score(
    asked: Sequence[tuple[Choice, Sequence[ScoredCandidate]]],
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
