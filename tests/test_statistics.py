"""Comparisons of an ablation: pairs of patients, hand-made cases, and how often nothing is taken for something."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.report.statistics import Scores, can_find, compare, holm, paired, per_patient, wilcoxon_p


def scores_of(values: np.ndarray | list[float], fold: int | None = None, seed: int | None = 1) -> Scores:
    return {(f"p{place}", fold, seed): float(value) for place, value in enumerate(values)}


def test_a_patient_is_the_mean_over_its_seeds() -> None:
    scores: Scores = {("a", 0, 1): 0.2, ("a", 0, 2): 0.4, ("b", 1, 1): 1.0}
    assert per_patient(scores) == pytest.approx({"a": 0.3, "b": 1.0})


def test_pairs_are_made_within_a_fold_and_seed() -> None:
    ours: Scores = {("a", 0, 1): 0.5, ("a", 0, 2): 0.9, ("b", 1, 1): 0.7}
    theirs: Scores = {("a", 0, 1): 0.4, ("c", 0, 1): 0.1, ("b", 1, 1): 0.9}
    assert paired(ours, theirs) == pytest.approx({"a": 0.1, "b": -0.2}), "seed 2 has no partner"
    assert paired({("a", None, 7): 0.5}, {("a", None, 8): 0.2}) == pytest.approx({"a": 0.3}), "no common seed"


def test_wilcoxon_by_hand() -> None:
    """All of n differences on one side: 2 of 2^n signs are as extreme."""
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 2**5)
    # Ranks 1 + 2 are negative: 10 of 64 sign patterns reach a sum of at most 3, on either side.
    assert wilcoxon_p([-1, -2, 3, 4, 5, 6]) == pytest.approx(10 / 64)
    assert wilcoxon_p([0.0, 0.0]) == 1.0
    assert wilcoxon_p([0.3]) == 1.0
    assert wilcoxon_p([0.0, 0.1, 0.1, 0.1, 0.1, 0.1]) == pytest.approx(2 / 2**5), "ties, one without difference"


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
    for place, corrected in enumerate(holm(p_values)):
        before = order[: order.index(place) + 1]
        assert corrected == min(1.0, max(factors[k] * p_values[k] for k in before))


def test_the_interval_of_differences_by_hand() -> None:
    """Of (0, 0, 0, 1) the resampled mean is binomial(4, 1/4) / 4: at most 2/4 with 94.9%, at most 3/4 with 99.6%."""
    rows = compare({"base": scores_of([0.2, 0.3, 0.4, 0.0]), "other": scores_of([0.2, 0.3, 0.4, 1.0])}, "base")
    difference = rows[1].difference
    assert difference is not None
    assert (difference.summary.mean, difference.summary.n) == (0.25, 4)
    assert (difference.summary.ci_low, difference.summary.ci_high) == (0.0, 0.75)


@pytest.mark.parametrize(("seeds", "pairing"), [((1, 1), "fold and seed"), ((1, 2), "patients' means"),
                                                ((None, None), "patients' means")])  # fmt: skip
def test_a_difference_says_its_pairing(seeds: tuple[int | None, int | None], pairing: str) -> None:
    one, other = (scores_of([0.2, 0.3], seed=seed) for seed in seeds)
    difference = compare({"one": one, "other": other}, "one")[1].difference
    assert difference is not None
    assert difference.pairing == pairing


def test_a_verdict_needs_both_the_test_and_the_interval() -> None:
    """Six small gains against one large loss: the ranks lean one way, the mean's interval reaches over 0; and back."""
    base = np.full(12, 0.5)
    ranks = base + np.array([0.01] * 11 + [-0.4])
    rows = compare({"base": scores_of(base), "other": scores_of(ranks)}, "base")
    assert rows[1].difference is not None
    assert rows[1].difference.p_holm < 0.05
    assert rows[1].verdict == "not distinguishable"
    few = {"base": scores_of([0.5] * 5), "other": scores_of([0.6, 0.61, 0.62, 0.63, 0.64])}
    assert (row := compare(few, "base")[1]).difference is not None
    assert row.difference.summary.ci_low > 0
    assert row.verdict == "not distinguishable", "p = 2 / 2^5"


def test_a_real_shift_is_found_and_the_rest_is_not() -> None:
    generator = np.random.default_rng(3)
    base = generator.uniform(0.5, 0.9, 20)
    noise = [generator.normal(0, 0.02, 20) for _ in range(3)]
    variants = {
        "base": scores_of(base), "same": scores_of(base + noise[0]),
        "up": scores_of(base + 0.03 + noise[1]), "down": scores_of(base - 0.03 + noise[2]),
    }  # fmt: skip
    rows = {row.variant: row for row in compare(variants, "base")}
    verdicts = {name: row.verdict for name, row in rows.items()}
    assert verdicts == {"base": "baseline", "same": "not distinguishable", "up": "better", "down": "worse"}
    difference = rows["up"].difference
    assert difference is not None
    assert difference.summary.ci_low < 0.03 < difference.summary.ci_high
    assert difference.p <= difference.p_holm <= 3 * difference.p


def test_nothing_in_common_and_too_few_pairs_give_no_verdict() -> None:
    rows = compare({"base": scores_of([0.1]), "one": scores_of([0.9]), "other": {("q", None, 1): 0.9}}, "base")
    assert [row.verdict for row in rows] == ["baseline", "not distinguishable", "no patient in common"]
    assert rows[1].difference is not None
    assert math.isnan(rows[1].difference.summary.ci_low)
    assert not can_find(rows)
    six: dict[str, Scores] = {"base": scores_of([0.5] * 6), "up": scores_of([0.9] * 6)}
    assert can_find(compare(six, "base")), "2 / 2^6 < 0.05"
    assert not can_find(compare(six | {"up2": scores_of([0.9] * 6)}, "base")), "of two variants it is not"


@pytest.mark.law("L10")
def test_without_a_difference_there_is_seldom_a_verdict() -> None:
    """An ablation of three variants that are all the same: any verdict at all is a false one."""
    generator = np.random.default_rng(0)
    ablations, patients = 250, 12
    false = 0
    for _ in range(ablations):
        base = generator.beta(5, 2, patients)
        variants: dict[str, Scores] = {"base": scores_of(base)}
        variants |= {f"v{k}": scores_of(base + 0.1 * generator.standard_t(3, patients)) for k in range(3)}
        false += any(row.verdict in ("better", "worse") for row in compare(variants, "base"))
    slack = 2 * math.sqrt(0.05 * 0.95 / ablations)
    assert false / ablations <= 0.05 + slack


@pytest.mark.law("L10")
def test_seeds_are_no_further_patients() -> None:
    """Four seeds that agree on which patients a variant happens to suit: taken for 48 patients, 29% had a verdict."""
    generator = np.random.default_rng(1)
    ablations, patients, seeds = 200, 12, 4
    verdicts = []
    for _ in range(ablations):
        base, suits = generator.beta(5, 2, patients), generator.normal(0, 0.05, patients)
        runs: dict[str, dict[tuple[str, int | None, int | None], float]] = {"base": {}, "other": {}}
        for seed in range(seeds):
            runs["base"] |= scores_of(base + generator.normal(0, 0.005, patients), seed=seed)
            runs["other"] |= scores_of(base + suits + generator.normal(0, 0.005, patients), seed=seed)
        row = compare(runs, "base")[1]
        assert row.difference is not None
        assert row.difference.summary.n == patients
        verdicts.append(row.verdict)
    slack = 2 * math.sqrt(0.05 * 0.95 / ablations)
    assert (verdicts.count("better") + verdicts.count("worse")) / ablations <= 0.05 + slack
    assert verdicts.count("better") / ablations <= 0.025 + slack
