"""One volume prepared for the network, and the way back to the source's geometry.

There (`preprocess`), by the reference protocol: drop the first and last slice -> crop to what is not
background -> pad to a square -> resize in plane -> clip to percentiles -> z-score per channel. By the protocol zscore:
crop to the head -> z-score per contrast inside it -> pad -> resize. With a spacing, both resample to it and pad then.
Back (`to_source`): resize by nearest pixel -> cut the padding off -> put the box where it was.

Legend: s slice, h height, w width, c channel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import IGNORED, DataConfig, ProtocolName
from segtrain.data.geometry import Box, Geometry, centred, resize, resize_mask, square_padding
from segtrain.data.masks import is_lesion
from segtrain.data.sources import Pixels, Volume
from segtrain.data.sources.levels import fewest_bits, one_range
from segtrain.data.zscore import INSTEAD_OF_CONSTANT, ZSCORE_VERSION, head_of, z_scored
from segtrain.errors import LEAVE_OUT, DataError

# Raise it when `preprocess` by the reference protocol gives other slices, voxels or geometry for any volume that it
# accepted before; not for a change of words, speed or the last bits of a float. The number is in every store's name,
# so all its stores are then prepared anew. A test holds it against recorded output.
PREPROCESS_VERSION = 1
VERSIONS: dict[ProtocolName, int] = {"reference": PREPROCESS_VERSION, "zscore": ZSCORE_VERSION}

BACKGROUND = 0.1  # of the volume's maximum
PERCENTILES = (10, 99)
SIZE_STEP = 16  # of data.image_size
CUT_OFF = 0.01  # of the lesion's voxels; less at the head's edge is no news


@dataclass(frozen=True)
class Preparation:
    """How volumes are prepared. keeps_empty: whether a patient without lesion is a valid one, a negative."""

    size_px: int
    protocol: ProtocolName = "reference"
    spacing_mm: float | None = None
    keeps_empty: bool = False

    @classmethod
    def of(cls, cfg: DataConfig, keeps_empty: bool = False) -> "Preparation":
        """As a config says."""
        return cls(cfg.image_size, cfg.protocol, cfg.spacing_mm, keeps_empty)


@dataclass(frozen=True)
class Prepared:
    """image_shwc: float32 [slice, size, size, contrast], z-scored; mask_shw: uint8 bits [slice, size, size].

    remarks: what preparation changed or left in doubt.
    """

    image_shwc: NDArray[np.float32]
    mask_shw: NDArray[np.uint8]
    geometry: Geometry
    remarks: tuple[str, ...] = ()


def preprocess(volume: Volume, preparation: Preparation, where: str) -> Prepared:
    """The prepared volume of a source's volume; without a mask, as it is predicted, that of the result is empty.

    Raises DataError (naming `where`) for a volume that is too short or constant, has no lesion where it must have one,
    or does not fit into the size at its spacing.
    """
    present = [c for c in range(volume.image_shwc.shape[3]) if not volume.absent or volume.image_shwc[..., c].any()]
    doubts: tuple[str, ...] = ()
    head_shw = None
    if preparation.protocol == "reference":
        compared = one_range(volume)
        doubts = compared.remarks[len(volume.remarks) :]
        image, box = _reference_crop(fewest_bits(compared.image_shwc), where)
    else:
        image, head_shw, box = _head_crop(volume.image_shwc, present, where)
    geometry = _geometry(volume, box, preparation, where)
    mask = np.zeros(image.shape[:3], np.uint8)
    if volume.mask_shw is not None:
        mask, cut_off = _crop_mask(volume.mask_shw, box, preparation, where)
        doubts += cut_off
    resized_mask = resize_mask(mask, geometry)
    if is_lesion(mask).any() and not is_lesion(resized_mask).any():
        raise DataError(f"{where}: the lesion vanishes at data.image_size={geometry.size_px}; use a larger one")
    if head_shw is None:
        image_cshw = _normalise(_resize_grey(image, geometry), geometry, present, where)
    else:
        image_cshw = _resize_scored(z_scored(image, head_shw, present, where), head_shw, geometry)
    return Prepared(np.ascontiguousarray(image_cshw.transpose(1, 2, 3, 0)), resized_mask, geometry, doubts)


def slice_weights(areas: NDArray[np.int64], lesion_free: float = 0.1) -> NDArray[np.float64]:
    """The probability of each slice of a patient: by lesion area, with `lesion_free` times their sum spread evenly.

    The reference spreads a tenth. Without a lesion all are alike. areas: [..., slice].
    """
    total, slices = areas.sum(axis=-1, keepdims=True), areas.shape[-1]
    weights: NDArray[np.float64] = (areas + lesion_free * total / slices) / ((1 + lesion_free) * np.maximum(total, 1))
    weights[total[..., 0] == 0] = 1 / slices
    return weights


def _reference_crop(image: Pixels, where: str) -> tuple[Pixels, Box]:
    """Without the first and last slice, cut to the box of what is not background, background set to 0; and the box."""
    slices = len(image)
    if slices < 3:
        raise DataError(f"{where}: {slices} slice(s), but 3 are needed (the first and last are dropped); {LEAVE_OUT}")
    image = image[1:-1]
    if image.max() == image.min():
        raise DataError(f"{where}: constant volume (every voxel is {image.max()}); export it again or {LEAVE_OUT}")
    image = np.where(image < image.max() * BACKGROUND, np.zeros((), image.dtype), image)
    (z0, z1), (y0, y1), (x0, x1) = _box(np.asarray(image.any(axis=3)))
    return image[z0:z1, y0:y1, x0:x1], ((z0 + 1, z1 + 1), (y0, y1), (x0, x1))


def _head_crop(image: NDArray[Any], present: list[int], where: str) -> tuple[NDArray[Any], NDArray[np.bool_], Box]:
    """Image and head cut to the head's box; and the box."""
    head = head_of(image, present)
    if not head.any():
        raise DataError(f"{where}: constant volume, no head in it; export it again or {LEAVE_OUT}")
    box = _box(head)
    (z0, z1), (y0, y1), (x0, x1) = box
    return image[z0:z1, y0:y1, x0:x1], head[z0:z1, y0:y1, x0:x1], box


def _box(inside_shw: NDArray[np.bool_]) -> Box:
    spans = []
    for axis in range(3):
        occupied = np.flatnonzero(np.moveaxis(inside_shw, axis, 0).reshape(inside_shw.shape[axis], -1).any(axis=1))
        spans.append((int(occupied[0]), int(occupied[-1]) + 1))
    return spans[0], spans[1], spans[2]


def _crop_mask(
    mask: NDArray[np.uint8], box: Box, preparation: Preparation, where: str
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The mask cut to the box, and a remark where lesion is cut off. Raises DataError where no lesion is left."""
    (z0, z1), (y0, y1), (x0, x1) = box
    cropped = mask[z0:z1, y0:y1, x0:x1]
    lesion, left = int(is_lesion(mask).sum()), int(is_lesion(cropped).sum())
    if not left and not preparation.keeps_empty:
        raise DataError(f"{where}: no lesion voxel in the mask, so no slice weights; check the mask or {LEAVE_OUT}")
    if lesion and not left:
        edge = "the first and last slice and " if preparation.protocol == "reference" else ""
        raise DataError(
            f"{where}: all {lesion} lesion voxels are in what is cut off ({edge}what is outside the head); check that "
            f"mask and image fit together, or {LEAVE_OUT}"
        )
    if (cropped == IGNORED).all():
        raise DataError(f"{where}: every voxel of the head is ignored, so nothing can be learned; {LEAVE_OUT}")
    if not left:
        return cropped, ("no lesion in its mask, kept as a negative",)
    if lesion - left > CUT_OFF * lesion:
        return cropped, (f"{lesion - left} of {lesion} lesion voxels are outside the head and cut off",)
    return cropped, ()


def _geometry(volume: Volume, box: Box, preparation: Preparation, where: str) -> Geometry:
    """Where the prepared volume will be. Raises DataError: no spacing, or a head too large for the size."""
    slices, height, width = volume.image_shwc.shape[:3]
    size_px, target_mm = preparation.size_px, preparation.spacing_mm
    (y0, y1), (x0, x1) = box[1:]
    if target_mm is None:
        return Geometry((slices, height, width), box, square_padding(y1 - y0, x1 - x0), size_px)
    if volume.spacing_mm is None:
        raise DataError(
            f"{where}: the source does not know its spacing, so data.spacing_mm={target_mm:g} cannot be reached; leave "
            "data.spacing_mm out"
        )
    _, row_mm, column_mm = volume.spacing_mm
    rows = max(1, round((y1 - y0) * row_mm / target_mm))
    columns = max(1, round((x1 - x0) * column_mm / target_mm))
    if max(rows, columns) > size_px:
        needed = -(-max(rows, columns) // SIZE_STEP) * SIZE_STEP
        raise DataError(
            f"{where}: the head has {rows}x{columns} pixels at data.spacing_mm={target_mm:g}, more than "
            f"data.image_size={size_px}; set data.image_size={needed}, or a larger data.spacing_mm"
        )
    pad = (centred(rows, size_px), centred(columns, size_px))
    return Geometry((slices, height, width), box, pad, size_px, (rows, columns))


def _resize_grey(image_shwc: Pixels, geometry: Geometry) -> NDArray[np.float32]:
    """float32 [channel, slice, size, size] in 0..1, white being the highest value of the image's type."""
    white = int(np.iinfo(image_shwc.dtype).max)
    out = resize(np.ascontiguousarray(image_shwc.transpose(3, 0, 1, 2)), geometry, 1 / white)
    # The spline overshoots; the reference clips it to the range of its padded input.
    low = 0.0 if sum(map(sum, geometry.pad)) else image_shwc.min() / white
    return np.clip(out, np.float32(low), np.float32(image_shwc.max() / white), out=out)


def _resize_scored(
    image_cshw: NDArray[np.float32], head_shw: NDArray[np.bool_], geometry: Geometry
) -> NDArray[np.float32]:
    """float32 [channel, slice, size, size], each contrast in its own range, 0 outside the head."""
    out = resize(image_cshw, geometry, 1)
    for plane, source in zip(out, image_cshw, strict=True):
        np.clip(plane, source.min(), source.max(), out=plane)
    out *= resize_mask(head_shw.view(np.uint8), geometry)
    out += 0.0  # no -0
    return out


def _normalise(
    image_cshw: NDArray[np.float32], geometry: Geometry, present: list[int], where: str
) -> NDArray[np.float32]:
    """Percentiles of the whole volume to 0..1, then z-scored per channel; 0 in a channel that is not `present`."""
    rows, columns = geometry.inner
    inner_cshw = image_cshw[:, :, rows, columns]
    low, high = np.percentile(inner_cshw if len(present) == len(image_cshw) else inner_cshw[present], PERCENTILES)
    if high <= low:
        raise DataError(f"{where}: constant volume between its percentiles {PERCENTILES}; {LEAVE_OUT}")
    np.clip(image_cshw, low, high, out=image_cshw)
    image_cshw -= np.float32(low)
    image_cshw /= np.float32(high - low)
    for channel, plane in enumerate(image_cshw):
        if channel not in present:
            plane[...] = 0
            continue
        inner_shw = inner_cshw[channel]
        mean, std = inner_shw.mean(dtype=np.float64), inner_shw.std(dtype=np.float64)
        if std == 0:
            raise DataError(f"{where}: channel {channel} is constant; {INSTEAD_OF_CONSTANT}")
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return image_cshw
