"""The best of several variants: scored by folds that did not choose it, or without the luck that is to be expected."""

from collections import Counter
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain.report.best_of import NEIGHBOURS, best_of, expected_maximum, neighbours
from segtrain.report.variance import Scores


def folds_of(means: list[float], wobble: float = 0.0) -> Scores:
    """Two patients a fold around its mean."""
    return {(f"f{k}p{n}", k, 1): mean + wobble * (-1) ** n for k, mean in enumerate(means) for n in range(2)}


@pytest.mark.law("L10")
def test_each_fold_is_scored_by_the_best_on_the_others() -> None:
    """By hand: b is best on average for its luck in fold 4 alone, without which a is chosen."""
    variants = {"a": folds_of([0.6] * 5), "b": folds_of([0.5, 0.5, 0.5, 0.5, 1.1])}
    best = best_of(variants)
    assert best is not None
    assert (best.variant, best.variants, best.by_folds) == ("b", 2, True)
    assert best.choices == {0: "b", 1: "b", 2: "b", 3: "b", 4: "a"}
    assert best.same == 4
    assert best.summary.mean == pytest.approx(0.62)
    assert best.honest == pytest.approx((4 * 0.5 + 0.6) / 5)


def test_on_fewer_folds_the_expected_luck_is_taken_off() -> None:
    generator = np.random.default_rng(0)
    values = generator.uniform(0.5, 0.9, (3, 40))
    variants: dict[str, Scores] = {
        name: {(f"p{n}", 0, 1): float(value) for n, value in enumerate(own)}
        for name, own in zip("abc", values, strict=True)
    }
    best = best_of(variants)
    assert best is not None
    pairs = [(values[i] - values[j]).var(ddof=1) / 40 for i, j in ((0, 1), (0, 2), (1, 2))]
    assert not best.by_folds
    assert best.summary.mean - best.honest == pytest.approx(0.8463 * np.sqrt(np.mean(pairs) / 2), rel=1e-3)
    assert best.summary.ci_low < values.mean(axis=1).max() < best.summary.ci_high


def test_the_luck_of_many_variants_is_that_of_all_pairs() -> None:
    """To a hundredth: it is taken from as many pairs of each as there is time for."""
    count, people = 120, 30
    values = np.random.default_rng(1).uniform(0.5, 0.9, (count, people))
    variants: dict[str, Scores] = {
        f"v{number}": {(f"p{n}", 0, 1): float(value) for n, value in enumerate(own)}
        for number, own in enumerate(values)
    }
    best = best_of(variants)
    assert best is not None
    pairs = [(values[i] - values[j]).var(ddof=1) / people for i, j in combinations(range(count), 2)]
    luck = expected_maximum(count) * np.sqrt(np.mean(pairs) / 2)
    assert best.summary.mean - best.honest == pytest.approx(luck, rel=0.01)


@given(count=st.integers(2, 130))
def test_each_variant_is_in_as_many_pairs_as_any_other(count: int) -> None:
    pairs = neighbours(count)
    assert set(pairs) <= set(combinations(range(count), 2))
    assert len(set(pairs)) == len(pairs) == count * min(count - 1, 2 * NEIGHBOURS) // 2
    assert len(set(Counter(chain.from_iterable(pairs)).values())) == 1


@pytest.mark.parametrize(("count", "expected"), [(2, 0.56), (3, 0.85), (4, 1.03), (5, 1.16), (6, 1.27), (10, 1.54)])
def test_the_expected_largest_of_normals(count: int, expected: float) -> None:
    assert expected_maximum(count) == pytest.approx(expected, abs=0.006)


def test_there_is_no_best_of_one_nor_of_strangers() -> None:
    one = folds_of([0.5] * 5)
    assert best_of({"a": one}) is None
    assert best_of({"a": one, "b": {("q", 0, 1): 0.5}}) is None
    assert best_of({"a": one, "b": {}}) is None
