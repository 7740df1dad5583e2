"""MRR and nDCG of one ranking that may have equal scores: the mean over all orders that these allow.

With equal scores the order is left to chance (McSherry and Najork 2008, "Computing information retrieval performance
measures efficiently in the presence of tied scores"), and no relevant document may profit from where it was listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.evaluation.libraries import scikit_metrics


def reciprocal_rank(gains: Sequence[float], scores: NDArray[Any], k: int) -> float:
    """Expected 1 / rank of the first document with a gain, 0 beyond rank k."""
    ahead = 0
    for members in _groups(scores):
        size, relevant = len(members), sum(gains[member] > 0 for member in members)
        if relevant:
            orders = comb(size, relevant)
            places = range(1, min(size - relevant + 1, k - ahead) + 1)
            # With the first of them at a place, the others are anywhere behind it.
            return sum(comb(size - place, relevant - 1) / orders / (ahead + place) for place in places)
        ahead += size
    return 0.0


def ndcg(gains: Sequence[float], scores: NDArray[Any], ideal: tuple[float, ...], k: int) -> float:
    """Expected DCG at k over the DCG of the `ideal` order's gains; gains count as they are (linear)."""
    # Both sums have as many terms, so that equal orders are equal to the last bit.
    width = 2 + max(len(gains), len(ideal))
    places = np.unique(-scores, return_inverse=True)[1]
    return _dcg(gains, places, width, k) / _ideal_dcg(ideal, width, k)


@lru_cache(maxsize=1024)
def _ideal_dcg(ideal: tuple[float, ...], width: int, k: int) -> float:
    return _dcg(ideal, np.arange(len(ideal)), width, k)


def _dcg(gains: Sequence[float], places: NDArray[np.int64], width: int, k: int) -> float:
    """DCG averaged over equal places; ndcg_score would take its ideal from the candidates."""
    row = np.zeros((1, width))
    row[0, : len(gains)] = gains
    # Documents without gain stand behind all others, each at a place of its own.
    order = np.arange(width)
    order[: len(places)] = places
    return float(scikit_metrics().dcg_score(row, -order[None], k=k))


def _groups(scores: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Positions by score, best first."""
    order = np.argsort(-scores, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(scores[order])) + 1)
