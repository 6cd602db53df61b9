"""Distances of surfaces: a shifted box by hand, MONAI's and medpy's own, empty volumes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric.binary import assd, hd95
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from monai.metrics.surface_distance import compute_average_surface_distance
from monai.metrics.utils import get_edge_surface_distance

from segtrain.evaluation.region_scores import metrics
from segtrain.evaluation.surface import NAMES, NAMES_MM, names, surface_distances, surface_scores
from segtrain.evaluation.units import in_unit, unit, usable

SPACINGS = [(5.0, 0.7, 0.7), (1.0, 1.0, 1.0), (3.0, 0.45, 0.9), (0.5, 2.0, 1.25)]
MONAIS_OWN = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # MONAI's, of itself


def cube(start: int, stop: int) -> Any:
    volume = np.zeros((12, 16, 16), bool)
    volume[start:stop, start:stop, start:stop] = True
    return volume


def two_volumes() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return cube(2, 9), cube(4, 11) & (rng.random((12, 16, 16)) > 0.2)


def test_surface_scores_of_a_shifted_box() -> None:
    """A box against itself moved by two rows: known by hand."""
    box = cube(3, 8)
    assert surface_scores(box, box) == {"hd95_px": 0.0, "assd_px": 0.0, "nsd_1px": 1.0, "nsd_2px": 1.0}
    moved = surface_scores(np.roll(box, 2, axis=1), box)
    assert moved["nsd_2px"] == 1.0
    assert moved["hd95_px"] == 2.0
    one = np.zeros((5, 9, 9), bool)
    other = one.copy()
    one[2, 4, 2], other[2, 4, 5] = True, True
    assert surface_scores(one, other) == {"hd95_px": 3.0, "assd_px": 3.0, "nsd_1px": 0.0, "nsd_2px": 0.0}


@pytest.mark.parametrize(
    ("place", "distance_mm"), [((3, 4, 2), 5.0), ((2, 6, 2), 1.4), ((2, 4, 4), 1.6), ((3, 6, 4), math.sqrt(29.52))]
)
def test_millimetres_by_hand(place: tuple[int, int, int], distance_mm: float) -> None:
    """Two voxels, one slice apart (5 mm), two rows (0.7 mm each), two columns (0.8 mm each), or all of these."""
    one = np.zeros((5, 9, 9), bool)
    other = one.copy()
    one[2, 4, 2] = other[place] = True
    scores = surface_scores(one, other, (5.0, 0.7, 0.8))
    assert tuple(scores) == NAMES_MM
    assert scores["hd95_mm"] == scores["assd_mm"] == pytest.approx(distance_mm, rel=1e-6)
    assert (scores["nsd_1mm"], scores["nsd_2mm"]) == (0.0, 1.0 if distance_mm < 2 else 0.0)


def test_ten_steps_of_a_tenth_are_within_one() -> None:
    one, other = np.zeros((2, 1, 1, 40), bool)
    one[0, 0, 3] = other[0, 0, 13] = True
    assert surface_scores(one, other, (1.0, 1.0, 0.1))["nsd_1mm"] == 1.0


@MONAIS_OWN
@pytest.mark.parametrize("spacing_mm", [None, *SPACINGS])
def test_surface_scores_are_what_monai_says(spacing_mm: Any) -> None:
    predicted, true = two_volumes()
    ours = surface_scores(predicted, true, spacing_mm)
    p, t = [torch.from_numpy(v)[None, None].float() for v in (predicted, true)]
    whole: dict[str, Any] = {"include_background": True, "spacing": spacing_mm}
    theirs = [
        compute_hausdorff_distance(p, t, percentile=95, **whole),
        compute_average_surface_distance(p, t, symmetric=True, **whole),
        compute_surface_dice(p, t, class_thresholds=[1.0], **whole),
        compute_surface_dice(p, t, class_thresholds=[2.0], **whole),
    ]
    assert set(names(spacing_mm)) < set(metrics(spacing_mm))
    assert names(spacing_mm) == tuple(ours) == (NAMES_MM if spacing_mm else NAMES)
    assert list(ours.values()) == pytest.approx([float(value) for value in theirs], abs=2e-6)


@MONAIS_OWN
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), density=st.floats(0.01, 0.9), spacing_mm=st.one_of(st.none(), st.sampled_from(SPACINGS))
)
def test_distances_are_monais_and_medpys(seed: int, density: float, spacing_mm: Any) -> None:
    """Any two volumes: MONAI's distances, bit by bit in voxels; medpy's mean; medpy's percentile, which pools them."""
    rng = np.random.default_rng(seed)
    predicted, true = rng.random((5, 9, 8)) < density, rng.random((5, 9, 8)) < 0.3
    predicted[2, 4, 4] = true[1, 3, 3] = True
    there, back = surface_distances(predicted, true, spacing_mm)
    tensors = torch.from_numpy(predicted), torch.from_numpy(true)
    _, theirs, _ = get_edge_surface_distance(*tensors, symmetric=True, spacing=spacing_mm)
    for ours, other in zip((there, back), theirs, strict=True):
        if spacing_mm is None:
            assert np.array_equal(ours, other.double().numpy())
        else:
            np.testing.assert_allclose(ours, other.numpy(), rtol=1e-6)
    scores = list(surface_scores(predicted, true, spacing_mm).values())
    assert scores[1] == pytest.approx(assd(predicted, true, spacing_mm), rel=1e-6)
    pooled = np.percentile(np.concatenate([there, back]), 95)
    assert pooled == pytest.approx(hd95(predicted, true, spacing_mm), rel=1e-6)


def test_where_medpys_percentile_differs() -> None:
    """One far voxel is one of 11 distances in its direction, and one of 21 in both together."""
    predicted, true = np.zeros((2, 1, 1, 60), bool)
    predicted[0, 0, [*range(10), 40]] = True
    true[0, 0, :10] = True
    there, back = surface_distances(predicted, true)
    assert sorted(there) == [0.0] * 10 + [31.0]
    assert list(back) == [0.0] * 10
    assert surface_scores(predicted, true)["hd95_px"] == pytest.approx(15.5), "halfway from the 10th to the 11th of 11"
    assert hd95(predicted, true) == 0.0, "the 20th of 21"


def test_an_empty_volume_has_no_surface() -> None:
    assert surface_scores(cube(0, 0), cube(2, 5)) == surface_scores(cube(2, 5), cube(0, 0)) == dict.fromkeys(NAMES)
    assert surface_scores(cube(0, 0), cube(2, 5), (5.0, 1.0, 1.0)) == dict.fromkeys(NAMES_MM)


@pytest.mark.parametrize("spacing_mm", [None, (0, 1, 1), (1, -1, 1), (1, 1, math.nan), (math.inf, 1, 1), (1, 1)])
def test_what_cannot_be_a_spacing_means_voxels(spacing_mm: Any) -> None:
    assert usable(spacing_mm) is None
    assert (unit(usable(spacing_mm)), in_unit(7, usable(spacing_mm))) == ("voxels", 7)


def test_voxels_in_millilitres() -> None:
    spacing_mm = usable([5, 1, 0.5])
    assert spacing_mm == (5.0, 1.0, 0.5)
    assert unit(spacing_mm) == "ml"
    assert in_unit(1000, spacing_mm) == pytest.approx(2.5)
