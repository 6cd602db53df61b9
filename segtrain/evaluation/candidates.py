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
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)  # of the largest component's size, with every component of at least that

Mask = NDArray[np.bool_]


def candidates_around(configured: Postprocessing, in_ml: bool) -> tuple[Postprocessing, ...]:
    """Thresholds x what is kept beside the largest component x smallest sizes; a share with no size of its own.

    The configured settings come first, then the others by their distance from them. The first of equals is chosen, so
    what is configured wins ties, and then what changes least.
    """
    own_size, own_kept = _size(configured), _kept(configured)
    sizes = [(0, size) for size in SIZES_ML] if in_ml else [(size, 0.0) for size in SIZES_VOXELS]
    by_size = product([(False, 0.0), (True, 0.0), own_kept], [*sizes, own_size])
    by_share = product([(False, share) for share in SHARES], [(0, 0.0), own_size])
    grid = {
        Postprocessing(threshold, largest, voxels, ml, share)
        for threshold, ((largest, share), (voxels, ml)) in product(
            {*THRESHOLDS, configured.threshold}, [*by_size, *by_share]
        )
    }

    def distance(one: Postprocessing) -> tuple[float, ...]:
        changes = (one.threshold != configured.threshold, _kept(one) != own_kept, _size(one) != own_size)
        away = abs(one.threshold - configured.threshold)
        return (sum(changes), away, *_size(one), one.threshold, *_kept(one))

    return tuple(sorted(grid, key=distance))


def _size(one: Postprocessing) -> tuple[int, float]:
    return one.min_component_voxels, one.min_component_ml


def _kept(one: Postprocessing) -> tuple[bool, float]:
    """Whether the largest component alone is kept, or else the share of its size from which others are."""
    return one.largest_component, one.min_component_share


@dataclass(frozen=True)
class _Components:
    """Of each component of a prediction, joined through faces: its size, and of that what is known, and is true."""

    sizes: NDArray[np.int64]
    known: NDArray[np.int64]
    true: NDArray[np.int64]

    def counts(self, rules: Postprocessing, voxel_ml: float | None, true_voxels: int) -> Counts:
        """Of the components that are kept, as `metrics.kept_components` keeps them."""
        keep = self.sizes >= rules.smallest_voxels(voxel_ml)
        if keep.any():  # then the largest of all is the largest that is kept
            largest = self.sizes.argmax()
            keep &= (
                np.arange(len(keep)) == largest
                if rules.largest_component
                else self.sizes >= rules.smallest_beside(int(self.sizes[largest]))
            )
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
    return [components[one.threshold].counts(one, voxel_ml, true_voxels) for one in candidates]


def _components(predicted_shw: Mask, true_shw: Mask, known_shw: Mask) -> _Components:
    labels, number = ndimage.label(predicted_shw)
    label_of_voxel = labels[predicted_shw] - 1

    def counted(of: Mask) -> NDArray[np.int64]:
        return np.bincount(label_of_voxel[of[predicted_shw]], minlength=number)

    return _Components(np.bincount(label_of_voxel, minlength=number), counted(known_shw), counted(true_shw))
