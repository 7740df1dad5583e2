"""What a run's scores are worth: how relevant and other documents are scored, what a threshold keeps, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import RelevantShare, Reliability, ScoreBin, ScoreDistribution, ThresholdPoint
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.statistics import finite, share_interval

MOST_POINTS = 100
# The highest bin is cut again only where its parts are as large as this: of fewer pairs no share can be told.
LEAST_IN_TOP = 30


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """The scores of a run's documents in judged queries, with what the judgements say; arrays [pairs].

    Scores beyond float32, infinite ones with them, have no place on an axis: they are only counted, as `beyond`.
    """

    scores: NDArray[np.float64]
    relevant: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    beyond: int = 0

    @property
    def one_sided(self) -> bool:
        """Whether no judgement says "not relevant": then nothing is known of the unjudged."""
        return bool(self.relevant[self.judged].all())

    def chosen(self, kept: slice | NDArray[Any]) -> ScoredPairs:
        """Some of them, or all in another order."""
        return ScoredPairs(self.scores[kept], self.relevant[kept], self.judged[kept], self.beyond)


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
    edges = _edges(float(pairs.scores.min()), float(pairs.scores.max()), bins)

    def counts(kind: NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(np.histogram(pairs.scores[kind], edges)[0].tolist())

    return ScoreDistribution(
        edges=tuple(edges.tolist()),
        relevant=counts(pairs.relevant),
        judged_other=counts(pairs.judged & ~pairs.relevant),
        unjudged=counts(~pairs.judged),
    )


def _edges(low: float, high: float, bins: int) -> NDArray[np.float64]:
    """Rising edges of equal bins; one bin where no number lies between two edges, around a score that is the only one.

    float64 has 15 digits: half a unit on either side of 4e14 is no room for thirty bins, next to 1e30 none at all.
    """
    if low == high:
        low, high = min(low - 0.5, np.nextafter(low, -np.inf)), max(high + 0.5, np.nextafter(high, np.inf))
    edges = np.linspace(low, high, bins + 1)
    return edges if (np.diff(edges) > 0).all() else np.array([low, high])


def thresholds(qrels: Qrels, run: Run, *, level: float = 0.95) -> tuple[ThresholdPoint, ...]:
    """What keeping the documents with score >= threshold gives, over all pairs of judged queries with a score.

    Recall is of the relevant documents in the run: a threshold cannot bring back what the run does not have.

    Returns:
        A point for each score in the run, lowest first, or about a hundred of them: half evenly spaced by rank, half by
        value, as most documents of a run have scores near its lowest. None where the run has no relevant document.

    Raises:
        MissingExtra: scipy is not installed.
    """
    pairs = scored_pairs(qrels, run)
    if not pairs.relevant.any():
        return ()
    pairs = pairs.chosen(np.argsort(pairs.scores, kind="stable"))
    values, starts = np.unique(pairs.scores, return_index=True)
    places = _spread(values)
    return tuple(
        _point(pairs, value, start, level)
        for value, start in zip(values[places].tolist(), starts[places].tolist(), strict=True)
    )


def _point(pairs: ScoredPairs, threshold: float, start: int, level: float) -> ThresholdPoint:
    kept = pairs.chosen(slice(start, None))
    every = _share(kept, level)
    return ThresholdPoint(
        threshold=threshold,
        precision=every.share,
        recall=every.relevant / int(pairs.relevant.sum()),
        kept=every.size,
        relevant=every.relevant,
        unjudged=int((~kept.judged).sum()),
        interval=every.interval,
        judged=None if pairs.one_sided else _judged_share(kept, level),
    )


def _share(pairs: ScoredPairs, level: float) -> RelevantShare:
    size, relevant = len(pairs.scores), int(pairs.relevant.sum())
    return RelevantShare(
        size, relevant, relevant / size, share_interval(relevant, size, level), float(pairs.scores.mean())
    )


def _judged_share(pairs: ScoredPairs, level: float) -> RelevantShare | None:
    return _share(pairs.chosen(pairs.judged), level) if pairs.judged.any() else None


def _spread(values: NDArray[np.floating]) -> NDArray[np.int_]:
    """Places of all values, or of about `MOST_POINTS` of them; `values` rise."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    by_rank = np.linspace(0, len(values) - 1, MOST_POINTS // 2).round().astype(int)
    by_value = np.searchsorted(values, np.linspace(values[0], values[-1], MOST_POINTS // 2))
    return np.unique(np.concatenate([by_rank, by_value]))


def reliability(qrels: Qrels, run: Run, bins: int = 10, *, level: float = 0.95) -> Reliability | None:
    """Compare scores with the share of relevant documents among those that have them (`reliability_of`).

    Returns:
        None where there is no score, or one lies outside [0, 1] and so is no probability.

    Raises:
        InvalidInput: bins is less than 1.
        MissingExtra: scipy is not installed.
    """
    pairs = scored_pairs(qrels, run)
    if bins >= 1 and (not len(pairs.scores) or pairs.beyond or pairs.scores.min() < 0 or pairs.scores.max() > 1):
        return None
    return reliability_of(pairs, bins, level=level)


def reliability_of(pairs: ScoredPairs, bins: int = 10, *, level: float = 0.95) -> Reliability:
    """Cut pairs of scores in [0, 1] into `bins` of as many each, and the highest of these once more.

    The error is `calibration_error`.

    Raises:
        InvalidInput: bins is less than 1.
        MissingExtra: scipy is not installed.
    """
    if bins < 1:
        raise InvalidInput(f"bins={bins!r} is less than 1")
    pairs = pairs.chosen(np.argsort(pairs.scores, kind="stable"))
    whole = _bins(pairs, _equal_counts(pairs.scores, bins), level, pairs.one_sided)
    highest = pairs.chosen(slice(len(pairs.scores) - whole[-1].every.size, None))
    parts = min(bins, len(highest.scores) // LEAST_IN_TOP) if len(whole) > 1 else 1
    top = _bins(highest, _equal_counts(highest.scores, max(1, parts)), level, pairs.one_sided)
    judged = [(each.judged.size, each.judged.mean_score - each.judged.share) for each in whole if each.judged]
    apart = (pairs.scores - pairs.relevant) ** 2
    return Reliability(
        bins=whole,
        top=top if len(top) > 1 else (),
        error=calibration_error(pairs.scores, pairs.relevant, bins),
        brier=float(apart.mean()),
        judged_error=_expected_error(judged) if judged else None,
        judged_brier=float(apart[pairs.judged].mean()) if judged else None,
    )


def calibration_error(probabilities: ArrayLike, relevant: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over bins of equal count: the mean over pairs of |mean probability - share relevant|.

    Equal probabilities are never parted, so that sizes differ where many are equal, and the order of the pairs tells
    nothing. Bins of equal count: Nguyen and O'Connor 2015, "Posterior calibration and exploratory analysis for natural
    language processing models"; the error: Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities
    Using Bayesian Binning".

    Args:
        probabilities: [pairs].
        relevant: [pairs], true or false.
        bins: how many.

    Raises:
        InvalidInput: there is no pair, the lengths differ, a probability is not finite, or bins is less than 1.
    """
    values, labels = finite(np.ravel(probabilities), "probabilities"), np.asarray(relevant, np.float64)
    if labels.shape != values.shape:
        raise InvalidInput(f"probabilities and relevant have {len(values)} and {labels.size} pairs")
    if bins < 1:
        raise InvalidInput(f"bins={bins!r} is less than 1")
    order = np.argsort(values, kind="stable")
    values, labels = values[order], labels[order]
    parts = _equal_counts(values, bins)
    return _expected_error([(len(values[part]), float((values[part] - labels[part]).mean())) for part in parts])


def _expected_error(errors: list[tuple[int, float]]) -> float:
    return sum(size * abs(error) for size, error in errors) / sum(size for size, _ in errors)


def _equal_counts(scores: NDArray[np.float64], bins: int) -> list[slice]:
    """Rising scores cut next to equal counts, where one score ends and another begins."""
    borders = np.concatenate([[0], 1 + np.flatnonzero(np.diff(scores)), [len(scores)]])
    wanted = np.linspace(0, len(scores), bins + 1)
    above = np.searchsorted(borders, wanted).clip(1)
    nearer_below = wanted - borders[above - 1] < borders[above] - wanted
    cuts = np.unique(borders[above - nearer_below]).tolist()
    return [slice(start, end) for start, end in pairwise(cuts)]


def _bins(pairs: ScoredPairs, parts: list[slice], level: float, one_sided: bool) -> tuple[ScoreBin, ...]:
    """A bin for each part of pairs whose scores rise."""
    found = []
    for part in parts:
        own = pairs.chosen(part)
        every, judged = _share(own, level), None if one_sided else _judged_share(own, level)
        found.append(
            ScoreBin(
                low=float(own.scores[0]),
                high=float(own.scores[-1]),
                every=every,
                judged=judged,
                unjudged=int((~own.judged).sum()),
                error=every.mean_score - every.share,
                clear_error=_clear_error([every] if one_sided else [every, judged]),
            )
        )
    return tuple(found)


def _clear_error(readings: list[RelevantShare | None]) -> float:
    """The smallest error of all readings, 0 where one of them allows none or says nothing."""
    known = [each for each in readings if each is not None]
    over = all(each.mean_score > each.interval.high for each in known)
    under = all(each.mean_score < each.interval.low for each in known)
    if len(known) < len(readings) or not (over or under):
        return 0.0
    return min((each.mean_score - each.share for each in known), key=abs)
