"""Grids of volumes: whether two are the same, how one is turned into axial slices, and bringing a volume onto another.

Legend: x, y, z the file's own axes; s slice, h height, w width.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt2axcodes, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.data.sources.base import first_few
from segtrain.data.sources.headers import SAME_GRID_MM, open_volume, size_of
from segtrain.errors import DataError

AXES = ("S", "P", "L")  # the directions of [s, h, w]: superior, posterior, left
NOT_SQUARE = 0.05  # difference of a pixel's sides, relative
OBLIQUE_DEGREES = 1.0
NOT_SAME_VOXELS = 0.5
FLAT = 0.01  # volume of the box of three axes of length 1; 1 where they are at right angles
FAR_SPACING = 10  # times the usual one

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Where a file's voxels are. path: of the file; shape: [x, y, z]; affine: to mm, x to the right, y front, z up."""

    path: Path
    shape: Shape
    affine: NDArray[np.float64]

    @property
    def slices(self) -> int:
        return self.shape[list(io_orientation(self.affine)[:, 0]).index(2)]

    @property
    def axes(self) -> str:
        """Where each axis of the file leads, such as RAS: right, anterior, superior."""
        return "".join(ornt2axcodes(io_orientation(self.affine)))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between slices, rows and columns."""
        sizes = voxel_sizes(self.affine)
        axes = list(io_orientation(self.affine)[:, 0])
        slices, rows, columns = (float(sizes[axes.index(axis)]) for axis in (2, 1, 0))
        return slices, rows, columns

    def to_slices(self, volume_xyz: NDArray[Any]) -> NDArray[Any]:
        """[s, h, w, ..] of [x, y, z, ..]: whole axes permuted and flipped."""
        turn = ornt_transform(io_orientation(self.affine), axcodes2ornt(AXES))
        return np.ascontiguousarray(apply_orientation(volume_xyz, turn))

    def to_file(self, volume_shw: NDArray[Any]) -> NDArray[Any]:
        """[x, y, z] of [s, h, w]."""
        turn = ornt_transform(axcodes2ornt(AXES), io_orientation(self.affine))
        return np.asarray(apply_orientation(volume_shw, turn))

    def is_same(self, other: "Grid") -> bool:
        """Whether both have one size, affines that differ by SAME_GRID_MM at most, and no voxels half a voxel apart.

        A spacing that differs by less than SAME_GRID_MM puts the far end of an axis two voxels off.
        """
        if self.shape != other.shape or not np.allclose(self.affine, other.affine, rtol=0, atol=SAME_GRID_MM):
            return False
        return self._offset(other)[0] < NOT_SAME_VOXELS

    def apart(self, other: "Grid") -> str:
        """What differs, for messages: both sizes, or the offset of another grid of the same size."""
        if self.shape != other.shape:
            return f"{size_of(self.shape)} and {size_of(other.shape)} voxels"
        offset_voxels, offset_mm = self._offset(other)
        return f"{size_of(self.shape)} voxels, but apart by up to {offset_voxels:.2g} voxels or {offset_mm:.2g} mm"

    def _offset(self, other: "Grid") -> tuple[float, float]:
        """By how many voxels, and mm, a voxel is at most apart from the one at its place in a grid of the same size."""
        corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in self.shape))], float).T
        offset_mm = float(np.linalg.norm(((self.affine - other.affine) @ corners)[:3], axis=0).max())
        there = np.linalg.inv(other.affine) @ self.affine @ corners
        return float(np.abs((there - corners)[:3]).max()), offset_mm

    def doubts(self) -> list[str]:
        """Remarks on how slices lie: oblique ones, pixels that are not square."""
        remarks = []
        if (degrees := self._degrees()) > OBLIQUE_DEGREES:
            remarks.append(f"oblique by {degrees:.0f} degrees; slices are cut along the file's own axes")
        _, rows, columns = self.spacing_mm
        if not np.isclose(columns, rows, rtol=NOT_SQUARE):
            remarks.append(f"pixels of {columns:.2f} x {rows:.2f} mm, but networks are trained on square ones")
        return remarks

    def _degrees(self) -> float:
        """The largest angle between an axis of the file and the axis of the body that it stands for."""
        directions = self.affine[:3, :3] / voxel_sizes(self.affine)
        along = np.abs(directions).max(axis=0).clip(0, 1)
        return float(np.rad2deg(np.arccos(along)).max())


def grid_of(path: Path) -> tuple[Grid, int]:
    """The file's grid, and the number of its volumes: 1 of three dimensions. Raises DataError."""
    image = open_volume(path)
    shape, affine = image.shape, np.asarray(image.affine, np.float64)
    spatial, rest = shape[:3], [size for size in shape[3:] if size != 1]
    if len(spatial) < 3 or min(shape) < 1 or len(rest) > 1:
        raise DataError(f"{path}: {size_of(shape)} voxels, but a volume [x, y, z] is needed; export it again")
    if not np.isfinite(affine).all():
        raise DataError(f"{path}: its affine has values that are not finite; mend the header")
    if np.isnan(io_orientation(affine)).any():
        raise DataError(f"{path}: its affine has an axis without length; mend the header")
    if abs(np.linalg.det(affine[:3, :3] / voxel_sizes(affine))) < FLAT:
        raise DataError(f"{path}: the axes of its affine lie in one plane; mend the header")
    return Grid(path, tuple(map(int, spatial)), affine), int(rest[0]) if rest else 1


def brought_onto(volume_xyz: NDArray[Any], own: Grid, target: Grid) -> NDArray[np.float32]:
    """The volume on the target's grid, linearly; outside of its own grid it has the value of its corners."""
    to_own = np.linalg.inv(own.affine) @ target.affine
    corners = volume_xyz[np.ix_(*((0, -1) for _ in range(3)))]
    resampled = ndimage.affine_transform(
        volume_xyz.astype(np.float32),
        to_own[:3, :3],
        to_own[:3, 3],
        target.shape,
        order=1,
        mode="constant",
        cval=float(np.median(corners)),
    )
    return np.asarray(resampled, np.float32)


def differences(grids: Mapping[str, Grid]) -> list[str]:
    """Remarks on patients of one data set whose files lie otherwise than others', or have voxels of another size."""
    by_axes: dict[str, list[str]] = defaultdict(list)
    for patient, grid in grids.items():
        by_axes[grid.axes].append(patient)
    remarks = []
    if len(by_axes) > 1:
        kinds = "; ".join(f"{axes}: {first_few(patients)}" for axes, patients in sorted(by_axes.items()))
        remarks.append(f"the axes of files differ ({kinds}); all are turned by their affines, so look at some of each")
    usual_mm = np.median([grid.spacing_mm for grid in grids.values()] or [(1, 1, 1)], axis=0)
    for patient, grid in grids.items():
        ratio = np.array(grid.spacing_mm) / usual_mm
        if ratio.max() > FAR_SPACING or ratio.min() < 1 / FAR_SPACING:
            shown, usual = (" x ".join(f"{mm:g}" for mm in sizes) for sizes in (grid.spacing_mm, usual_mm))
            remarks.append(f"patient {patient}: voxels of {shown} mm, but {usual} mm are usual here; check the header")
    return remarks
