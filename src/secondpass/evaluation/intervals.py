"""Bootstrap confidence intervals of a mean over queries.

Bias-corrected and accelerated (BCa): Efron 1987, "Better Bootstrap Confidence Intervals"; scipy computes them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import Interval
from secondpass.evaluation.libraries import scipy_stats

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
