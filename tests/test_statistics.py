"""Comparisons of an ablation: pairs of patients, hand-made cases, and how often nothing is taken for something."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segtrain.report.statistics import compare, per_patient
from segtrain.report.variance import Scores
from segtrain.report.verdicts import corrected, difference, holm


def scores_of(values: np.ndarray | list[float], fold: int | None = None, seed: int | None = 1) -> Scores:
    return {(f"p{place}", fold, seed): float(value) for place, value in enumerate(values)}


def test_a_patient_is_the_mean_over_its_seeds() -> None:
    scores: Scores = {("a", 0, 1): 0.2, ("a", 0, 2): 0.4, ("b", 1, 1): 1.0}
    assert per_patient(scores) == pytest.approx({"a": 0.3, "b": 1.0})


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(deadline=None)  # a machine with other work stalls at any example
def test_holm_is_its_definition(p_values: list[float]) -> None:
    """The largest, over the p values up to one's own, of p times how many are not smaller (in their order)."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    factors = {k: len(p_values) - rank for rank, k in enumerate(order)}
    for place, of_place in enumerate(holm(p_values)):
        before = order[: order.index(place) + 1]
        assert of_place == min(1.0, max(factors[k] * p_values[k] for k in before))


@pytest.mark.law("L10")
def test_a_plain_verdict_needs_the_folds_too() -> None:
    """By two seeds of two folds a variant is better on these folds; by five folds it may be better."""
    generator = np.random.default_rng(0)
    verdicts = {}
    for k in (2, 5):
        base, noise = generator.uniform(0.5, 0.8, (k, 6, 1)), generator.normal(0, 0.005, (2, k, 6, 2))
        of_seeds = {"base": folds_of(base + noise[0]), "up": folds_of(base + noise[1] + 0.03)}
        verdicts[k] = compare(of_seeds, "base")[1].verdict
    assert verdicts == {2: "better on these folds", 5: "better"}
    steps = np.array([0.0, 0.0, 0.0, 0.12, 0.12])[:, None, None]  # two of the training sets favour it
    favoured = {"base": folds_of(base + noise[0]), "up": folds_of(base + noise[1] + steps)}
    row = compare(favoured, "base")[1]
    assert row.difference is not None
    assert row.verdict == "better on these folds"
    assert row.difference.p_holm <= 0.05 < row.difference.p_strict_holm
    assert row.difference.folds is not None
    assert row.difference.folds.p == pytest.approx(stats.ttest_1samp(steps.ravel(), 0).pvalue, abs=0.05)


@pytest.mark.law("L10")
def test_a_seed_that_acts_alike_in_all_folds_is_told_from_the_recipe() -> None:
    """Seeds begin with the same weights in all folds: their luck is that of few seeds, not of as many runs."""
    generator = np.random.default_rng(0)
    base, noise = generator.uniform(0.5, 0.8, (5, 6, 1)), generator.normal(0, 0.005, (2, 5, 6, 3))
    luck = np.array([0.0, 0.03, 0.06])
    lucky = compare({"base": folds_of(base + noise[0]), "up": folds_of(base + noise[1] + luck)}, "base")[1]
    assert lucky.difference is not None
    assert lucky.verdict == "better on these folds and seeds"
    assert lucky.difference.p < 0.05 < lucky.difference.p_seeds
    assert "seeds_alike" in lucky.difference.remarks
    own_seeds: list[Scores] = [
        {(p, fold, (seed or 0) + 10 * (fold or 0)): value for (p, fold, seed), value in folds_of(values).items()}
        for values in (base + noise[0], base + noise[1] + luck)
    ]
    apart = compare({"base": own_seeds[0], "up": own_seeds[1]}, "base")[1]
    assert apart.difference is not None
    assert apart.difference.p_seeds == pytest.approx(apart.difference.p)
    assert apart.verdict == "better"


@pytest.mark.law("L10")
def test_one_training_on_fewer_than_five_folds_gives_no_verdict() -> None:
    generator = np.random.default_rng(0)
    for k, seeds, verdict in (
        (1, 1, "no verdict"),
        (4, 1, "no verdict"),
        (5, 1, "better on these folds and seeds"),
        (1, 2, "better on these folds"),
    ):
        base = generator.uniform(0.5, 0.6, (k, 20, 1))
        up = base + 0.3 + generator.normal(0, 0.01, (k, 20, seeds))
        noise = generator.normal(0, 0.01, (k, 20, seeds))
        row = compare({"base": folds_of(base + noise), "up": folds_of(up)}, "base")[1]
        assert row.verdict == verdict, (k, seeds)
        assert row.difference is not None
        assert row.difference.tolerated_sd > 0.05


def folds_of(values_kns: np.ndarray) -> Scores:
    return {(f"f{k}p{n}", k, s): float(value) for (k, n, s), value in np.ndenumerate(values_kns)}


@pytest.mark.law("L10")
def test_a_correction_is_over_all_that_can_have_a_verdict() -> None:
    generator = np.random.default_rng(5)
    base = generator.uniform(0.5, 0.9, (5, 4, 1)) + generator.normal(0, 0.01, (5, 4, 2))
    shifts = {"a": 0.02, "b": 0.015, "c": 0.0}
    variants: dict[str, Scores] = {"base": folds_of(base)}
    variants |= {name: folds_of(base + shift + generator.normal(0, 0.01, base.shape)) for name, shift in shifts.items()}
    alone = compare(variants, "base")
    variants["few"] = {unit: value + 0.1 for unit, value in folds_of(base).items() if unit[0] in ("f0p0", "f0p1")}
    rows = compare(variants, "base")
    assert rows[-1].verdict == "no verdict"
    assert rows[-1].difference is not None
    assert math.isnan(rows[-1].difference.p_holm)
    assert [row.difference for row in rows[:-1]] == [row.difference for row in alone]
    p_values = [row.difference.p for row in alone if row.difference]
    assert [row.difference.p_holm for row in alone if row.difference] == holm(p_values)
    strict = holm([row.difference.p_strict for row in alone if row.difference])
    assert [row.difference.p_strict_holm for row in alone if row.difference] == strict
    assert all(row.difference.p_strict >= row.difference.p for row in alone if row.difference)


@pytest.mark.law("L10")
def test_what_weakens_a_verdict_is_told() -> None:
    generator = np.random.default_rng(2)

    def remarks(k: int, n: int, seeds: int, of_trainings: float, of_baseline: float) -> list[str]:
        patients = generator.uniform(0.5, 0.8, (k, n, 1))
        shape, noise = (k, 1, seeds), generator.normal(0, 1e-3, (2, k, n, seeds))
        own, base = (generator.standard_normal(shape) * sd for sd in (of_trainings, of_baseline))
        variants = {"base": folds_of(patients + base + noise[0]), "up": folds_of(patients + own + noise[1])}
        pair = compare(variants, "base")[1].difference
        assert pair is not None
        return list(pair.remarks)

    assert remarks(1, 10, 2, 0.05, 0.05) == ["one_fold", "few_trainings"]
    assert remarks(2, 3, 5, 0.001, 0.001) == ["few_people"]
    assert remarks(5, 4, 5, 0.05, 0.001) == ["unequal_spreads"]
    assert remarks(5, 4, 3, 0.01, 0.01) == []


def test_a_real_shift_is_found_and_the_rest_is_not() -> None:
    generator = np.random.default_rng(3)
    base = generator.uniform(0.5, 0.9, (5, 4, 1))
    shifts = {"base": 0.0, "same": 0.0, "up": 0.03, "down": -0.03}
    variants = {name: folds_of(base + shift + generator.normal(0, 0.02, (5, 4, 2))) for name, shift in shifts.items()}
    rows = {row.variant: row for row in compare(variants, "base")}
    verdicts = {name: row.verdict for name, row in rows.items()}
    assert verdicts == {"base": "baseline", "same": "not distinguishable", "up": "better", "down": "worse"}
    of_up = rows["up"].difference
    assert of_up is not None
    assert of_up.summary.ci_low < 0.03 < of_up.summary.ci_high
    assert of_up.p <= of_up.p_holm <= 3 * of_up.p


def test_nothing_in_common_gives_no_verdict() -> None:
    rows = compare({"base": scores_of([0.1]), "one": scores_of([0.9]), "other": {("q", None, 1): 0.9}}, "base")
    assert [row.verdict for row in rows] == ["baseline", "no verdict", "no patient in common"]
    assert rows[1].difference is not None
    assert math.isnan(rows[1].difference.summary.ci_low)


@pytest.mark.law("L10")
@pytest.mark.parametrize(("folds", "seeds"), [(5, 1), (2, 2), (1, 3)])
def test_without_a_difference_there_is_seldom_a_verdict(folds: int, seeds: int) -> None:
    """An ablation of three variants that are all the same but for the luck of their trainings: verdicts are false."""
    generator = np.random.default_rng(0)
    ablations, patients = 250, 20 // folds
    false = 0
    for _ in range(ablations):
        base = generator.beta(5, 2, (folds, patients, 1))

        def trained(base: np.ndarray = base) -> Scores:
            luck = generator.normal(0, 0.03, (folds, 1, seeds))
            return folds_of(base + luck + 0.05 * generator.standard_t(3, (folds, patients, seeds)))

        baseline = trained()
        pairs = [pair for _ in range(3) if (pair := difference(trained(), baseline))]
        false += any(pair.verdict != "not distinguishable" for pair in corrected(pairs))
    slack = 2 * math.sqrt(0.05 * 0.95 / ablations)
    assert false / ablations <= 0.05 + slack


@pytest.mark.law("L10")
def test_seeds_are_no_further_patients() -> None:
    """Four seeds that agree on which patients a variant happens to suit: taken for 48 patients, 29% had a verdict."""
    generator = np.random.default_rng(1)
    ablations, patients, seeds = 200, 12, 4
    verdicts = []
    for _ in range(ablations):
        base, suits = generator.beta(5, 2, (1, patients, 1)), generator.normal(0, 0.05, (1, patients, 1))
        noise = generator.normal(0, 0.005, (2, 1, patients, seeds))
        pair = difference(folds_of(base + suits + noise[1]), folds_of(base + noise[0]))
        assert pair is not None
        assert pair.summary.n == patients
        verdicts.append(corrected([pair])[0].verdict)
    better, worse = (verdicts.count(f"{word} on these folds") for word in ("better", "worse"))  # type: ignore[arg-type]
    slack = 2 * math.sqrt(0.05 * 0.95 / ablations)
    assert (better + worse) / ablations <= 0.05 + slack
    assert better / ablations <= 0.025 + slack
