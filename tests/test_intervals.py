"""The interval of a mean: bootstrap-t by hand, its arms lengthened, few and equal values."""

import math
from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest
from scipy import stats

from segtrain.evaluation.intervals import METHOD, Reach, interval, variance_of_mean
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.region_scores import limits
from segtrain.report.statistics import mean_of
from segtrain.report.variance import Unit

SKEWED = [0.95, 0.94, 0.93, 0.91, 0.90, 0.88, 0.85, 0.55]


def all_resamples(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The studentised mean of every multiset of the values, and the probability that it is drawn."""
    n, counts, weights = len(values), [], []
    for drawn in combinations_with_replacement(range(n), n):
        times = Counter(drawn)
        counts.append([times[place] for place in range(n)])
        weights.append(math.factorial(n) / math.prod(math.factorial(k) for k in times.values()) / n**n)
    counts_bn = np.array(counts) / n
    mean_b = counts_bn @ np.array(values)
    variance_b = counts_bn @ np.array(values) ** 2 - mean_b**2
    use = variance_b > 1e-12
    studentised = (mean_b - np.mean(values))[use] / np.sqrt(variance_b[use] / (n - 1))
    order = np.argsort(studentised)
    return studentised[order], np.cumsum(np.array(weights)[use][order]) / np.array(weights)[use].sum()


@pytest.mark.law("L10")
def test_the_interval_is_that_over_all_resamples() -> None:
    """Its far end has a sampling error: of 10,000 resamples 0.01 here, where one patient of eight has failed."""
    studentised, cumulated = all_resamples(SKEWED)
    low, high = (studentised[np.searchsorted(cumulated, level)] for level in (0.025, 0.975))
    assert (low, high) == pytest.approx((-1.4904, 7.6702), abs=5e-5)
    error = math.sqrt(variance_of_mean(SKEWED))
    assert error == pytest.approx(0.0462886, abs=1e-7)
    exact = np.mean(SKEWED) - high * error, np.mean(SKEWED) - low * error
    assert exact == pytest.approx((0.5087, 0.9327), abs=1e-4)
    assert interval(SKEWED, 0, 1) == pytest.approx(exact, abs=0.011)
    assert interval(SKEWED[::-1], 0, 1) == interval(SKEWED, 0, 1), "whatever the order"


@pytest.mark.law("L10")
@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_values_have_the_t_interval(n: int) -> None:
    values = SKEWED[:n]
    ends = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx(ends)
    assert interval(values, 0, 1) == pytest.approx((max(0, ends[0]), min(1, ends[1])))


@pytest.mark.parametrize("values", [[0.5], [0.5] * 5, [0.1 + 0.2, 0.3, 0.3], [0.0] * 20])
def test_one_value_and_equal_values_have_none(values: list[float]) -> None:
    assert all(math.isnan(end) for end in interval(values))
    assert math.isnan(summarise(values).ci_low)


@pytest.mark.law("L10")
@pytest.mark.parametrize("values", [SKEWED, SKEWED[:6]])
def test_trainings_lengthen_both_arms(values: list[float]) -> None:
    mean, error, n = np.mean(values), math.sqrt(variance_of_mean(values)), len(values)
    alone, wide = interval(values), interval(values, reach=Reach(2 * error, n - 1))
    assert mean - wide[0] == pytest.approx(2 * (mean - alone[0]))
    assert wide[1] - mean == pytest.approx(2 * (alone[1] - mean))
    assert interval(values, reach=Reach(error, 1000)) != wide
    if n >= 8:
        assert interval(values, reach=Reach(error / 2, n - 1)) == alone, "never shorter than over patients"
    lower = interval(values, reach=Reach(error, n - 1, 0.005))
    assert lower[0] < alone[0]
    assert lower[1] == pytest.approx(alone[1])


@pytest.mark.law("L10")
def test_a_mean_over_seeds_is_wider_than_that_of_one() -> None:
    generator = np.random.default_rng(0)
    patients, trainings = generator.normal(0.8, 0.02, 20), generator.normal(0, 0.05, 3)
    scores: dict[Unit, float] = {
        (f"p{p}", 0, s): float(patients[p] + trainings[s]) for p in range(20) for s in range(3)
    }
    of_seeds = mean_of(scores)
    alone = mean_of({unit: value for unit, value in scores.items() if unit[2] == 0})
    assert (of_seeds.variance.basis, alone.variance.basis) == ("trainings", "patients")
    wide, narrow = (one.summary.ci_high - one.summary.ci_low for one in (of_seeds, alone))
    assert wide > 3 * narrow
    assert of_seeds.spread.sd == pytest.approx(np.std(trainings, ddof=1))


def test_distances_are_not_cut_at_one() -> None:
    distances = [0.2, 0.9, 0.4, 3.0, 0.3, 0.1, 0.2, 0.5]
    assert summarise(distances, math.inf).ci_high > 1
    assert summarise(distances, math.inf).ci_low >= 0
    assert limits("original_hd95_mm") == (0, math.inf)
    assert limits("nsd_1mm") == limits("ece") == limits("lesion_recall_1_to_10_ml") == (0, 1)
    assert limits("volume_error_percent") == (-math.inf, math.inf)
    assert limits("original_dsc_gain") == (-1, 1)


def test_where_most_values_are_the_same_the_interval_is_student_s() -> None:
    """Seven patients without false positive slices and one with one: the mean is not the end of its interval."""
    values = [0.0] * 7 + [1.0]
    low, high = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert "bootstrap-t" in METHOD


@pytest.mark.law("L10")
def test_failures_are_counted_with_the_limit_of_their_rate() -> None:
    """By hand: nothing of n people was seen where the rate is 1 - 0.025^(1/n) with a probability of 2.5%."""
    for n, limit in ((10, 0.31), (20, 0.17), (40, 0.09), (100, 0.04)):
        scores: dict[Unit, float] = {(f"p{p}", 0, 1): 0.5 + p / 1000 for p in range(n)}
        assert mean_of(scores).failure_limit == pytest.approx(1 - 0.025 ** (1 / n))
        assert mean_of(scores).failure_limit == pytest.approx(limit, abs=0.005)
        failed = mean_of(scores | {("p0", 0, 1): 0.05})
        assert failed.failures == 1
        assert failed.failure_limit == pytest.approx(stats.binomtest(1, n).proportion_ci(method="exact").high)
