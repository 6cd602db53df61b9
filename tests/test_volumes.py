"""Volumes and their agreement: Bland and Altman's own example, coverage of intervals by simulation, the figure."""

import math
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from segtrain.evaluation.agreement_figure import agreement_figure, ticks
from segtrain.evaluation.svg import pixels
from segtrain.evaluation.volumes import agreement, volume_scores

# Peak expiratory flow by two meters, the first reading of each: table 1 of Bland and Altman, Lancet 1986.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_volumes_by_hand() -> None:
    true, predicted = np.zeros((2, 4, 10, 10), bool)
    true[0, :4, :5], predicted[0, :3, :5] = True, True
    assert volume_scores(predicted, true) == {
        "true_voxels": 20, "predicted_voxels": 15, "volume_error_voxels": -5, "volume_error_percent": -25.0,
    }  # fmt: skip
    assert volume_scores(predicted, true, (5.0, 1.0, 2.0)) == {
        "true_ml": pytest.approx(0.2), "predicted_ml": pytest.approx(0.15),
        "volume_error_ml": pytest.approx(-0.05), "volume_error_percent": pytest.approx(-25.0),
    }  # fmt: skip


@pytest.mark.law("L10")
def test_no_true_lesion_no_percentage() -> None:
    empty, some = np.zeros((2, 2, 3, 3), bool)
    some[0, 0, 0] = True
    assert volume_scores(some, empty)["volume_error_percent"] is None
    assert volume_scores(empty, empty)["volume_error_voxels"] == 0
    assert volume_scores(empty, some)["volume_error_percent"] == -100


def test_bland_and_altmans_example() -> None:
    """They found a bias of -2.1 l/min (-22.0 to 17.8) and limits of -79.7 and 75.5, with their rounding."""
    result = agreement(LARGE, MINI)
    assert result.n == 17
    assert result.bias.value == pytest.approx(-2.1, abs=0.05)
    assert result.sd == pytest.approx(38.8, abs=0.05)
    assert result.bias.low == pytest.approx(-22.0, abs=0.15)
    assert result.bias.high == pytest.approx(17.8, abs=0.15)
    more = (2 - 1.96) * result.sd  # their limits are two standard deviations from the bias
    assert result.lower.value - more == pytest.approx(-79.7, abs=0.1)
    assert result.upper.value + more == pytest.approx(75.5, abs=0.1)
    # The approximation of 1999: a limit's variance is sd^2 (1 / n + 1.96^2 / (2 (n - 1))). The exact interval reaches
    # further out, less far in.
    error = result.sd * math.sqrt(1 / 17 + 1.96**2 / 32) * stats.t.ppf(0.975, 16)
    assert result.lower.low < result.lower.value - error < result.lower.high < result.lower.value + error
    assert result.upper.high - result.upper.value == pytest.approx(error, rel=0.35)


def test_intervals_are_the_approximation_when_people_are_many() -> None:
    differences = np.random.default_rng(0).normal(3, 2, 5000)
    result = agreement(differences.tolist(), np.zeros(5000).tolist())
    error = result.sd * math.sqrt(1 / 5000 + 1.96**2 / (2 * 4999)) * stats.t.ppf(0.975, 4999)
    for limit in (result.lower, result.upper):
        assert limit.low == pytest.approx(limit.value - error, abs=0.003)
        assert limit.high == pytest.approx(limit.value + error, abs=0.003)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Ten people a time: the limits of normal differences are in their intervals in 95% of trials."""
    trials, n = 400, 10
    rng = np.random.default_rng(0)
    inside = np.zeros(3)
    for _ in range(trials):
        result = agreement(rng.normal(1, 2, n).tolist(), [0.0] * n)
        truth = (1.0, 1 - 1.96 * 2, 1 + 1.96 * 2)
        estimates = (result.bias, result.lower, result.upper)
        inside += [e.low <= value <= e.high for e, value in zip(estimates, truth, strict=True)]
    # Three standard errors of a share of 0.95 in 400 trials are 0.033.
    assert np.abs(inside / trials - 0.95).max() < 0.033


def test_one_pair_has_no_limits() -> None:
    result = agreement([2.0], [1.5])
    assert (result.n, result.bias.value) == (1, 0.5)
    assert all(math.isnan(value) for value in (result.sd, result.bias.low, result.lower.value, result.upper.high))
    equal = agreement([1.0, 2.0], [1.0, 2.0])
    assert (equal.sd, equal.lower.low, equal.upper.high) == (0, 0, 0)


def texts(figure: Any) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(figure.svg).iter() if "text" in element.tag]


@pytest.mark.law("L10")
def test_the_figure_has_a_square_for_each_and_says_n_and_intervals() -> None:
    figure = agreement_figure("Volumes <A & B>", LARGE, MINI, "ml")
    root = ElementTree.fromstring(figure.svg)
    squares = [e for e in root.iter() if e.tag.endswith("rect") and e.attrib["width"] == "6"]
    assert len(squares) == 17
    left, right = (min(float(e.attrib["x"]) for e in squares), max(float(e.attrib["x"]) for e in squares))
    assert 60 < left < right < 470
    words = " ".join(texts(figure))
    result = agreement(LARGE, MINI)
    assert "n = 17" in words
    assert f"95% CI {result.upper.low:.3g} to {result.upper.high:.3g}" in words
    assert pixels(figure).ndim == 3


@pytest.mark.parametrize("pairs", [([1.0], [2.0]), ([0.0, 0.0], [0.0, 0.0]), ([5.0] * 3, [5.0] * 3)])
def test_a_figure_of_few_or_equal_pairs_can_be_drawn(pairs: Any) -> None:
    predicted, true = pairs
    figure = agreement_figure("few", predicted, true, "voxels")
    assert f"n = {len(true)}" in " ".join(texts(figure))
    assert "nan" not in figure.svg
    assert pixels(figure).size


@pytest.mark.parametrize("ends", [(0, 1), (0, 0), (-3.3, 71), (-0.02, 0.001), (0, 1e6), (7, 7)])
def test_ticks_are_round_and_hold_what_they_must(ends: tuple[float, float]) -> None:
    steps = ticks(*ends)
    assert steps[0] <= ends[0]
    assert steps[-1] >= ends[1]
    assert 2 <= len(steps) <= 9
    widths = {f"{b - a:.3g}" for a, b in pairwise(steps)}
    assert len(widths) == 1
    assert widths.pop().strip("0.")[0] in "125"
