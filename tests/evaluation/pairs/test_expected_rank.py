"""expected_rank: by hand without ties, with ties the mean over every order that they allow."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from secondpass.evaluation.pairs.expected_rank import ndcg, reciprocal_rank


def ideal(gains):
    """Gains in the best order."""
    return tuple(sorted((gain for gain in gains if gain), reverse=True))


@pytest.mark.parametrize(
    ("gains", "k", "expected"),
    [
        ([1, 0, 0], 10, 1),
        ([0, 0, 1], 10, 1 / 3),
        ([0, 2, 1], 10, 1 / 2),
        ([0, 0, 1], 2, 0),
        ([0, 0], 10, 0),
        ([], 10, 0),
    ],
)
def test_reciprocal_rank_of_an_order(gains, k, expected):
    """One over the rank of the first document with a gain, 0 beyond k."""
    assert reciprocal_rank(gains, np.arange(len(gains), 0, -1), k) == expected


@pytest.mark.parametrize(
    ("gains", "k", "expected"),
    [
        ([1] + [0] * 9, 10, sum(1 / rank for rank in range(1, 11)) / 10),
        ([0] * 9 + [1], 10, sum(1 / rank for rank in range(1, 11)) / 10),
        ([1, 1, 0, 0], 10, 1 / 2 + 1 / 3 / 2 + 1 / 6 / 3),
        ([1, 1, 0, 0], 2, 1 / 2 + 1 / 3 / 2),
        ([1, 1, 1], 10, 1),
    ],
)
def test_reciprocal_rank_of_equal_scores(gains, k, expected):
    """Where all scores are equal it depends on how many documents have a gain, not on where they are listed."""
    assert reciprocal_rank(gains, np.zeros(len(gains)), k) == pytest.approx(expected, abs=1e-15)


def test_reciprocal_rank_of_many_equal_scores():
    """A thousand documents make no number overflow: one relevant has H(1000) / 1000 on average."""
    expected = sum(1 / rank for rank in range(1, 1001)) / 1000
    assert reciprocal_rank([0] * 999 + [1], np.zeros(1000), 1000) == pytest.approx(expected, abs=1e-12)
    assert reciprocal_rank([0, 1] * 500, np.zeros(1000), 10) == pytest.approx(0.6933, abs=1e-3)


@pytest.mark.parametrize(
    ("gains", "missed", "k", "expected"),
    [
        ([1, 0, 1], (), 10, 1.5 / (1 + 1 / math.log2(3))),
        ([0, 3, 1], (), 10, (3 / math.log2(3) + 1 / 2) / (3 + 1 / math.log2(3))),
        ([0, 1], (), 1, 0),
        ([1, 0], (1.0,), 10, 1 / (1 + 1 / math.log2(3))),  # the ideal has what the ranking lacks
        ([1, 0], (1.0,), 1, 1),
        ([1], (), 10, 1),
        ([], (1.0,), 10, 0),
    ],
)
def test_ndcg_of_an_order(gains, missed, k, expected):
    """DCG by hand over that of the ideal order of all documents with a gain, retrieved or not."""
    assert ndcg(gains, np.arange(len(gains), 0, -1), ideal([*gains, *missed]), k) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 3]), min_size=1, max_size=40), st.integers(1, 12))
def test_a_perfect_order_is_exactly_one(gains, k):
    """To the last bit, so that a report never shows 0.9999999999999999."""
    gains = [*sorted(gains, reverse=True), 0]
    gains[0] = 3
    assert ndcg(gains, np.arange(len(gains), 0, -1), ideal(gains), k) == 1.0


DOCUMENTS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 3]), st.sampled_from([-1.0, 0.0, 2.0])), max_size=6)


@settings(deadline=None, max_examples=30)
@given(DOCUMENTS, st.integers(1, 7))
def test_ties_are_the_mean_over_all_orders(documents, k):
    """Both figures equal the mean over every order in which scores do not rise."""
    gains, scores = [gain for gain, _ in documents], np.array([score for _, score in documents])
    best = ideal([*gains, 1])
    orders = [
        [gains[place] for place in order]
        for order in permutations(range(len(gains)))
        if all(scores[upper] >= scores[lower] for upper, lower in pairwise(order))
    ]
    falling = np.arange(len(gains), 0, -1)
    expected = np.mean([reciprocal_rank(order, falling, k) for order in orders])
    assert reciprocal_rank(gains, scores, k) == pytest.approx(expected, abs=1e-12)
    expected = np.mean([ndcg(order, falling, best, k) for order in orders])
    assert ndcg(gains, scores, best, k) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12), st.integers(1, 12))
def test_ndcg_of_all_documents_is_scikit_learns(documents, k):
    """Where nothing is missed it is the seed's value: scikit-learn's ndcg_score."""
    gains, scores = (np.array(column, float) for column in zip(*documents, strict=True))
    gains[0] = 2
    expected = ndcg_score([gains], [scores], k=k)
    assert ndcg(gains.tolist(), scores, ideal(gains), k) == pytest.approx(expected, abs=1e-12)
