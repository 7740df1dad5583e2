"""Is a difference between systems more than chance: tests paired by query, corrected for their number.

The randomisation test flips the signs of differences (Smucker, Allan and Carterette 2007, "A Comparison of Statistical
Significance Tests for Information Retrieval Evaluation"); the correction is Holm's (1979, "A Simple Sequentially
Rejective Multiple Test Procedure").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import Comparison, Grouping, Interval, QueryGroup
from secondpass.evaluation.measures import Report, scipy_stats
from secondpass.lazy import optional

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


def share_interval(hits: int, of: int, level: float = 0.95) -> Interval:
    """The exact binomial interval of hits / of (Clopper and Pearson 1934); 0 to 1 where `of` is 0.

    It holds the true share at least as often as `level` says.

    Raises:
        MissingExtra: scipy is not installed.
    """
    beta, tail = scipy_stats().beta, (1 - level) / 2
    low = float(beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return Interval(low, high, level)


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
# So many means are held at a time.
MOST_MEANS = 20_000_000
# The least p-value of n draws is 2 / (n + 1): corrected for all tests made together it must come to less than half of
# 1 - level, or many runs, or a high level, could never be told apart.
DRAWS_FOR_A_LEVEL = 5


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
    queries that change is at most `resamples`; beyond 5,000 of them fewer signs are drawn (50 million in all), for very
    many comparisons and high levels more: a corrected p-value can always come to less than half of 1 - level.

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
    randomised = _randomisation(np.nan_to_num(np.stack([row for _, row in found])), resamples, level, seed)
    return tuple(
        _comparison(pair, row[~np.isnan(row)], p, adjusted, level, seed, len(found))
        for (pair, row), p, adjusted in zip(found, randomised, holm(randomised), strict=True)
    )


def _comparison(
    pair: tuple[Report, Report, str],
    row: NDArray[np.float64],
    p: float,
    adjusted: float,
    level: float,
    seed: int,
    together: int,
) -> Comparison:
    before, other, measure = pair
    interval = mean_interval(row, level, seed=seed)
    effect = effect_size(row)
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
        effect=effect,
        queries_needed=None if effect is None else queries_needed(effect, (1 - level) / together),
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


def _draws(resamples: int, length: int, most: int, together: int, level: float) -> int:
    """How often to draw for so many tests of rows of one length, of which `most` numbers are drawn in all."""
    return max(1, min(resamples, most // length), math.ceil(DRAWS_FOR_A_LEVEL * together / (1 - level)))


def _randomisation(rows: NDArray[np.float64], resamples: int, level: float, seed: int) -> list[float]:
    """Two-sided p-value of each row of differences, float64 [comparisons, queries]."""
    # A query that changes nowhere has the same part in every resample, so leaving it out changes no p-value.
    changed = rows[:, (rows != 0).any(axis=0)]
    queries = changed.shape[1]
    if queries == 0:
        return [1.0] * len(rows)
    # scipy wants two observations; one more without a difference changes nothing either.
    signs = np.ones(max(2, queries))
    changed = np.pad(changed, ((0, 0), (0, len(signs) - queries)))
    draws = _draws(resamples, len(signs), MOST_FLIPS, len(rows), level)
    at_once = max(1, MOST_MEANS // draws)
    parts = [changed[start : start + at_once] for start in range(0, len(changed), at_once)]
    return [p for part in parts for p in _flipped(part, signs, draws, seed)]


def _flipped(rows: NDArray[np.float64], signs: NDArray[np.float64], draws: int, seed: int) -> list[float]:
    """Two-sided p-value of each row; the same flips serve all, in whatever parts they come."""

    def means(flipped: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        # Sums that differ by rounding alone must count as equal.
        return np.asarray(np.round(flipped @ rows.T / len(signs), 12), np.float64)

    return _permuted(signs, means, "samples", draws, seed)


def _permuted(
    sample: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64], int], NDArray[np.float64]],
    kind: str,
    draws: int,
    seed: int,
) -> list[float]:
    """Two-sided p-values of scipy's permutation test, of that kind, for each number of a statistic of one sample."""
    found = scipy_stats().permutation_test(
        (sample,),
        statistic,
        permutation_type=kind,
        vectorized=True,
        n_resamples=draws,
        batch=max(1, FLIPS_AT_ONCE // len(sample)),
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


# ---- How large a difference is, and how many queries would tell such a one from none.
#
# Sakai 2014, "Statistical Reform in Information Retrieval?" (SIGIR Forum 48), asks for effect sizes beside p-values;
# Sakai 2016, "Topic Set Size Design", for as many queries as a test needs.
POWER = 0.8
# The normal approximation and the exact number differ by less than one query long before.
EXACT_TO = 10_000
NIL = 1e-12


def effect_size(differences: NDArray[np.float64]) -> float | None:
    """The paired standardised difference: mean over standard deviation (of n - 1), float64 [queries].

    Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", calls it d_z: 0.2 is small, 0.8 large. The
    paired t statistic is this times the root of the number of queries.

    Returns:
        None for one query, and where all have the same difference: no spread to measure it by.
    """
    if len(differences) < 2 or np.ptp(differences) <= NIL:
        return None
    effect = float(differences.mean() / differences.std(ddof=1))
    return effect if abs(differences.mean()) > NIL else 0.0


def queries_needed(effect: float, alpha: float = 0.05, power: float = POWER) -> int | None:
    """The least number of queries with which a two-sided paired t-test at `alpha` finds such an effect so often.

    Exact by the noncentral t distribution up to 10,000 queries, beyond that Guenther's approximation (1981, "Sample
    Size Formulas for Normal Theory T Tests"). It holds for queries whose differences have this mean and spread; those
    that were seen are only guesses of both.

    Returns:
        None for no effect: no number of queries finds it.

    Raises:
        InvalidInput: effect is not finite, or alpha or power is not between 0 and 1.
        MissingExtra: scipy is not installed.
    """
    if not math.isfinite(effect):
        raise InvalidInput(f"effect={effect!r} is no finite number")
    for name, share in (("alpha", alpha), ("power", power)):
        if not 0 < share < 1:
            raise InvalidInput(f"{name}={share!r} is not between 0 and 1")
    if abs(effect) <= NIL:
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf(1 - alpha / 2)
    rough = ((quantile + normal.inv_cdf(power)) / effect) ** 2
    if rough > EXACT_TO:
        return math.ceil(rough + quantile**2 / 2)
    queries = max(2, math.floor(rough))
    while _power(queries, effect, alpha) < power:
        queries += 1
    return queries


def _power(queries: int, effect: float, alpha: float) -> float:
    """How often the paired t-test finds an effect, of its own sign: the other tail is next to nothing.

    It is left out, since the noncentral t of scipy 1.17 is NaN there for some numbers (findings/statsmodels-power.sh).
    """
    special = optional("scipy.special", "scipy", "eval")
    freedom = queries - 1
    critical = special.stdtrit(freedom, 1 - alpha / 2)
    return float(1 - special.nctdtr(freedom, abs(effect) * queries**0.5, critical))


# ---- For which queries: groups by a property, cut before anybody looks at what they gained.
THIRDS = (1 / 3, 2 / 3)
# Fewer say nothing by themselves.
FEWEST_IN_GROUP = 5
MOST_SHUFFLED = 5_000_000


def groupings(
    differences: Mapping[str, float],
    properties: Mapping[str, Mapping[str, float]],
    *,
    level: float = 0.95,
    resamples: int = RANDOMISATIONS,
    seed: int = 0,
) -> tuple[Grouping, ...]:
    """Mean differences of the queries in about three groups of equal size by each property.

    The cuts are quantiles of the property over the queries, equal values in one group, so no result decides them. A
    property that leaves one group only, or one of fewer than five queries, is left out, and all are where no query
    differs. Everything is corrected for the number of all groups: the intervals (Student's) by Bonferroni, the
    permutation tests of a group against the other queries with the property by Holm; beyond 500 queries these are
    shuffled less often (5 million differences in all, but as often as the level needs).

    Args:
        differences: between two runs, by query.
        properties: by name, a number for each query that has one.
        level: at which all intervals hold together, and all tests are right.
        resamples: how often differences are shuffled among the queries.
        seed: same seed, same p-values.

    Raises:
        InvalidInput: a difference is not finite.
        MissingExtra: scipy is not installed.
    """
    if not any(differences.values()):
        return ()
    row = finite(differences.values(), "differences")
    cut = {name: _cut(np.array([found.get(query, np.nan) for query in differences], np.float64))
           for name, found in properties.items()}  # fmt: skip
    members = [(name, *group) for name, groups in cut.items() for group in groups]
    if not members:
        return ()
    draws = _draws(resamples, len(row), MOST_SHUFFLED, len(members), level)
    p_values = holm(_against_others(row, [group for groups in cut.values() for group in groups], draws, seed))
    shared = 1 - (1 - level) / len(members)
    made: dict[str, list[QueryGroup]] = {}
    for (name, values, mask, others), p in zip(members, p_values, strict=True):
        made.setdefault(name, []).append(
            QueryGroup(
                low=float(values[mask].min()),
                high=float(values[mask].max()),
                queries=int(mask.sum()),
                difference=float(row[mask].mean()),
                interval=_students(row[mask], row[mask | others], shared),
                p_adjusted=p,
                apart=p < 1 - level + NIL,
            )
        )
    return tuple(Grouping(name, tuple(groups)) for name, groups in made.items())


Members = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]


def _cut(values: NDArray[np.float64]) -> list[Members]:
    """Values, who is in the group and who is in another one, for each group, lowest first; [] if they are no groups."""
    known = np.isfinite(values)
    if not known.any():
        return []
    edges = np.quantile(values[known], THIRDS, method="inverted_cdf")
    place = np.searchsorted(edges, values)
    masks = [mask for number in range(len(edges) + 1) if (mask := known & (place == number)).any()]
    if len(masks) == 1 or min(mask.sum() for mask in masks) < FEWEST_IN_GROUP:
        return []
    return [(values, mask, known & ~mask) for mask in masks]


def _against_others(row: NDArray[np.float64], groups: Sequence[Members], draws: int, seed: int) -> list[float]:
    """Two-sided p-value of each group's mean less the others', shuffled among the queries that have the property."""
    alike: dict[bytes, list[int]] = {}
    for place, (_, mask, others) in enumerate(groups):
        alike.setdefault((mask | others).tobytes(), []).append(place)
    p_values = [1.0] * len(groups)
    for known, places in alike.items():
        own = np.frombuffer(known, np.bool_)
        both = np.array([groups[place][1:] for place in places], np.float64)[..., own]
        weights = both[:, 0] / both[:, 0].sum(-1, keepdims=True) - both[:, 1] / both[:, 1].sum(-1, keepdims=True)
        for place, p in zip(places, _shuffled(row[own], weights, draws, seed), strict=True):
            p_values[place] = p
    return p_values


def _shuffled(row: NDArray[np.float64], weights: NDArray[np.float64], draws: int, seed: int) -> list[float]:
    def apart(shuffled: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(np.round(shuffled @ weights.T, 12), np.float64)

    return _permuted(row, apart, "pairings", draws, seed)


def _students(row: NDArray[np.float64], among: NDArray[np.float64], level: float) -> Interval:
    """Student's interval of the mean; of equal differences, which have no spread, what their number alone says.

    The share of such queries that have this difference is bounded below, exactly; those of the others are taken to be
    within what was seen of any query, and 0.
    """
    if np.ptp(row) <= NIL:
        mean, least = float(row.mean()), share_interval(len(row), len(row), level).low
        low, high = min(0.0, float(among.min())), max(0.0, float(among.max()))
        return Interval(least * mean + (1 - least) * low, least * mean + (1 - least) * high, level)
    found = scipy_stats().ttest_1samp(row, 0.0).confidence_interval(level)
    return Interval(float(found.low), float(found.high), level)
