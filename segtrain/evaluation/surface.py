"""Distances between the surfaces of two volumes: in mm where the spacing is known, in voxels else.

Names of columns tell the unit: a row has `hd95_mm` or `hd95_px`, never both.

- Surface: the voxels of a volume that have a face to a voxel outside it, or to the end of the image. Each counts once,
  whatever the area of its faces, so on thick slices top and bottom count as much as an edge in plane. (DeepMind's
  surface-distance, and MONAI's `use_subvoxels`, weigh by area.)
- Distance: from the centre of a surface voxel to the nearest centre of the other surface. Rounded to float32 as MONAI
  does, so that a distance of 10 x 0.1 mm is within 1 mm.
- HD95: the larger of the two directions' 95th percentiles, linearly interpolated, as MONAI's HausdorffDistanceMetric
  and the WMH challenge have it. medpy's hd95 is the percentile of both directions' distances together, which a false
  far piece raises less.
- ASSD: the mean over both surfaces' voxels, as medpy's assd and MONAI's SurfaceDistanceMetric(symmetric=True).
- NSD at t (surface Dice): the share of both surfaces' voxels within t, as MONAI's SurfaceDiceMetric; S. Nikolov et al.,
  "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for radiotherapy", 2018.

Empty rule: where a volume is empty it has no surface, and all scores are None.

Legend: s slice, h height, w width.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from segtrain.evaluation.metrics import occupied
from segtrain.evaluation.units import Spacing

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

SOURCE = "MONAI (monai.metrics.utils.get_edge_surface_distance)"  # of the definitions, which tests compare
NAMES = ("hd95_px", "assd_px", "nsd_1px", "nsd_2px")
NAMES_MM = ("hd95_mm", "assd_mm", "nsd_1mm", "nsd_2mm")
TOLERANCES = (1.0, 2.0)  # of the last two names, in their unit


def names(spacing_mm: Spacing | None) -> tuple[str, ...]:
    """The columns of a volume of this spacing."""
    return NAMES if spacing_mm is None else NAMES_MM


def surface_scores(predicted_shw: Mask, true_shw: Mask, spacing_mm: Spacing | None = None) -> dict[str, float | None]:
    """HD95, average symmetric surface distance, surface Dice at 1 and 2 mm or voxels; None where a volume is empty."""
    if not predicted_shw.any() or not true_shw.any():
        return dict.fromkeys(names(spacing_mm))
    there, back = surface_distances(predicted_shw, true_shw, spacing_mm)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    values = [hd95, both.mean(), *((both <= tolerance).mean() for tolerance in TOLERANCES)]
    return {name: float(value) for name, value in zip(names(spacing_mm), values, strict=True)}


def surface_distances(
    predicted_shw: Mask, true_shw: Mask, spacing_mm: Spacing | None = None
) -> tuple[Distances, Distances]:
    """From each surface voxel of the prediction to the truth's surface, and back. Neither may be empty."""
    box = occupied(predicted_shw | true_shw)
    predicted, true = (_surface(volume[box]) * np.asarray(spacing_mm or 1.0) for volume in (predicted_shw, true_shw))
    return _nearest(predicted, true), _nearest(true, predicted)


def _surface(volume_shw: Mask) -> Distances:
    """The coordinates of the surface voxels, [voxel, axis]."""
    return np.argwhere(volume_shw & ~ndimage.binary_erosion(volume_shw)).astype(np.float64)


def _nearest(points: Distances, others: Distances) -> Distances:
    """A tree of the surface voxels is several times faster than a distance map of all voxels."""
    distances = KDTree(others, leafsize=32).query(points)[0]
    return np.asarray(distances, np.float32).astype(np.float64)
