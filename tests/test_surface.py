"""Distances of surfaces: a shifted box by hand, MONAI's own, empty volumes."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from monai.metrics.surface_distance import compute_average_surface_distance

from segtrain.evaluation.scores import METRICS
from segtrain.evaluation.surface import NAMES, surface_scores


def cube(start: int, stop: int) -> Any:
    volume = np.zeros((12, 16, 16), bool)
    volume[start:stop, start:stop, start:stop] = True
    return volume


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


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # MONAI's, of itself
def test_surface_scores_are_what_the_library_says() -> None:
    rng = np.random.default_rng(0)
    predicted, true = cube(2, 9), cube(4, 11) & (rng.random((12, 16, 16)) > 0.2)
    ours = surface_scores(predicted, true)
    p, t = [torch.from_numpy(v)[None, None].float() for v in (predicted, true)]
    whole: dict[str, Any] = {"include_background": True}
    theirs = {
        "hd95_px": compute_hausdorff_distance(p, t, percentile=95, **whole),
        "assd_px": compute_average_surface_distance(p, t, symmetric=True, **whole),
        "nsd_1px": compute_surface_dice(p, t, class_thresholds=[1.0], **whole),
        "nsd_2px": compute_surface_dice(p, t, class_thresholds=[2.0], **whole),
    }
    assert set(theirs) == set(NAMES) < set(METRICS)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=1e-5), name


def test_an_empty_volume_has_no_surface() -> None:
    assert surface_scores(cube(0, 0), cube(2, 5)) == surface_scores(cube(2, 5), cube(0, 0)) == dict.fromkeys(NAMES)
