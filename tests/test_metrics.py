"""DSC, components and means against the reference's numbers, medpy, and by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.filter.binary import largest_connected_component
from medpy.metric.binary import dc
from skimage.measure import label

from segtrain.evaluation.metrics import Counts, count, drop_small, largest_component, summarise


def test_all_dsc_cases_are_the_reference_s(golden: Path) -> None:
    cases = json.loads((golden / "dsc_cases.json").read_text())
    assert len(cases) == 6
    with np.load(golden / "dsc_cases.npz") as volumes:
        for case in cases:
            shape = tuple(volumes[f"{case['patient']}/shape"])

            def volume(name: str, case: dict[str, object] = case, shape: tuple[int, ...] = shape) -> np.ndarray:
                bits = np.unpackbits(volumes[f"{case['patient']}/{name}"], count=math.prod(shape))
                return bits.reshape(shape).astype(bool)

            predicted, true = volume(f"{case['k']}/pred"), volume("true")
            assert abs(count(predicted, true).dsc - case["dsc"]) < 1e-12
            assert abs(count(largest_component(predicted), true).dsc - case["dsc_lcc"]) < 1e-12


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.02, 0.6))
def test_counts_and_components_are_medpys(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    predicted, true = rng.random((5, 9, 8)) < density, rng.random((5, 9, 8)) < 0.3
    counts = count(predicted, true)
    assert counts.tp + counts.fn == true.sum()
    assert counts.tp + counts.fp == predicted.sum()
    assert counts.dsc == pytest.approx(dc(predicted, true), abs=1e-12)
    if predicted.any():
        ours, theirs = largest_component(predicted), largest_connected_component(predicted)
        assert ours.sum() == theirs.sum()
        assert not (ours & ~predicted).any()


def test_the_largest_component_is_joined_through_faces_only() -> None:
    volume = np.zeros((3, 5, 5), bool)
    volume[0, 0, :3] = True
    volume[1, 1, 3] = True  # touches the bar at an edge only
    volume[2, 4, 4] = True
    kept = largest_component(volume)
    assert kept.sum() == 3
    assert kept[0, 0, :3].all()
    assert not largest_component(np.zeros((2, 3, 3), bool)).any()
    assert largest_component(np.ones((2, 3, 3), bool)).all()


def test_of_equal_components_the_first_is_kept() -> None:
    volume = np.zeros((3, 6, 6), bool)
    volume[1, 4, 1:3] = volume[0, 2, 3:5] = volume[2, 1, 1:3] = True
    kept = largest_component(volume)
    assert np.array_equal(np.argwhere(kept), [[0, 2, 3], [0, 2, 4]])
    assert volume.sum() == 6, "the prediction itself is left alone"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.02, 0.4), voxels=st.integers(1, 12))
def test_small_components_are_dropped_and_no_others(seed: int, density: float, voxels: int) -> None:
    volume = np.random.default_rng(seed).random((4, 8, 9)) < density
    labels = label(volume, connectivity=1)
    expected = volume & (np.bincount(labels.ravel())[labels] >= voxels)
    assert np.array_equal(drop_small(volume, voxels), expected)


@pytest.mark.law("L10")
def test_the_rule_for_empty_masks() -> None:
    assert Counts(0, 0, 0).dsc == 1
    assert Counts(0, 5, 0).dsc == 0
    assert Counts(0, 0, 5).dsc == 0


@pytest.mark.law("L10")
def test_a_mean_comes_with_n_median_and_interval() -> None:
    values = [0.91, 0.85, 0.97, 0.6, 0.88, 0.93, 0.9, 0.79, 0.95, 0.92]
    summary = summarise(values)
    assert summary.n == 10
    assert summary.mean == pytest.approx(np.mean(values), abs=1e-15)
    assert summary.median == np.median(values)
    resampled = np.random.default_rng(5).choice(values, (20_000, 10))
    resampled = resampled[np.ptp(resampled, axis=1) > 0]
    studentised = (resampled.mean(axis=1) - np.mean(values)) / (resampled.std(axis=1, ddof=1) / np.sqrt(10))
    ends = np.mean(values) - np.quantile(studentised, (0.975, 0.025)) * np.std(values, ddof=1) / np.sqrt(10)
    assert (summary.ci_low, summary.ci_high) == pytest.approx(tuple(ends), abs=0.005)
    for part in ("0.8700", "n = 10", "95% CI", "median 0.9050"):
        assert part in str(summary)
    assert summarise(values[::-1]).mean == summary.mean


@pytest.mark.law("L10")
def test_one_patient_has_no_interval() -> None:
    summary = summarise([0.8])
    assert (summary.mean, summary.n) == (0.8, 1)
    assert math.isnan(summary.ci_low)
    assert math.isnan(summary.ci_high)


@pytest.mark.law("L10")
def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        summary = summarise(rng.beta(9, 1.2, size=20).tolist())
        covered += summary.ci_low <= 9 / 10.2 <= summary.ci_high
    assert 180 <= covered <= 199
