"""scores: distributions and thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.scores import distribution, scored_pairs, thresholds

QRELS = Qrels({"q": {"a": 2, "b": 0, "z": 1}, "r": {"a": 0, "b": 1}})
RUN = Run("run", {"q": [("a", 0.9), ("c", 0.8), ("b", 0.1)], "r": [("b", 0.8), ("a", 0.2), ("e", None)],
                  "unjudged": [("a", 0.5)]})  # fmt: skip


def test_pairs_are_those_with_a_score_and_a_judged_query() -> None:
    """No score, an unjudged query or a score beyond float32: not among them."""
    pairs = scored_pairs(QRELS, RUN)
    assert pairs.scores.tolist() == [0.9, 0.8, 0.1, 0.8, 0.2]
    assert pairs.relevant.tolist() == [True, False, False, True, False]
    assert pairs.judged.tolist() == [True, False, True, True, True]
    wild = scored_pairs(QRELS, Run("wild", {"q": [("a", math.inf), ("b", 1.0), ("c", -1e300)]}))
    assert (wild.scores.tolist(), wild.beyond) == ([1.0], 2)


def test_a_histogram_of_each_kind() -> None:
    """Two bins over 0.1 to 0.9: relevant 0.9 and 0.8, judged others 0.1 and 0.2, unjudged 0.8."""
    found = distribution(QRELS, RUN, bins=2)
    assert found is not None
    assert found.edges == pytest.approx((0.1, 0.5, 0.9))
    assert (found.relevant, found.judged_other, found.unjudged) == ((0, 2), (2, 0), (0, 1))


def test_every_score_is_in_a_bin() -> None:
    """Thirty bins by default, and no pair is lost at an edge."""
    scores = np.random.default_rng(0).normal(size=200)
    run = Run.from_scores("run", {"q": {f"d{index}": float(score) for index, score in enumerate(scores)}})
    found = distribution(Qrels({"q": {"d3": 1, "d5": 0}}), run)
    assert found is not None
    assert len(found.edges) == 31
    assert (sum(found.relevant), sum(found.judged_other), sum(found.unjudged)) == (1, 1, 198)


@pytest.mark.parametrize("scores", [[1.0, 1.0], [1e16, 1e16 + 2], [-3e38, 3e38], [5e-324, 0.0]])
def test_scores_that_are_one_or_far_apart_have_bins_too(scores: list[float]) -> None:
    """Equal scores, neighbours in floating point, the widest range and the narrowest."""
    found = distribution(QRELS, Run("run", {"q": list(zip("ab", scores, strict=True))}))
    assert found is not None
    assert sum(found.relevant) == sum(found.judged_other) == 1


def test_no_scores_have_no_distribution() -> None:
    """A run of ranks alone; and zero bins are refused."""
    assert distribution(QRELS, Run("run", {"q": [("a", None)]})) is None
    assert distribution(QRELS, Run("run", {})) is None
    with pytest.raises(InvalidInput, match="bins=0"):
        distribution(QRELS, RUN, bins=0)


def test_what_a_threshold_keeps() -> None:
    """By hand, over five pairs, two of them relevant; equal scores are kept together."""
    found = [(point.threshold, point.precision, point.recall, point.kept) for point in thresholds(QRELS, RUN)]
    assert found == [(0.1, 2 / 5, 1.0, 5), (0.2, 2 / 4, 1.0, 4), (0.8, 2 / 3, 1.0, 3), (0.9, 1.0, 0.5, 1)]


def test_a_hundred_points_at_most() -> None:
    """Of many scores the lowest, the highest and what lies evenly between."""
    run = Run.from_scores("run", {"q": {f"d{index}": float(index) for index in range(1000)}})
    found = thresholds(Qrels({"q": {"d900": 1}}), run)
    assert 50 <= len(found) <= 100
    assert (found[0].threshold, found[0].kept, found[-1].threshold, found[-1].kept) == (0.0, 1000, 999.0, 1)
    assert all(point.recall == (point.threshold <= 900) for point in found)


def test_the_upper_end_of_the_scale_has_points_too() -> None:
    """Ten thousand documents near 0 and five above: a threshold for precision lies among those five."""
    ranking = [(f"d{place}", 0.9 - 0.1 * place if place < 5 else 0.01 / place) for place in range(10_000)]
    found = thresholds(Qrels({"q": {"d0": 1, "d1": 1}}), Run("run", {"q": ranking}))
    assert [point.kept for point in found[-5:]] == [5, 4, 3, 2, 1]
    assert len(found) <= 100


def test_nothing_relevant_has_no_thresholds() -> None:
    """Precision and recall of nothing say nothing: no points, no warning."""
    assert thresholds(QRELS, Run("run", {"q": [("b", 1.0)]})) == ()
    assert thresholds(QRELS, Run("run", {})) == ()
