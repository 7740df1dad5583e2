"""Logits to an order: the one rule by which every door of the library ranks.

Documents are ordered by their logits; where the activation is not known to rise with the logit, by the score first.
What ties keeps the caller's order. Documents that say nothing come last, with the lowest score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from secondpass.activations import Activation
from secondpass.errors import NonFiniteScore
from secondpass.limits import positive_int
from secondpass.outputs import activated, by_label, rises
from secondpass.record import CallRecord, Cut
from secondpass.relevance import Relevance, relevance_logits

if TYPE_CHECKING:
    from secondpass.engine import Scored

Numbers = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

# The log-odds of a document that says nothing; models for ranking stay far above it. The lowest grade is 0.
BLANK_LOGIT = -100.0
BLANK_GRADE = 0.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """Document `index` of the input with its activated `score` and the `logit` it was ranked by."""

    index: int
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """One query's documents, best first; `truncated` counts its own documents, `record` the whole call."""

    documents: tuple[Ranked, ...]
    truncated: tuple[Cut, ...]
    record: CallRecord

    def _repr_html_(self) -> str:
        """A table for notebooks: place, index of the document, score, logit, and the tokens that were not read."""
        cuts = {cut.index: cut for cut in self.truncated}
        rows = "".join(
            f"<tr><td>{place}</td><td>{one.index}</td><td>{one.score:.4f}</td><td>{one.logit:.4f}</td>"
            f"<td>{_lost(cuts.get(one.index))}</td></tr>"
            for place, one in enumerate(self.documents, start=1)
        )
        names = "".join(f"<th>{name}</th>" for name in ("rank", "index", "score", "logit", "not read"))
        return f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"


def _lost(cut: Cut | None) -> str:
    return "" if cut is None else f"{cut.query_tokens + cut.document_tokens} tokens"


def ranked(
    logits: torch.Tensor,
    activation: Activation,
    *,
    rule: Relevance | None = None,
    blank: Flags | None = None,
    sizes: Sequence[int] | None = None,
    top_k: int | None = None,
) -> list[tuple[Ranked, ...]]:
    """Order the documents of each query.

    A blank document has the logit `BLANK_LOGIT` (by expected grade `BLANK_GRADE`) or the lowest of its query's others
    where that is lower, and the score of that logit or the lowest of the others: nothing in it answers anything,
    whatever the model says.

    Args:
        logits: float32 [documents, labels] of a whole call.
        activation: applied to the logits that documents are ranked by, [documents, 1].
        rule: which number a head of several labels is ranked by; None takes the first label.
        blank: bool [documents]; None: no document is blank.
        sizes: documents of each query, in the order of the call; None: all are one query's.
        top_k: how many of each query's documents are kept; None keeps all.

    Raises:
        InvalidInput: the activation does not keep the rows.
        NonFiniteScore: it gives NaN for a document that is not blank.
    """
    silent = np.zeros(len(logits), np.bool_) if blank is None else blank
    grades = rule == "expected" and logits.shape[1] > 1
    raw = _relevant(logits, rule)
    scores = _activated(raw, activation, silent)
    made = []
    for part in _parts([len(raw)] if sizes is None else sizes):
        own, logit, score = silent[part], raw[part], scores[part]
        if own.any():
            _lower(score, logit, own, activation, BLANK_GRADE if grades else BLANK_LOGIT)
        best = order(logit if rises(activation) else score, logit, own)
        values, numbers = score.tolist(), logit.tolist()
        made.append(tuple(Ranked(index, values[index], numbers[index]) for index in best[:top_k]))
    return made


def rankings(
    scored: Scored,
    sizes: Sequence[int],
    activation: Activation,
    rule: Relevance | None,
    top_k: int | None,
) -> list[Ranking]:
    """A `Ranking` of each query out of one call over `sizes` documents each.

    Raises:
        InvalidInput, NonFiniteScore: as `ranked`.
    """
    orders = ranked(scored.logits, activation, rule=rule, blank=scored.blank[:, -1], sizes=sizes, top_k=top_k)
    cuts = scored.record.truncated
    return [
        Ranking(
            documents,
            tuple(replace(cut, index=cut.index - part.start) for cut in cuts if part.start <= cut.index < part.stop),
            scored.record,
        )
        for documents, part in zip(orders, _parts(sizes), strict=True)
    ]


def order(scores: npt.ArrayLike, logits: npt.ArrayLike, blank: npt.ArrayLike | None = None) -> list[int]:
    """Positions best first, all arguments [documents]: by score, then logit, then place; blank ones last, by place.

    A saturated activation (sigmoid(17) == sigmoid(40) in float32) makes ties that the logits still tell apart.
    """
    score, logit = np.asarray(scores), np.asarray(logits)
    silent = np.zeros(len(score), np.bool_) if blank is None else np.asarray(blank)
    best = np.lexsort((np.where(silent, 0.0, -logit), np.where(silent, 0.0, -score), silent))
    positions: list[int] = best.tolist()
    return positions


def checked_top_k(top_k: int | None) -> int | None:
    """Return `top_k` if it is None or a positive int.

    Raises:
        InvalidInput: it is neither.
    """
    return None if top_k is None else positive_int(top_k, "top_k")


def _relevant(logits: torch.Tensor, rule: Relevance | None) -> Numbers:
    """The numbers to rank by, a copy."""
    several = rule is not None and logits.shape[1] > 1
    raw: Numbers = (relevance_logits(logits, rule) if rule is not None and several else logits[:, 0]).numpy().copy()
    return raw


def _activated(raw: Numbers, activation: Activation, silent: Flags) -> Numbers:
    """Scores of the documents that say something; those of the others are made later."""
    scores = np.zeros_like(raw)
    rows = np.flatnonzero(~silent)
    if len(rows):
        made = activated(torch.from_numpy(raw[rows])[:, None], activation, False, rows.tolist())
        scores[rows] = by_label(made, 1).float().numpy()
    return scores


def _lower(score: Numbers, logit: Numbers, silent: Flags, activation: Activation, least: float) -> None:
    """Put the blank documents of one query below its others."""
    others = ~silent
    logit[silent] = min([least, *logit[others].tolist()])
    candidates = score[others].tolist()
    try:
        made = activated(torch.from_numpy(logit[silent][:1])[:, None], activation, False)
        candidates += by_label(made, 1).tolist()
    except NonFiniteScore:
        candidates = candidates or [least]
    score[silent] = min(candidates)


def _parts(sizes: Sequence[int]) -> Iterator[slice]:
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size
