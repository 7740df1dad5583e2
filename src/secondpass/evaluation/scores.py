"""What scores say: how they are distributed, and what a threshold keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import ScoreDistribution, ThresholdPoint
from secondpass.evaluation.libraries import scikit_metrics
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run

MOST_POINTS = 100


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """The scores of a run's documents in judged queries, with what the judgements say; arrays [pairs].

    Scores beyond float32, infinite ones with them, have no place on an axis: they are only counted, as `beyond`.
    """

    scores: NDArray[np.float64]
    relevant: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    beyond: int


def scored_pairs(qrels: Qrels, run: Run) -> ScoredPairs:
    """Gather the pairs of a run that have a score and whose query has judgements."""
    scores: list[float] = []
    grades: list[int | None] = []
    for query, judgements in qrels.items():
        for document, score in run.get(query, {}).items():
            if score is not None:
                scores.append(score)
                grades.append(judgements.get(document))
    values = np.array(scores, np.float64)
    kept = np.abs(values) <= np.finfo(np.float32).max
    relevant = np.array([grade is not None and grade > 0 for grade in grades], np.bool_)
    judged = np.array([grade is not None for grade in grades], np.bool_)
    return ScoredPairs(values[kept], relevant[kept], judged[kept], int((~kept).sum()))


def distribution(qrels: Qrels, run: Run, bins: int = 30) -> ScoreDistribution | None:
    """Histograms of the scores of relevant, of other judged and of unjudged documents, over the same bins.

    Returns:
        None where no document of a judged query has a score.

    Raises:
        InvalidInput: bins is less than 1.
    """
    if bins < 1:
        raise InvalidInput(f"bins={bins!r} is less than 1")
    pairs = scored_pairs(qrels, run)
    if not len(pairs.scores):
        return None
    low, high = float(pairs.scores.min()), float(pairs.scores.max())
    # Scores so close together that no number lies between two edges have a single bin.
    width = (high - low) / bins
    fits = low == high or (low + width > low and high - width < high)
    edges = np.histogram_bin_edges(pairs.scores, bins if fits else 1)

    def counts(kind: NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(np.histogram(pairs.scores[kind], edges)[0].tolist())

    return ScoreDistribution(
        edges=tuple(edges.tolist()),
        relevant=counts(pairs.relevant),
        judged_other=counts(pairs.judged & ~pairs.relevant),
        unjudged=counts(~pairs.judged),
    )


def thresholds(qrels: Qrels, run: Run) -> tuple[ThresholdPoint, ...]:
    """What keeping the documents with score >= threshold gives, over all pairs of judged queries with a score.

    Precision counts unjudged documents as not relevant. Recall is of the relevant documents in the run: a threshold
    cannot bring back what the run does not have.

    Returns:
        A point for each score in the run, lowest first, or about a hundred of them: half evenly spaced by rank, half by
        value, as most documents of a run have scores near its lowest. None where the run has no relevant document.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    pairs = scored_pairs(qrels, run)
    if not pairs.relevant.any():
        return ()
    precisions, recalls, values = scikit_metrics().precision_recall_curve(pairs.relevant, pairs.scores)
    chosen = _spread(values)
    ordered = np.sort(pairs.scores)
    kept = len(ordered) - np.searchsorted(ordered, values[chosen], side="left")
    return tuple(
        ThresholdPoint(float(values[index]), float(precisions[index]), float(recalls[index]), int(number))
        for index, number in zip(chosen, kept, strict=True)
    )


def _spread(values: NDArray[np.floating]) -> NDArray[np.int_]:
    """Places of all values, or of about `MOST_POINTS` of them; `values` rise."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    by_rank = np.linspace(0, len(values) - 1, MOST_POINTS // 2).round().astype(int)
    by_value = np.searchsorted(values, np.linspace(values[0], values[-1], MOST_POINTS // 2))
    return np.unique(np.concatenate([by_rank, by_value]))
