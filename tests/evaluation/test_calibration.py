"""calibration: scores as probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.calibration import reliability
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run


def test_bins_by_hand() -> None:
    """0.1 and 0.3 (none relevant), 0.8, 0.8 and 1.0 (two relevant), in two bins.

    Errors |0 - 0.2| and |2/3 - 13/15|, both 0.2. Brier: (0.01 + 0.09 + 0.04 + 0.64 + 0) / 5 = 0.156.
    """
    qrels = Qrels({"q": {"a": 1, "b": 2, "d": 0}})
    run = Run("run", {"q": [("a", 1.0), ("b", 0.8), ("c", 0.8), ("d", 0.3), ("e", 0.1)]})
    found = reliability(qrels, run, bins=2)
    assert found is not None
    assert found.sizes == (2, 3)
    assert found.mean_scores == pytest.approx((0.2, 13 / 15))
    assert found.shares_relevant == pytest.approx((0.0, 2 / 3))
    assert found.error == pytest.approx(0.2)
    assert found.brier == pytest.approx(0.156)


def test_true_probabilities_have_next_to_no_error() -> None:
    """Documents that are relevant as often as their score says; half the scores are far off."""
    generator = np.random.default_rng(0)
    scores = generator.random(20_000)
    qrels = Qrels({"q": {f"d{index}": int(hit) for index, hit in enumerate(generator.random(20_000) < scores)}})
    honest = reliability(qrels, Run("run", {"q": [(f"d{index}", float(s)) for index, s in enumerate(scores)]}))
    bold = reliability(qrels, Run("run", {"q": [(f"d{index}", float(s > 0.5)) for index, s in enumerate(scores)]}))
    assert honest is not None
    assert bold is not None
    assert sum(honest.sizes) == 20_000
    assert len(honest.sizes) == 10
    assert honest.error < 0.015
    assert bold.error == pytest.approx(0.25, abs=0.01)


def test_empty_bins_are_left_out() -> None:
    """Scores at the edges and both ends: as many sizes as means."""
    run = Run("run", {"q": [(f"d{index}", score) for index, score in enumerate([0.0, 0.1, 0.1, 0.5, 1.0])]})
    found = reliability(Qrels({"q": {"d0": 1}}), run)
    assert found is not None
    assert sum(found.sizes) == 5
    assert len(found.sizes) == len(found.mean_scores) == len(found.shares_relevant) == 3


def test_one_kind_alone_is_measured() -> None:
    """All relevant, or none: the error is the distance of the scores from 1 or 0."""
    run = Run("run", {"q": [("a", 0.75), ("b", 0.75)]})
    for grade, error in ((1, 0.25), (0, 0.75)):
        found = reliability(Qrels({"q": {"a": grade, "b": grade}}), run)
        assert found is not None
        assert found.error == pytest.approx(error)
        assert found.brier == pytest.approx(error**2)


@pytest.mark.parametrize("scores", [[1.5, 0.5], [0.5, -0.1], [math.inf, 0.5], [None, None], []])
def test_what_is_no_probability_has_no_reliability(scores: list[float | None]) -> None:
    """A logit beyond [0, 1], an infinite score, or no score at all."""
    run = Run("run", {"q": list(zip("ab", scores, strict=False))})
    assert reliability(Qrels({"q": {"a": 1}}), run) is None


def test_no_bins_are_refused() -> None:
    """The message names the argument."""
    with pytest.raises(InvalidInput, match="bins=0"):
        reliability(Qrels({"q": {"a": 1}}), Run("run", {"q": [("a", 0.5)]}), bins=0)
