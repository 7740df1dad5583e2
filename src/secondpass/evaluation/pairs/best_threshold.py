"""The thresholds that scores allow, and the best of them.

A label 1 is predicted where score > threshold, so equal scores are never parted. Every way to part the others is
tried: between two neighbours (the mean of both), below all scores, and at the highest (no label 1 at all).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def thresholds(scores: NDArray[Any]) -> NDArray[Any]:
    """All thresholds in the precision of the scores, those between scores first, the highest of them in front."""
    levels = np.unique(scores)[::-1]
    upper, lower = levels[:-1], levels[1:]
    middle = upper / 2 + lower / 2
    # The mean of two neighbouring floats is one of them: the lower parts them, the upper does not.
    between = np.where((lower <= middle) & (middle < upper), middle, lower)
    below = np.nextafter(levels[-1:], levels.dtype.type(-np.inf))
    return np.concatenate([between, below, levels[:1]])


def best_accuracy(scores: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The threshold with most right predictions; of equally good ones the first of `thresholds`."""
    tried = thresholds(scores)
    hits, kept = _above(scores[labels == 1], tried), _above(scores, tried)
    # hits + true negatives, and the number of negatives is the same for all
    return float(tried[np.argmax(2 * hits - kept)])


def best_f1(scores: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The threshold with the highest F1 of label 1, as above; 0.0 where no label is 1: each F1 is 0 then."""
    positives = int(labels.sum())
    if not positives:
        return 0.0
    tried = thresholds(scores)
    hits, kept = _above(scores[labels == 1], tried), _above(scores, tried)
    return float(tried[np.argmax(2 * hits / (kept + positives))])


def _above(scores: NDArray[Any], tried: NDArray[Any]) -> NDArray[np.int64]:
    """How many scores are above each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), tried, side="right")
