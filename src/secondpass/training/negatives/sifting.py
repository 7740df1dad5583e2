"""One query's candidates to those that may be its negatives, with a count of the others by reason."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from secondpass.errors import InvalidInput
from secondpass.text import is_blank
from secondpass.training.negatives.rule import Against, MiningRule

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
class Scored:
    """A document and its score in the candidates' list; None if it is not in it or has none."""

    id: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known about a query before mining; `relevant` are all ids that may never be a negative."""

    query_id: str
    text: str
    positives: tuple[str, ...]
    relevant: Collection[str]
    not_relevant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sifted:
    """Possible negatives in the order in which they are taken: first `judged`, then `unjudged`."""

    positives: tuple[Scored, ...]
    judged: tuple[Scored, ...]
    unjudged: tuple[Scored, ...]
    dropped: Mapping[str, int]


def plain(text: str) -> str:
    """A text without what is no difference between two documents: case and white space."""
    return " ".join(text.casefold().split())


def drawn(seed: int, query_id: str, document_id: str) -> bytes:
    """A random place in an order that depends on nothing else: neither on other queries nor on other documents."""
    name = "\0".join((str(seed), query_id, document_id))
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def sift(
    judged: Judged, corpus: Mapping[str, str], candidates: Sequence[tuple[str, float | None]], rule: MiningRule
) -> Sifted:
    """Apply all of the rule but the cross-encoder. A candidate is counted under the first reason that drops it.

    Raises:
        InvalidInput: a candidate is not in the corpus, comes twice, or has a score that is not finite, or none
            although the rule is about scores; the message names query and document.
    """
    scores = _checked(judged.query_id, corpus, candidates, rule)
    positives = tuple(Scored(document, scores.get(document)) for document in judged.positives)
    texts = {plain(judged.text): QUERY}
    texts |= {plain(corpus[document]): LIKE_RELEVANT for document in judged.relevant if document in corpus}
    limit = highest([item.score for item in positives], rule.absolute_margin, rule.relative_margin, rule.against)
    first = _judged_first(judged, corpus, scores) if rule.judged_first else {}
    # The first reason that holds; those without one are left, judged ones before the others.
    reasons = {document: _by_text(document, judged, corpus, texts) for document in first}
    rank = 0
    for document, score in scores.items():
        rank += document not in judged.relevant
        if document not in first:
            reason = _by_text(document, judged, corpus, texts) or _by_rank(rank, rule)
            reasons[document] = reason or _by_score(score, rule, limit)
    left = [document for document, reason in reasons.items() if reason is None]
    if rule.sampling == "random":
        left.sort(key=lambda name: (name not in first, drawn(rule.seed, judged.query_id, name)))
    _drop_repeated(left, corpus, reasons)
    kept = [Scored(document, scores.get(document)) for document in left if reasons[document] is None]
    return Sifted(
        positives,
        tuple(item for item in kept if item.id in first),
        tuple(item for item in kept if item.id not in first),
        Counter(reason for reason in reasons.values() if reason is not None),
    )


def highest(
    positives: Sequence[float | None], absolute: float | None, relative: float | None, against: Against
) -> float | None:
    """The score that a negative has to stay below; None if no positive has a score to measure from."""
    known = [score for score in positives if score is not None]
    if not known:
        return None
    base = min(known) if against == "lowest" else max(known)
    return base - max(absolute or 0.0, abs(base) * (relative or 0.0))


def _judged_first(judged: Judged, corpus: Mapping[str, str], scores: Mapping[str, object]) -> dict[str, None]:
    """Documents judged and not relevant, those that were found in their order before the others."""
    known = {document for document in judged.not_relevant if document in corpus}
    return dict.fromkeys([name for name in scores if name in known] + [n for n in judged.not_relevant if n in known])


def _by_text(document: str, judged: Judged, corpus: Mapping[str, str], texts: Mapping[str, str]) -> str | None:
    if document in judged.relevant:
        return RELEVANT
    return BLANK if is_blank(corpus[document]) else texts.get(plain(corpus[document]))


def _by_rank(rank: int, rule: MiningRule) -> str | None:
    return OUTSIDE if rank < rule.first or (rule.last is not None and rank > rule.last) else None


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


def _drop_repeated(documents: Sequence[str], corpus: Mapping[str, str], reasons: dict[str, str | None]) -> None:
    seen: set[str] = set()
    for document in documents:
        text = plain(corpus[document])
        if text in seen:
            reasons[document] = REPEATED
        seen.add(text)


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
