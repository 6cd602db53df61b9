"""The 95% confidence interval of a mean over people: bootstrap-t, whose arms trainings may lengthen.

Sources: P. Hall, "Theoretical Comparison of Bootstrap Confidence Intervals", Annals of Statistics 16, 1988;
T. Hesterberg, "What Teachers Should Know About the Bootstrap", American Statistician 69, 2015. docs/statistics.md has
its coverage.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEWEST_RESAMPLED = 8  # values that are resampled; fewer have the t interval
SAME = 1e-9  # of the values' spread: a smaller one is rounding, and the values are the same
DRAWS_AT_ONCE = 2_000_000  # bounds the memory
METHOD = (
    f"{CONFIDENCE:.0%}, bootstrap-t over people ({RESAMPLES} resamples, seeded); of fewer than {FEWEST_RESAMPLED} "
    "people, and where most values are the same, Student's t"
)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Reach:
    """How far an interval reaches: its standard error and degrees of freedom, and the level of its lower end."""

    error: float  # sqrt of the whole variance of the mean
    df: float
    low_level: float = (1 - CONFIDENCE) / 2


def variance_of_mean(values: Sequence[float]) -> float:
    """The variance of the mean of people's values; 0 where the values differ by rounding alone."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return 0.0
    variance = float(array.var(ddof=1))
    scale = float(np.abs(array).max())
    return variance / len(array) if variance > (SAME * scale) ** 2 else 0.0


def interval(
    values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf, reach: Reach | None = None
) -> tuple[float, float]:
    """The two ends, within `lowest` and `highest`; NaN for one value, and for values that are all the same.

    `reach`: of the mean over new trainings too, which lengthens both arms by the factor by which it lengthens those of
    the t interval. Where many values are the same, as counts are, many resamples have no spread; if they are more than
    the tails, the t interval takes the place.
    """
    array = np.sort(np.asarray(values, np.float64))  # the interval does not depend on the people's order
    n, patients = len(array), variance_of_mean(values)
    if patients == 0:
        return math.nan, math.nan
    from scipy import stats  # slow to import

    error = math.sqrt(patients)
    whole = reach or Reach(error, n - 1)
    high_level = (1 + CONFIDENCE) / 2
    resampled = _studentised(array) if n >= FEWEST_RESAMPLED else np.empty(0)
    if len(resampled) < (1 - (1 - CONFIDENCE) / 2) * RESAMPLES:
        below = whole.error * float(stats.t.ppf(1 - whole.low_level, whole.df))
        above = whole.error * float(stats.t.ppf(high_level, whole.df))
    else:
        over_patients = error * float(stats.t.ppf(high_level, n - 1))
        factor = max(1.0, whole.error * float(stats.t.ppf(high_level, whole.df)) / over_patients)
        low, high = np.quantile(resampled, (1 - high_level, 1 - whole.low_level))
        below, above = factor * error * float(high), -factor * error * float(low)
    mean = math.fsum(array) / n
    return max(lowest, mean - below), min(highest, mean + above)


def _studentised(values: Values) -> Values:
    """(mean of a resample - mean) / its standard error; resamples of one value, which have none, are left out."""
    centred = values - values.mean()
    return np.concatenate(list(_by_block(centred)))


def _by_block(centred: Values) -> Iterator[Values]:
    """Block by block of resamples, as many at once as fit into the memory."""
    n, generator = len(centred), np.random.default_rng(0)
    rows = max(1, DRAWS_AT_ONCE // n)
    for begin in range(0, RESAMPLES, rows):
        drawn = centred[generator.integers(0, n, (min(rows, RESAMPLES - begin), n))]
        errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
        usable = errors > SAME * centred.std()
        yield drawn.mean(axis=1)[usable] / errors[usable]
