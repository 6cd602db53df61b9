"""Where a prepared volume is in its source, and volumes taken there and back.

The reference resizes with a spline of order 2 (`skimage.transform.resize`), which is separable: a zoom along one axis
is a matrix, made here by zooming unit vectors with SciPy, so a slice costs two small matrix products.

Legend: s slice, h height, w width, c channel.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Span = tuple[int, int]
Box = tuple[Span, Span, Span]
Spacing = tuple[float, float, float]  # in mm: between slices, rows, columns


@dataclass(frozen=True)
class Geometry:
    """Where a prepared volume is in its source: all that `to_source` needs.

    source_shape: (slices, height, width) in the source; box: (start, stop) of slices, rows, columns in the source;
    pad: zeros before and after the box, of rows and columns; size_px: the side after resizing; resampled_px: rows and
    columns of the box at the spacing asked for, and then `pad` is of these and nothing is resized.
    """

    source_shape: tuple[int, int, int]
    box: Box
    pad: tuple[Span, Span]
    size_px: int
    resampled_px: tuple[int, int] | None = None

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of a prepared slice that are measured: all, or without the padding of a resampled box."""
        if self.resampled_px is None:
            return slice(None), slice(None)
        (top, _), (left, _) = self.pad
        return slice(top, top + self.resampled_px[0]), slice(left, left + self.resampled_px[1])

    def prepared_spacing(self, source_mm: Spacing) -> Spacing:
        """Between slices, rows and columns of the prepared volume, of a source with this spacing in mm."""
        between_slices, between_rows, between_columns = source_mm
        (y0, y1), (x0, x1) = self.box[1:]
        if self.resampled_px is None:
            source_px = y1 - y0 + sum(self.pad[0])
            shrink = source_px / self.size_px
            return between_slices, between_rows * shrink, between_columns * shrink
        # Within half a pixel over the box this is data.spacing_mm: resampling gives whole pixels.
        rows, columns = self.resampled_px
        return between_slices, between_rows * (y1 - y0) / rows, between_columns * (x1 - x0) / columns


def to_source(prepared_shw: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A prepared volume in its source's geometry: the nearest pixel for each, zero where preparation cut off.

    Exact inside the crop where the padded crop has `size_px` already; else up to half a pixel at a boundary.
    """
    (z0, z1), (y0, y1), (x0, x1) = geometry.box
    (top, _), (left, _) = geometry.pad
    if geometry.resampled_px is None:
        side = y1 - y0 + sum(geometry.pad[0])
        nearest = _nearest(side, geometry.size_px)
        rows, columns = nearest[top : top + y1 - y0], nearest[left : left + x1 - x0]
    else:
        rows = top + _nearest(y1 - y0, geometry.resampled_px[0])
        columns = left + _nearest(x1 - x0, geometry.resampled_px[1])
    source = np.zeros(geometry.source_shape, prepared_shw.dtype)
    source[z0:z1, y0:y1, x0:x1] = prepared_shw[:, rows[:, None], columns[None, :]]
    return source


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    """The nearest of `target` pixels for each of `source` pixels of the same length."""
    return np.asarray((np.arange(source) + 0.5) * target / source).astype(np.int64)


def resize(image_cshw: NDArray[Any], geometry: Geometry, factor: float) -> NDArray[np.float32]:
    """float32 [channel, slice, size, size]: the spline of the image times `factor`."""
    rows, columns_t = _matrices(geometry)
    out = np.empty((*image_cshw.shape[:2], geometry.size_px, geometry.size_px), np.float32)
    for c, s in np.ndindex(*image_cshw.shape[:2]):
        plane = image_cshw[c, s].astype(np.float32) * np.float32(factor)
        np.matmul(rows @ plane, columns_t, out=out[c, s])
    return out


def _matrices(geometry: Geometry) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What rows [size, height] and columns [width, size] of the box are multiplied by."""
    (y0, y1), (x0, x1) = geometry.box[1:]
    (top, _), (left, _) = geometry.pad
    if geometry.resampled_px is None:
        zoom = _zoom_matrix(y1 - y0 + sum(geometry.pad[0]), geometry.size_px)
        return zoom[:, top : top + y1 - y0], np.ascontiguousarray(zoom[:, left : left + x1 - x0].T)
    height, width = geometry.resampled_px
    rows, columns = (np.zeros((geometry.size_px, length), np.float32) for length in (y1 - y0, x1 - x0))
    rows[top : top + height] = _zoom_matrix(y1 - y0, height)
    columns[left : left + width] = _zoom_matrix(x1 - x0, width)
    return rows, np.ascontiguousarray(columns.T)


def resize_mask(mask_shw: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """uint8 [slice, size, size]: the nearest voxel's bits."""
    if geometry.resampled_px is None:
        nearest = _nearest_of_zoom(mask_shw.shape[1] + sum(geometry.pad[0]), geometry.size_px)
        padded = np.pad(mask_shw, ((0, 0), *geometry.pad))
        return np.ascontiguousarray(padded[:, nearest[:, None], nearest[None, :]])
    rows, columns = (
        _nearest_of_zoom(source, target)
        for source, target in zip(mask_shw.shape[1:], geometry.resampled_px, strict=True)
    )
    return np.pad(mask_shw[:, rows[:, None], columns[None, :]], ((0, 0), *geometry.pad))


def _nearest_of_zoom(source: int, target: int) -> NDArray[np.int64]:
    """The pixel of `source` for each of `target` pixels, as the reference's resize chooses it."""
    places = np.arange(source, dtype=np.float64)
    return np.asarray(ndimage.zoom(places, target / source, order=0, mode="grid-constant", grid_mode=True)).astype(int)


def square_padding(height: int, width: int) -> tuple[Span, Span]:
    """Zeros around rows and columns that make a square."""
    side = max(height, width)
    return centred(height, side), centred(width, side)


def centred(length: int, side: int) -> Span:
    """Zeros before and after `length` pixels that make `side` of them."""
    before = (side - length) // 2
    return before, side - length - before


@lru_cache(maxsize=512)
def _zoom_matrix(source: int, target: int) -> NDArray[np.float32]:
    """float32 [target, source]: the spline zoom of order 2 that the reference's resize applies along one axis."""
    unit_vectors = np.eye(source)
    columns = [
        ndimage.zoom(unit, target / source, order=2, mode="grid-constant", grid_mode=True) for unit in unit_vectors
    ]
    matrix = np.stack(columns, axis=1)
    assert matrix.shape == (target, source), f"zoom of {source} to {target} gave {matrix.shape}"
    return matrix.astype(np.float32)
