"""Candidates for post-processing, and the counts of all of them in one patient. No torch is imported.

A component's true positives and size are counted once for a threshold; each candidate then is a sum over components.

Legend: s slice, h height, w width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.config import Postprocessing
from segtrain.evaluation.metrics import Counts, occupied

THRESHOLDS = tuple(number / 10 for number in range(1, 10))
SIZES_ML = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SIZES_VOXELS = (0, 3, 10, 30, 100, 300, 1000)

Mask = NDArray[np.bool_]


def candidates_around(configured: Postprocessing, in_ml: bool) -> tuple[Postprocessing, ...]:
    """Thresholds x sizes x component rules: the configured settings first, then the others by their distance from it.

    The first of equals is chosen, so what is configured wins ties, and then what changes least.
    """
    sizes = [(0, size) for size in SIZES_ML] if in_ml else [(size, 0.0) for size in SIZES_VOXELS]
    sizes.append((configured.min_component_voxels, configured.min_component_ml))
    grid = {
        Postprocessing(threshold, largest, voxels, ml)
        for threshold, largest, (voxels, ml) in product(
            {*THRESHOLDS, configured.threshold}, (False, True), dict.fromkeys(sizes)
        )
    }

    def distance(one: Postprocessing) -> tuple[float, ...]:
        same_size = (one.min_component_voxels, one.min_component_ml) == sizes[-1]
        changes = (one.threshold != configured.threshold, one.largest_component != configured.largest_component)
        size = (one.min_component_voxels, one.min_component_ml)
        away = abs(one.threshold - configured.threshold)
        return (sum(changes) + (not same_size), away, *size, one.threshold, one.largest_component)

    return tuple(sorted(grid, key=distance))


@dataclass(frozen=True)
class _Components:
    """Of each component of a prediction, joined through faces: its size, and of that what is known, and is true."""

    sizes: NDArray[np.int64]
    known: NDArray[np.int64]
    true: NDArray[np.int64]

    def counts(self, smallest: int, largest_only: bool, true_voxels: int) -> Counts:
        """Of the components that are kept, as `metrics.kept_components` keeps them."""
        keep = self.sizes >= smallest
        if largest_only and keep.any():
            keep = np.arange(len(keep)) == self.sizes.argmax()  # the largest of all is the largest that is kept
        tp = int(self.true[keep].sum())
        return Counts(tp, int(self.known[keep].sum()) - tp, true_voxels - tp)


def candidate_counts(
    probability_shw: NDArray[np.float32],
    true_shw: Mask,
    known_shw: Mask,
    candidates: Sequence[Postprocessing],
    voxel_ml: float | None,
) -> list[Counts]:
    """The counts of each candidate in one region of a patient, in the prepared geometry.

    Voxels that are not known are in no count, but in the size of their component.
    """
    thresholds = dict.fromkeys(one.threshold for one in candidates)
    box = occupied(probability_shw > np.float32(min(thresholds)))
    probability, true, known = probability_shw[box], (true_shw & known_shw)[box], known_shw[box]
    components = {threshold: _components(probability > np.float32(threshold), true, known) for threshold in thresholds}
    true_voxels = int(np.count_nonzero(true_shw & known_shw))
    return [
        components[one.threshold].counts(one.smallest_voxels(voxel_ml), one.largest_component, true_voxels)
        for one in candidates
    ]


def _components(predicted_shw: Mask, true_shw: Mask, known_shw: Mask) -> _Components:
    labels, number = ndimage.label(predicted_shw)
    label_of_voxel = labels[predicted_shw] - 1

    def counted(of: Mask) -> NDArray[np.int64]:
        return np.bincount(label_of_voxel[of[predicted_shw]], minlength=number)

    return _Components(np.bincount(label_of_voxel, minlength=number), counted(known_shw), counted(true_shw))
