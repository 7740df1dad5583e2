"""intervals: bootstrap confidence intervals of a mean."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.intervals import MOST_FOR_BCA, finite, mean_interval


def like_ndcg(generator: np.random.Generator, size: int) -> np.ndarray:
    """Many failures, some perfect rankings, the rest skewed: true mean 0.1 + 0.75 / 3."""
    kind = generator.random(size)
    return np.where(kind < 0.15, 0.0, np.where(kind >= 0.9, 1.0, generator.beta(2, 4, size)))


def like_rr(generator: np.random.Generator, size: int) -> np.ndarray:
    """1, 1/2, 1/3 or nothing: true mean 0.5 + 0.2 / 2 + 0.1 / 3."""
    return generator.choice([1.0, 1 / 2, 1 / 3, 0.0], size, p=[0.5, 0.2, 0.1, 0.2])


@pytest.mark.parametrize(
    ("draw", "truth"), [(like_ndcg, 0.1 + 0.75 / 3), (like_rr, 0.5 + 0.2 / 2 + 0.1 / 3)], ids=["ndcg", "rr"]
)
def test_intervals_contain_the_truth_as_often_as_they_say(draw, truth: float) -> None:
    """Of 1,000 simulated runs of 100 queries, 93 to 97 % of the 95 % intervals hold the true mean."""
    generator = np.random.default_rng(4)
    held = 0
    for seed in range(1000):
        found = mean_interval(draw(generator, 100), resamples=1000, seed=seed)
        held += found.low <= truth <= found.high
    assert 930 <= held <= 970


def test_a_higher_level_gives_a_wider_interval() -> None:
    """An interval of 99 % holds the one of 90 %, and both hold the mean."""
    values = like_ndcg(np.random.default_rng(0), 50)
    wide, narrow = mean_interval(values, 0.99), mean_interval(values, 0.9)
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high
    assert (wide.level, narrow.level) == (0.99, 0.9)


def test_the_seed_decides() -> None:
    """Same seed, same interval; another seed draws other samples."""
    values = like_ndcg(np.random.default_rng(0), 50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)


@pytest.mark.parametrize("values", [[0.1] * 7, [0.25], [0.3, 0.3]])
def test_values_all_the_same_are_their_own_interval(values: list[float]) -> None:
    """No spread, or a single query, gives the value itself, to the last digit and without a warning."""
    found = mean_interval(values)
    assert (found.low, found.high) == (values[0], values[0])


def test_two_values_give_all_that_lies_between_them() -> None:
    """A resample of two values is either of them with 1/4 each: beyond the 2.5 % on each side."""
    found = mean_interval([0.2, 0.6])
    assert (found.low, found.high) == pytest.approx((0.2, 0.6))


@pytest.mark.parametrize("values", [[0.0] * 99 + [1.0], [0.5] * 30 + [0.5 + 1e-16 * 2], [0.0, 0.0, 1.0]])
def test_hardly_any_spread_gives_finite_numbers(values: list[float]) -> None:
    """Where scipy has no BCa interval (it warns and gives NaN) the percentile interval stands in."""
    found = mean_interval(values)
    assert 0.0 <= found.low <= found.high <= 1.0


def test_many_values_take_the_percentile_interval() -> None:
    """Ten thousand queries work in bounded memory, and the interval is the normal one to three digits."""
    values = like_ndcg(np.random.default_rng(0), 2 * MOST_FOR_BCA)
    error = 1.96 * values.std() / math.sqrt(len(values))
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=1e-3)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values is empty"),
        ([0.1, math.nan], {}, r"values\[1\] is nan"),
        ([math.inf], {}, r"values\[0\] is inf"),
        ([0.1], {"level": 1.0}, "level=1.0"),
        ([0.1], {"resamples": 0}, "resamples=0"),
    ],
)
def test_what_has_no_interval_is_refused(values: list[float], options: dict[str, float], message: str) -> None:
    """Never NaN out: the message names argument and index."""
    with pytest.raises(InvalidInput, match=message):
        mean_interval(values, **options)


def test_finite_gives_the_values() -> None:
    """Numbers come back as float64, whatever gave them."""
    assert finite(iter([1, 0.5]), "x").tolist() == [1.0, 0.5]
