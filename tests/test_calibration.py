"""Calibration: tables of reliability and their error, against a loop over voxels and made-up predictors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import IGNORED, MaskLayout
from segtrain.evaluation.calibration import (
    BINS,
    MARGIN_VOXELS,
    Reliability,
    box_around,
    pooled,
    reliabilities,
    reliability,
)
from segtrain.evaluation.calibration_figure import calibration_figure
from segtrain.evaluation.svg import pixels

ONE = MaskLayout()
ONLY_NOISE = 0.01  # of an error measured on 100,000 voxels


def by_loop(probability: np.ndarray, lesion: np.ndarray) -> float:
    """The textbook's sum over bins of n_bin / n |mean probability - share|, voxel by voxel."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, is_lesion in zip(probability.ravel().tolist(), lesion.ravel().tolist(), strict=True):
        number = next(number for number in range(BINS) if p < (number + 1) / BINS or number == BINS - 1)
        bins.setdefault(number, []).append((p, is_lesion))
    error = 0.0
    for members in bins.values():
        mean = math.fsum(p for p, _ in members) / len(members)
        share = sum(is_lesion for _, is_lesion in members) / len(members)
        error += len(members) / probability.size * abs(mean - share)
    return error


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_a_loop_over_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.4, 0.6, (4, 9, 7)).astype(np.float32)
    lesion = rng.random(probability.shape) < probability**2
    assert reliability(probability, lesion).ece == pytest.approx(by_loop(probability, lesion), abs=1e-7)


def test_ends_of_the_scale_are_in_the_first_and_the_last_bin() -> None:
    table = reliability(np.array([0, 0, 1, np.nextafter(np.float32(1), 0)], np.float32), np.array([0, 0, 1, 1], bool))
    assert table.voxels == (2, *[0] * (BINS - 2), 2)
    assert table.ece == pytest.approx(0, abs=1e-7)


def test_a_calibrated_predictor_has_next_to_no_error_and_a_shifted_one_has_its_shift() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.05, 0.75, 100_000).astype(np.float32)
    lesion = rng.random(len(probability)) < probability
    errors = [reliability(probability + np.float32(shift), lesion).ece or 0.0 for shift in (0, 0.05, 0.1, 0.2)]
    assert errors[0] == pytest.approx(0, abs=ONLY_NOISE)
    assert errors == sorted(errors), "more shift, more error"
    for shift, error in zip((0.05, 0.1, 0.2), errors[1:], strict=True):
        assert error == pytest.approx(shift, abs=ONLY_NOISE)


def test_certain_and_wrong_is_an_error_of_one() -> None:
    lesion = np.zeros((2, 3, 3), bool)
    lesion[0] = True
    assert reliability((~lesion).astype(np.float32), lesion).ece == 1
    assert reliability(lesion.astype(np.float32), lesion).ece == 0


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40), st.integers(1, 39))
@settings(max_examples=50, deadline=None)
def test_pooling_parts_is_the_table_of_all_voxels(voxels: list[tuple[float, bool]], cut: int) -> None:
    probability, lesion = np.array([p for p, _ in voxels], np.float32), np.array([is_lesion for _, is_lesion in voxels])
    whole = reliability(probability, lesion)
    both = pooled([reliability(probability[:cut], lesion[:cut]), reliability(probability[cut:], lesion[cut:])])
    assert (both.voxels, both.lesion_voxels) == (whole.voxels, whole.lesion_voxels)
    assert both.probability_sums == pytest.approx(whole.probability_sums)
    assert 0 <= (whole.ece or 0) <= 1


def volume() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prediction beside the truth, in a large volume: probability, predicted, mask."""
    mask = np.zeros((12, 40, 50), np.uint8)
    mask[4:6, 10:14, 20:25] = 1
    probability = np.zeros((1, *mask.shape), np.float32)
    probability[0, 5:8, 11:16, 18:23] = 0.8
    return probability, probability > 0.5, mask


def test_only_the_box_around_truth_and_prediction_counts() -> None:
    probability, predicted, mask = volume()
    (table,) = reliabilities(probability, predicted, mask, ONE)
    s, h, w = MARGIN_VOXELS
    box = (slice(4 - s, 8 + s), slice(10 - h, 16 + h), slice(18 - w, 25 + w))
    assert sum(table.voxels) == mask[box].size
    assert table.ece == pytest.approx(by_loop(probability[0][box], mask[box] > 0), abs=1e-7)
    far = [(0, 0), *[(9, 9)] * 3]
    larger = reliabilities(np.pad(probability, far), np.pad(predicted, far), np.pad(mask, far[1:]), ONE)
    assert larger == (table,), "background further away changes nothing"


def test_a_box_ends_at_the_volume() -> None:
    whole = np.ones((2, 3, 4), bool)
    assert box_around([whole], MARGIN_VOXELS) == (slice(0, 2), slice(0, 3), slice(0, 4))
    assert box_around([~whole, ~whole], MARGIN_VOXELS) is None


def test_neither_truth_nor_prediction_is_no_value() -> None:
    probability, predicted, mask = volume()
    (table,) = reliabilities(probability * 0, predicted & False, mask * 0, ONE)
    assert table.ece is None
    assert table == pooled([])
    (missed,) = reliabilities(probability * 0, predicted & False, mask, ONE)
    assert missed.ece is not None, "the truth alone has a box"


def test_ignored_voxels_are_not_counted() -> None:
    probability, predicted, mask = volume()
    layout = MaskLayout(ignores=True)
    rng = np.random.default_rng(0)
    ignored = rng.random(mask.shape) < 0.3
    ignored &= mask == 0
    (table,) = reliabilities(probability, predicted, np.where(ignored, IGNORED, mask).astype(np.uint8), layout)
    wild = np.where(ignored, rng.random(mask.shape), probability[0]).astype(np.float32)[None]
    (other,) = reliabilities(wild, predicted, np.where(ignored, IGNORED, mask).astype(np.uint8), layout)
    (all_known,) = reliabilities(probability, predicted, mask, ONE)
    assert table == other, "whatever is predicted there"
    assert sum(table.voxels) < sum(all_known.voxels)


def test_each_region_has_its_own_table() -> None:
    probability, predicted, mask = volume()
    layout = MaskLayout(("whole", "core"))
    both = np.concatenate([probability, probability / 2]).astype(np.float32)
    second = (mask & 1) * 2  # bit 1 is the second region
    tables = reliabilities(
        both, np.concatenate([predicted, predicted & False]), (mask | second).astype(np.uint8), layout
    )
    (first,) = reliabilities(probability, predicted, mask, ONE)
    assert tables[0] == first
    (alone,) = reliabilities(both[1:], predicted & False, mask, ONE)
    assert tables[1] == alone


def test_the_rows_of_the_bins_are_the_table() -> None:
    rows = Reliability((4, *[0] * 9), (0.2, *[0.0] * 9), (1, *[0] * 9)).bins()
    assert rows[0] == {"from": 0.0, "to": 0.1, "voxels": 4, "mean_probability": 0.05, "lesion_share": 0.25}
    assert rows[1]["mean_probability"] is None
    assert [row["to"] for row in rows] == [row["from"] for row in rows[1:]] + [1.0]


def test_the_diagram_says_what_it_shows() -> None:
    probability, predicted, mask = volume()
    (table,) = reliabilities(probability, predicted, mask, ONE)
    figure = calibration_figure("Calibration <of> lesion", table, 3)
    assert f"{table.ece:.4f}" in figure.svg
    assert "n = 3" in figure.svg
    assert "&lt;of&gt;" in figure.svg
    assert pixels(figure).std() > 0
