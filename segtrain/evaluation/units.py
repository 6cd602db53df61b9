"""Sizes of voxels in mm and ml, where a patient's spacing is known.

A spacing is (slice, row, column) in mm: the distance from a voxel's centre to the next one's along each axis.
"""

import math
from collections.abc import Mapping, Sequence

from segtrain.config import EvaluateConfig
from segtrain.data.geometry import Geometry
from segtrain.data.sources import first_few
from segtrain.errors import DataError

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


def prepared_spacing(spacing_mm: Sequence[float] | None, geometry: Geometry) -> Spacing | None:
    """Of a patient's prepared volume; None where the source's is not known."""
    source_mm = usable(spacing_mm)
    return None if source_mm is None else geometry.prepared_spacing(source_mm)


def voxel_ml(spacing_mm: Spacing) -> float:
    """The volume of a voxel in ml."""
    return math.prod(spacing_mm) / MM3_PER_ML


def prepared_voxel_ml(spacing_mm: Sequence[float] | None, geometry: Geometry) -> float | None:
    """The volume of a voxel of the prepared volume in ml; None where the source's spacing is not known."""
    prepared_mm = prepared_spacing(spacing_mm, geometry)
    return None if prepared_mm is None else voxel_ml(prepared_mm)


def refuse_unknown_spacing(
    cfg: EvaluateConfig, spacings_mm: Mapping[str, Sequence[float] | None], regions: Sequence[str]
) -> None:
    """Raises DataError where components are dropped by ml, and the spacing of some of these patients is not known."""
    smallest_ml = max(cfg.of(region).min_component_ml for region in regions)
    unknown = [patient for patient, spacing_mm in spacings_mm.items() if usable(spacing_mm) is None]
    if smallest_ml and unknown:
        raise DataError(
            f"evaluate.min_component_ml={smallest_ml:g}: the spacing of {len(unknown)} of {len(spacings_mm)} patients "
            f"({first_few(unknown)}) is not known, so their components have no size in ml; use "
            "evaluate.min_component_voxels, or --postprocessing configured where it was chosen"
        )


def unit(spacing_mm: Spacing | None) -> str:
    """The unit of volumes, as names of columns end: ml where the spacing is known, voxels else."""
    return "voxels" if spacing_mm is None else "ml"


def in_unit(voxels: float, spacing_mm: Spacing | None) -> float:
    """A number of voxels in that unit."""
    return voxels if spacing_mm is None else voxels * voxel_ml(spacing_mm)
