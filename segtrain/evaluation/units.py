"""Sizes of voxels in mm and ml, where a patient's spacing is known.

A spacing is (slice, row, column) in mm: the distance from a voxel's centre to the next one's along each axis.
"""

import math
from collections.abc import Sequence

Spacing = tuple[float, float, float]

MM3_PER_ML = 1000
SOME_SPACING: Spacing = (1.0, 1.0, 1.0)  # for names of columns, which only ask whether there is one


def usable(spacing_mm: Sequence[float] | None) -> Spacing | None:
    """The spacing; None where it is missing or cannot be one, so that distances and volumes are in voxels.

    Some tools write 0 for a spacing that they do not know.
    """
    if spacing_mm is None or len(spacing_mm) != 3:
        return None
    if not all(math.isfinite(side) and side > 0 for side in spacing_mm):
        return None
    between_slices, between_rows, between_columns = spacing_mm
    return float(between_slices), float(between_rows), float(between_columns)


def voxel_ml(spacing_mm: Spacing) -> float:
    """The volume of a voxel in ml."""
    return math.prod(spacing_mm) / MM3_PER_ML


def unit(spacing_mm: Spacing | None) -> str:
    """The unit of volumes, as names of columns end: ml where the spacing is known, voxels else."""
    return "voxels" if spacing_mm is None else "ml"


def in_unit(voxels: float, spacing_mm: Spacing | None) -> float:
    """A number of voxels in that unit."""
    return voxels if spacing_mm is None else voxels * voxel_ml(spacing_mm)
