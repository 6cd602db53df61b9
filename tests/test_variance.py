"""The variance of a mean over people and trainings: worked examples, closed forms against SciPy, odd data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segtrain.report.statistics import compare, mean_of
from segtrain.report.variance import Scores, Unit, by_training, folds, spread, variance
from segtrain.report.verdicts import Difference, difference

A = {
    "p1": (0.90, 0.88), "p2": (0.80, 0.82), "p3": (0.86, 0.82),
    "p4": (0.91, 0.93), "p5": (0.70, 0.74), "p6": (0.85, 0.85),
}  # fmt: skip
B = {
    "p1": (0.93, 0.91), "p2": (0.86, 0.86), "p3": (0.90, 0.88),
    "p4": (0.93, 0.93), "p5": (0.80, 0.78), "p6": (0.89, 0.87),
}  # fmt: skip


def example(values: dict[str, tuple[float, float]]) -> dict[Unit, float]:
    """Two folds of three patients, two seeds."""
    return {(p, 0 if p < "p4" else 1, seed): own[seed] for p, own in values.items() for seed in (0, 1)}


def scores_of(values_kns: np.ndarray) -> dict[Unit, float]:
    """Folds of as many patients each, and seeds."""
    return {(f"f{k}p{n}", k, s): float(value) for (k, n, s), value in np.ndenumerate(values_kns)}


def compared(scores: Scores, baseline: Scores) -> Difference:
    of_pair = difference(scores, baseline)
    assert of_pair is not None
    return of_pair


@pytest.mark.law("L10")
def test_the_difference_of_the_worked_example() -> None:
    found = compared(example(B), example(A))
    assert found.summary.mean == pytest.approx(0.04)
    assert found.variance.people == pytest.approx(7.33333e-5, rel=1e-5)
    assert (found.own.df, found.baseline.df, found.variance.basis) == (2, 2, "trainings")
    assert (found.baseline.part, found.own.part) == pytest.approx((3.61111e-5, 2.22222e-5), rel=1e-5)
    assert (found.baseline.sd, found.own.sd) == pytest.approx((0.0120185, 0.0094281), rel=1e-5)
    assert found.own.overlap + found.baseline.overlap == pytest.approx(3.33333e-5, rel=1e-5)
    assert found.variance.total == pytest.approx(9.83333e-5, rel=1e-5)
    assert found.variance.df == pytest.approx(4.897222, abs=1e-6)
    half = found.summary.ci_high - found.summary.mean
    assert half / found.variance.error == pytest.approx(2.586893, abs=1e-6)
    assert (found.summary.ci_low, found.summary.ci_high) == pytest.approx((0.0143475, 0.0656525), abs=1e-7)
    assert found.p == pytest.approx(0.0104182, abs=1e-7)
    values = [0.03, 0.05, 0.05, 0.01, 0.07, 0.03]
    assert stats.ttest_1samp(values, 0).pvalue == pytest.approx(0.0054777, abs=1e-7), "without the trainings"
    assert found.folds is not None
    assert (found.folds.number, found.folds.ahead) == (2, 2)


def test_swapping_the_two_recipes_negates_the_difference() -> None:
    one, other = compared(example(B), example(A)), compared(example(A), example(B))
    assert other.summary.mean == pytest.approx(-one.summary.mean)
    assert (other.summary.ci_low, other.summary.ci_high) == pytest.approx((-one.summary.ci_high, -one.summary.ci_low))
    assert (other.p, other.variance.df) == pytest.approx((one.p, one.variance.df))


@pytest.mark.law("L10")
def test_the_mean_of_the_worked_example() -> None:
    found = mean_of(example(B))
    assert found.summary.mean == pytest.approx(0.878333, abs=1e-6)
    assert found.variance.people == pytest.approx(4.227778e-4, rel=1e-6)
    assert found.spread.overlap == pytest.approx(5.55556e-6, rel=1e-5)
    assert found.variance.total == pytest.approx(4.394444e-4, rel=1e-6)
    assert found.variance.df == pytest.approx(5.364933, abs=1e-6)
    assert (found.summary.ci_low, found.summary.ci_high) == pytest.approx((0.825530, 0.931136), abs=1e-6)


@pytest.mark.law("L10")
def test_one_seed_and_five_folds() -> None:
    """By the means of the folds where their variance is the larger, else by the patients."""
    base = np.full((5, 2, 1), 0.5)
    of_folds = np.array([0.05, 0.02, 0.04, 0.01, 0.03])[:, None, None] + np.array([0.001, -0.001])[None, :, None]
    found = compared(scores_of(base + of_folds), scores_of(base))
    assert (found.variance.basis, found.variance.df) == ("folds", 4)
    assert found.variance.total == pytest.approx(5e-5)
    assert (found.summary.ci_low, found.summary.ci_high) == pytest.approx((0.0103676, 0.0496324), abs=1e-7)
    assert found.p == pytest.approx(0.0132356, abs=1e-7)
    assert found.folds is not None
    assert found.folds.p == pytest.approx(stats.ttest_1samp([0.05, 0.02, 0.04, 0.01, 0.03], 0).pvalue)
    same_folds = np.full((5, 1, 1), 0.03) + np.array([0.01, -0.01, 0.02, -0.02])[None, :, None]
    by_patients = compared(scores_of(np.full((5, 4, 1), 0.5) + same_folds), scores_of(np.full((5, 4, 1), 0.5)))
    assert by_patients.p == pytest.approx(stats.ttest_1samp(np.tile(same_folds[0, :, 0], 5), 0).pvalue)
    assert by_patients.variance.df == 19


def test_the_spread_that_would_be_tolerated() -> None:
    """The first example as if it were one fold and one training each."""
    values = dict(zip(A, [0.03, 0.05, 0.05, 0.01, 0.07, 0.03], strict=True))
    ours: Scores = {(patient, 0, 1): 0.5 + value for patient, value in values.items()}
    found = compared(ours, dict.fromkeys(ours, 0.5))
    assert found.variance.basis == "patients"
    assert found.tolerated_sd == pytest.approx(0.0091870, abs=1e-7)
    assert not found.decidable


def test_a_recipe_with_one_seed_borrows_the_other_s_spread() -> None:
    one_seed = {unit: value for unit, value in example(A).items() if unit[2] == 0}
    found = compared(example(B), one_seed)
    assert (found.variance.basis, found.own.df, found.baseline.df) == ("borrowed", 2, 0)
    trainings = found.own.between * (0.25 + 0.5)
    assert found.variance.total == pytest.approx(found.variance.people + trainings)
    df = found.variance.total**2 / (found.variance.people**2 / 5 + trainings**2 / 2)
    assert found.variance.df == pytest.approx(df)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_without_a_spread_between_trainings_it_is_the_paired_t_test(seed: int) -> None:
    """Trainings whose patients differ, but not their means, and the same for every seed: SciPy's test."""
    generator = np.random.default_rng(seed)
    ours, theirs = (np.repeat(generator.uniform(0.3, 0.9, (2, 6, 1)), 3, axis=2) for _ in range(2))
    found = compared(scores_of(ours), scores_of(theirs))
    expected = stats.ttest_rel(ours[..., 0].ravel(), theirs[..., 0].ravel())
    assert found.p == pytest.approx(expected.pvalue)
    ends = expected.confidence_interval()
    assert (found.summary.ci_low, found.summary.ci_high) == pytest.approx((ends.low, ends.high))


@given(st.integers(0, 10_000), st.floats(-0.2, 0.2))
@settings(max_examples=40, deadline=None)
def test_names_order_and_a_constant_change_nothing(seed: int, constant: float) -> None:
    generator = np.random.default_rng(seed)
    ours, theirs = (scores_of(generator.uniform(0.3, 0.7, (3, 4, 2))) for _ in range(2))
    found = compared(ours, theirs)
    order = list(generator.permutation(len(ours)))
    renamed = [{(f"x{p[::-1]}", f, s): v for (p, f, s), v in one.items()} for one in (ours, theirs)]
    shuffled = [{list(one)[k]: list(one.values())[k] for k in order} for one in renamed]
    moved = [{unit: value + constant for unit, value in one.items()} for one in (ours, theirs)]
    for other in (compared(shuffled[0], shuffled[1]), compared(moved[0], moved[1])):
        assert (other.p, other.variance.df) == pytest.approx((found.p, found.variance.df), rel=1e-6)
        assert other.summary.mean == pytest.approx(found.summary.mean, abs=1e-9)


def test_seeds_need_not_be_common_and_their_names_change_nothing() -> None:
    other_seeds: Scores = {
        (patient, fold, (seed or 0) + 7): value for (patient, fold, seed), value in example(A).items()
    }
    assert compared(example(B), other_seeds) == compared(example(B), example(A))


def test_folds_may_differ_between_the_recipes() -> None:
    other: Scores = {(p, 0 if p in ("p1", "p4", "p6") else 1, s): value for (p, _, s), value in example(A).items()}
    found = compared(example(B), other)
    assert found.folds is None
    assert (found.variance.basis, found.own.df, found.baseline.df) == ("trainings", 2, 2)
    assert found.decidable


ODD: dict[str, Scores] = {
    "a training is missing": {unit: value for unit, value in example(A).items() if unit[1:] != (1, 1)},
    "a score is missing": {unit: value for unit, value in example(A).items() if unit != ("p2", 0, 1)},
    "a score is not a number": example(A) | {("p2", 0, 1): math.nan, ("p5", 1, 0): math.inf},
    "unequal folds": {unit: value for unit, value in example(A).items() if unit[0] not in ("p5", "p6")},
    "one patient": {unit: value for unit, value in example(A).items() if unit[0] == "p1"},
    "two patients": {unit: value for unit, value in example(A).items() if unit[0] in ("p1", "p2")},
    "three patients": {unit: value for unit, value in example(A).items() if unit[0] in ("p1", "p2", "p6")},
    "nothing is known": {(patient, None, None): value for (patient, _, seed), value in example(A).items() if seed},
    "all the same": dict.fromkeys(example(A), 0.5),
    "only not numbers": dict.fromkeys(example(A), math.nan),
    "nobody": {},
    "seeds scored other patients": {("p1", 0, 0): 0.5, ("p2", 0, 1): 0.6, ("p3", 0, 2): 0.4},
}  # fmt: skip


@pytest.mark.parametrize("one", list(ODD))
@pytest.mark.parametrize("other", list(ODD))
def test_odd_data_have_a_row(one: str, other: str) -> None:
    rows = compare({"base": ODD[one], "other": ODD[other]}, "base")
    found = rows[1].difference
    if found is None:
        assert rows[1].verdict == "no patient in common"
        return
    assert math.isfinite(found.summary.mean)
    assert 0 <= found.p <= 1
    assert found.variance.total >= 0
    if found.variance.total == 0:
        assert math.isnan(found.summary.ci_low)
        assert found.p == 1
    if found.summary.n < 4 or found.variance.basis == "patients":
        assert rows[1].verdict == "no verdict"
    _ = found.tolerated_sd, found.remarks, found.sd_noise, rows[1].mean.failure_limit


def test_a_person_in_two_folds_has_no_fold() -> None:
    scores: Scores = {("a", 0, 1): 0.5, ("b", 1, 1): 0.6, ("b", 0, 1): 0.7}
    trainings = by_training(scores)
    assert folds(trainings) is None
    whole = variance({"a": 0.5, "b": 0.65}, [spread(trainings)], folds(trainings))
    assert whole.basis == "patients"
