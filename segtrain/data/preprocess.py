"""The reference protocol's preparation of one volume (DESIGN 7), and the way back to the source's geometry.

There (`preprocess`): drop the first and last slice -> crop to what is not background -> pad to a square -> resize in
plane -> clip to percentiles -> z-score per channel. Back (`to_source`): resize by nearest pixel -> cut the padding off
-> put the box where it was.

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

from segtrain.data.sources import Pixels
from segtrain.errors import LEAVE_OUT, DataError

# Raise it when `preprocess` gives other slices, voxels or geometry for any volume that it accepted before; not for a
# change of words, speed or the last bits of a float. The number is in every store's name, so all stores are then
# prepared anew. A test holds it against recorded output.
PREPROCESS_VERSION = 1

BACKGROUND = 0.1  # of the volume's maximum
PERCENTILES = (10, 99)

Span = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Where a prepared volume is in its source: all that `to_source` needs.

    source_shape: (slices, height, width) in the source; box: (start, stop) of slices, rows, columns in the source;
    pad: zeros before and after the box, of rows and columns; size_px: the side after resizing.
    """

    source_shape: tuple[int, int, int]
    box: tuple[Span, Span, Span]
    pad: tuple[Span, Span]
    size_px: int


@dataclass(frozen=True)
class Prepared:
    """image_shwc: float32 [slice, size, size, 3], z-scored; mask_shw: uint8 0/1 [slice, size, size]."""

    image_shwc: NDArray[np.float32]
    mask_shw: NDArray[np.uint8]
    geometry: Geometry


def preprocess(image_shwc: Pixels, mask_shw: NDArray[np.uint8], size_px: int, where: str) -> Prepared:
    """The prepared volume of a source's volume.

    Raises DataError (naming `where`) for a volume that is too short or constant, or has an empty mask.
    """
    slices, height, width = mask_shw.shape
    if slices < 3:
        raise DataError(f"{where}: {slices} slice(s), but 3 are needed (the first and last are dropped); {LEAVE_OUT}")
    image, mask = image_shwc[1:-1], mask_shw[1:-1]
    if image.max() == image.min():
        raise DataError(f"{where}: constant volume (every voxel is {image.max()}); export it again or {LEAVE_OUT}")
    image, mask, box = _crop(image, mask)
    if not mask.any():
        raise DataError(f"{where}: no lesion voxel in the mask, so no slice weights; check the mask or {LEAVE_OUT}")
    pad = _square_padding(image.shape[1], image.shape[2])
    scaled_cshw = _resize(image, pad, size_px)
    resized_mask = _resize_mask(mask, pad, size_px)
    if not resized_mask.any():
        raise DataError(f"{where}: the lesion vanishes at data.image_size={size_px}; use a larger one")
    (z0, z1), rows, columns = box
    geometry = Geometry((slices, height, width), ((z0 + 1, z1 + 1), rows, columns), pad, size_px)
    return Prepared(_normalise(scaled_cshw, where), resized_mask, geometry)


def to_source(prepared_shw: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A prepared volume in its source's geometry: the nearest pixel for each, zero where preparation cut off.

    Exact inside the crop where the padded crop has `size_px` already; else up to half a pixel at a boundary.
    """
    (z0, z1), (y0, y1), (x0, x1) = geometry.box
    (top, _), (left, _) = geometry.pad
    side = y1 - y0 + sum(geometry.pad[0])
    nearest = ((np.arange(side) + 0.5) * geometry.size_px / side).astype(int)
    rows, columns = nearest[top : top + y1 - y0], nearest[left : left + x1 - x0]
    source = np.zeros(geometry.source_shape, prepared_shw.dtype)
    source[z0:z1, y0:y1, x0:x1] = prepared_shw[:, rows[:, None], columns[None, :]]
    return source


def slice_weights(areas: NDArray[np.int64]) -> NDArray[np.float64]:
    """The reference's probability of each slice of a patient: by lesion area, with a tenth of it spread evenly.

    Without a lesion all are alike.
    """
    total = areas.sum()
    if total == 0:
        return np.full(len(areas), 1 / len(areas))
    weights: NDArray[np.float64] = (areas + 0.1 * total / len(areas)) / (1.1 * total)
    return weights


def _crop(image: Pixels, mask: NDArray[np.uint8]) -> tuple[Pixels, NDArray[np.uint8], tuple[Span, Span, Span]]:
    """Both cut to the box of what is not background, background set to 0; and the box."""
    image = np.where(image < image.max() * BACKGROUND, np.zeros((), image.dtype), image)
    inside = np.asarray(image.any(axis=3))
    spans = []
    for axis in range(3):
        occupied = np.flatnonzero(np.moveaxis(inside, axis, 0).reshape(inside.shape[axis], -1).any(axis=1))
        spans.append((int(occupied[0]), int(occupied[-1]) + 1))
    (z0, z1), (y0, y1), (x0, x1) = spans
    return image[z0:z1, y0:y1, x0:x1], mask[z0:z1, y0:y1, x0:x1], (spans[0], spans[1], spans[2])


def _square_padding(height: int, width: int) -> tuple[Span, Span]:
    before = abs(height - width) // 2
    after = abs(height - width) - before
    return ((0, 0), (before, after)) if height > width else ((before, after), (0, 0))


def _resize(image_shwc: Pixels, pad: tuple[Span, Span], size_px: int) -> NDArray[np.float32]:
    """float32 [channel, slice, size, size] in 0..1, white being the highest value of the image's type."""
    white = int(np.iinfo(image_shwc.dtype).max)
    slices, height, width, channels = image_shwc.shape
    side = height + sum(pad[0])
    rows = _zoom_matrix(side, size_px)[:, pad[0][0] : pad[0][0] + height]
    columns_t = np.ascontiguousarray(_zoom_matrix(side, size_px)[:, pad[1][0] : pad[1][0] + width].T)
    out = np.empty((channels, slices, size_px, size_px), np.float32)
    planes = np.ascontiguousarray(image_shwc.transpose(3, 0, 1, 2))
    for c in range(channels):
        for s in range(slices):
            plane = planes[c, s].astype(np.float32) * np.float32(1 / white)
            np.matmul(rows @ plane, columns_t, out=out[c, s])
    # The spline overshoots; the reference clips it to the range of its padded input.
    low = 0.0 if sum(map(sum, pad)) else image_shwc.min() / white
    return np.clip(out, np.float32(low), np.float32(image_shwc.max() / white), out=out)


def _resize_mask(mask_shw: NDArray[np.uint8], pad: tuple[Span, Span], size_px: int) -> NDArray[np.uint8]:
    side = mask_shw.shape[1] + sum(pad[0])
    nearest = ndimage.zoom(
        np.arange(side, dtype=np.float64), size_px / side, order=0, mode="grid-constant", grid_mode=True
    ).astype(int)
    padded = np.pad(mask_shw, ((0, 0), *pad))
    return np.ascontiguousarray(padded[:, nearest[:, None], nearest[None, :]])


def _normalise(image_cshw: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """float32 [slice, size, size, channel]: percentiles of the whole volume to 0..1, then z-scored per channel."""
    low, high = np.percentile(image_cshw, PERCENTILES)
    if high <= low:
        raise DataError(f"{where}: constant volume between its percentiles {PERCENTILES}; {LEAVE_OUT}")
    np.clip(image_cshw, low, high, out=image_cshw)
    image_cshw -= np.float32(low)
    image_cshw /= np.float32(high - low)
    for channel, plane in enumerate(image_cshw):
        mean, std = plane.mean(dtype=np.float64), plane.std(dtype=np.float64)
        if std == 0:
            raise DataError(f"{where}: channel {channel} is constant; export it again or {LEAVE_OUT}")
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return np.ascontiguousarray(image_cshw.transpose(1, 2, 3, 0))


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
