"""Is a difference between systems more than chance: tests paired by query, corrected for their number.

The randomisation test flips the signs of differences (Smucker, Allan and Carterette 2007, "A Comparison of Statistical
Significance Tests for Information Retrieval Evaluation"); the correction is Holm's (1979, "A Simple Sequentially
Rejective Multiple Test Procedure").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import Comparison, Interval
from secondpass.evaluation.measures import Report, scipy_stats

# ---- Bootstrap confidence intervals of a mean over queries.
#
# Bias-corrected and accelerated (BCa): Efron 1987, "Better Bootstrap Confidence Intervals"; scipy computes them.
RESAMPLES = 2000
# BCa leaves out each value in turn, so its work grows with the square of their number. Its corrections shrink with
# the root of that number: beyond this many values the percentile interval is the same to three digits.
MOST_FOR_BCA = 5000
CELLS_AT_ONCE = 1_000_000


def mean_interval(values: Iterable[float], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Confidence interval of the mean of values, by resampling them.

    The interval is BCa from 3 values to 5,000, and the percentile interval for 2, for more, and where BCa has no
    answer. Values that are all the same, and a single value, give an interval of that value alone: nothing in them
    says how far another sample would be.

    Args:
        values: one for each query, in any unit.
        level: the share of samples whose interval holds the true mean.
        resamples: how many samples are drawn out of the values.
        seed: same seed, same interval.

    Raises:
        InvalidInput: there is no value, one is not finite (the message gives its index), or level or resamples are
            out of range.
        MissingExtra: scipy is not installed.
    """
    sample = finite(values, "values")
    if not 0 < level < 1:
        raise InvalidInput(f"level={level!r} is not between 0 and 1")
    if resamples < 1:
        raise InvalidInput(f"resamples={resamples!r} is less than 1")
    if (sample == sample[0]).all():
        return Interval(float(sample[0]), float(sample[0]), level)
    if 3 <= len(sample) <= MOST_FOR_BCA:
        interval = _bootstrapped(sample, level, resamples, seed, "BCa")
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            return interval
    return _bootstrapped(sample, level, resamples, seed, "percentile")


def finite(values: Iterable[float], argument: str) -> NDArray[np.float64]:
    """Values as an array.

    Raises:
        InvalidInput: there is none, or one is NaN or infinite; the message gives argument and index.
    """
    array = np.fromiter(values, np.float64)
    if not len(array):
        raise InvalidInput(f"{argument} is empty")
    bad = ~np.isfinite(array)
    if bad.any():
        index = int(bad.argmax())
        raise InvalidInput(f"{argument}[{index}] is {array[index]}, no finite number")
    return array


def _bootstrapped(sample: NDArray[np.float64], level: float, resamples: int, seed: int, method: str) -> Interval:
    stats = scipy_stats()
    with warnings.catch_warnings():
        # A BCa interval of nearly constant values may not exist: scipy warns and gives NaN, which the caller handles.
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (sample,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, CELLS_AT_ONCE // len(sample)),
            confidence_level=level,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Interval(float(found.low), float(found.high), level)


RANDOMISATIONS = 9999
MOST_FLIPS = 50_000_000
FLIPS_AT_ONCE = 2_000_000


def compare(
    baseline: Report,
    others: Sequence[Report],
    measures: Iterable[str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RANDOMISATIONS,
    seed: int = 0,
    all_pairs: bool = False,
) -> tuple[Comparison, ...]:
    """Compare systems with a baseline on every measure, query by query.

    Queries without a value in one of the two are left out, and so is a measure that has none for both. All
    comparisons made in one call are corrected together. The randomisation test is exact while 2 to the power of the
    queries that change is at most `resamples`; beyond 5,000 of them fewer signs are drawn (50 million in all).

    Args:
        baseline: the report that differences are taken from.
        others: reports on the same queries.
        measures: names as in the reports; by default all of the baseline's.
        level: of the differences' intervals.
        resamples: how often signs are drawn.
        seed: same seed, same p-values.
        all_pairs: compare the others with each other too, each with those before it.

    Returns:
        System by system, in the order of the measures; the difference of a measure that is a sum is a sum.

    Raises:
        InvalidInput: two reports have other queries or lack a measure, or a value is infinite; the message names them.
        MissingExtra: scipy is not installed.
    """
    wanted = baseline.measures if measures is None else tuple(measures)
    earlier = [[baseline, *others[:place]] if all_pairs else [baseline] for place in range(len(others))]
    pairs = [
        (before, other, measure)
        for other, compared in zip(others, earlier, strict=True)
        for before in compared
        for measure in wanted
    ]
    found = [(pair, row) for pair in pairs if not np.isnan(row := _differences(*pair)).all()]
    if not found:
        return ()
    # No value is no difference: it moves no sum of the test.
    randomised = _randomisation(np.nan_to_num(np.stack([row for _, row in found])), resamples, seed)
    return tuple(
        _comparison(pair, row[~np.isnan(row)], p, adjusted, level, seed)
        for (pair, row), p, adjusted in zip(found, randomised, holm(randomised), strict=True)
    )


def _comparison(
    pair: tuple[Report, Report, str], row: NDArray[np.float64], p: float, adjusted: float, level: float, seed: int
) -> Comparison:
    before, other, measure = pair
    interval = mean_interval(row, level, seed=seed)
    times = len(row) if measure in other.sums else 1
    return Comparison(
        measure=measure,
        baseline=before.system,
        system=other.system,
        difference=float(row.mean()) * times,
        interval=Interval(interval.low * times, interval.high * times, level),
        p_randomisation=p,
        p_t=_t_test(row),
        p_adjusted=adjusted,
        helped=int((row > 0).sum()),
        hurt=int((row < 0).sum()),
        unchanged=int((row == 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false positive among all of them stays at the level.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none falls below one before it, none above 1.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = min(1.0, max(highest, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _differences(baseline: Report, other: Report, measure: str) -> NDArray[np.float64]:
    for report in (baseline, other):
        if measure not in report.values:
            raise InvalidInput(f"the report of {report.system!r} has no {measure}; it has {', '.join(report.measures)}")
    before, after = baseline.values[measure], other.values[measure]
    if before.keys() != after.keys():
        only = ", ".join(sorted(before.keys() ^ after.keys())[:3])
        raise InvalidInput(
            f"{baseline.system!r} was measured on {len(before)} queries and {other.system!r} on {len(after)}, which "
            f"are not the same (in one only: {only}, ...): a paired test needs the same"
        )
    row = np.array([after[query] - value for query, value in before.items()], np.float64)
    if np.isinf(row).any():
        raise InvalidInput(f"{measure} of {other.system!r} or {baseline.system!r} is infinite for a query")
    return row


def _randomisation(rows: NDArray[np.float64], resamples: int, seed: int) -> list[float]:
    """Two-sided p-value of each row of differences, float64 [comparisons, queries]."""
    # A query that changes nowhere has the same part in every resample, so leaving it out changes no p-value.
    changed = rows[:, (rows != 0).any(axis=0)]
    queries = changed.shape[1]
    if queries == 0:
        return [1.0] * len(rows)
    # scipy wants two observations; one more without a difference changes nothing either.
    signs = np.ones(max(2, queries))
    changed = np.pad(changed, ((0, 0), (0, len(signs) - queries)))

    def means(flipped: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        # The same flips serve every comparison. Sums that differ by rounding alone must count as equal.
        return np.asarray(np.round(flipped @ changed.T / queries, 12), np.float64)

    found = scipy_stats().permutation_test(
        (signs,),
        means,
        permutation_type="samples",
        vectorized=True,
        n_resamples=max(1, min(resamples, MOST_FLIPS // len(signs))),
        batch=max(1, FLIPS_AT_ONCE // len(signs)),
        rng=np.random.default_rng(seed),
        axis=-1,
    )
    return [float(p) for p in found.pvalue]


def _t_test(row: NDArray[np.float64]) -> float:
    """Two-sided p-value of the paired t-test; 1 where there is no difference or one query only, 0 where all agree."""
    if len(row) == 1 or not row.any():
        return 1.0
    if (row == row[0]).all():
        return 0.0
    with warnings.catch_warnings():
        # Differences that agree to the last digits: scipy warns, and the p-value is next to 0 all the same.
        warnings.simplefilter("ignore")
        return float(scipy_stats().ttest_rel(row, np.zeros_like(row)).pvalue)
