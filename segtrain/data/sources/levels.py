"""Grey levels of contrasts in any unit: the background found and set to 0, the rest scaled to 16 bits.

The background is 0 in most files, but not always the darkest value: resampling leaves voxels below it, standardised
brains have it in the middle, scanners pad with -1024 or less, and a broken voxel may lie far below all.

Legend: x, y, z the file's own axes.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.data.sources.base import Pixels, Volume

BRIGHTEST_PERCENTILE = 99.9  # of a contrast's voxels above its darkest: white
DARKEST_PERCENTILES = (0.1, 1.0)  # voxels below it are outliers; the second where the first is far below it
IS_BACKGROUND = 0.5  # of the voxels at the volume's edges have one value
FEW_BELOW = 0.05  # of the other voxels: they are noise around the background
NEAR_BELOW = 0.05  # of the range of the rest: nothing to cut off
FAR_BELOW = 0.5  # of the range of the rest
DARK, IS_AIR = 0.1, 0.3  # the lowest part of a range; the share of voxels in it where there is air around the head
WHITE = np.iinfo(np.uint16).max


def one_range(volume: Volume) -> Volume:
    """The volume with contrasts whose grey levels may be compared: as they are, or each scaled to 16 bits."""
    image_shwc = volume.image_shwc
    if volume.has_one_range and image_shwc.dtype in (np.uint8, np.uint16):
        return volume
    remarks = [f"intensities scaled to 16 bits, each contrast's {BRIGHTEST_PERCENTILE}th percentile to {WHITE}"]
    scaled = np.empty(image_shwc.shape, np.uint16)
    for c in range(image_shwc.shape[3]):
        scaled[..., c], doubts = grey_levels(image_shwc[..., c])
        remarks += [f"contrast {c + 1}: {doubt}" for doubt in doubts]
    return replace(volume, image_shwc=scaled, has_one_range=True, remarks=(*volume.remarks, *remarks))


def fewest_bits(image_shwc: Pixels) -> Pixels:
    """8 bits of an image in 16 that was made of 8 (v * 257), so that both are prepared to the same last bit."""
    if image_shwc.dtype != np.uint16 or (image_shwc % np.uint16(257)).any():
        return image_shwc
    return (image_shwc // np.uint16(257)).astype(np.uint8)


def grey_levels(contrast_xyz: NDArray[Any]) -> tuple[NDArray[np.uint16], list[str]]:
    """uint16: the background 0, BRIGHTEST_PERCENTILE and all above WHITE; and remarks on what was set to black.

    A constant is 0. 8 bits are multiplied by 257, which is exact.
    """
    if contrast_xyz.dtype == np.uint8:
        return contrast_xyz.astype(np.uint16) * np.uint16(257), []
    is_fine = contrast_xyz.dtype.itemsize > 2 and contrast_xyz.dtype != np.float32
    values: NDArray[Any] = contrast_xyz.astype(np.float64 if is_fine else np.float32)
    if values.max() == values.min():
        return np.zeros(values.shape, np.uint16), []
    remarks = _fill_padding(values)
    darkest = values.min()
    background = background_of(values)
    is_rest = np.full(values.shape, True) if background is None else values != background
    low = _low(values[is_rest], background)
    above = values[is_rest & (values > low)]
    if not len(above):  # nearly all is one value: no outliers, but all that there is
        low, above = darkest, values[values > darkest]
    high = np.percentile(above, BRIGHTEST_PERCENTILE)
    scaled = ((values - low) / (high - low) * WHITE).clip(0, WHITE).round().astype(np.uint16)
    if background is not None and background > low:
        scaled[~is_rest] = 0
        remarks.append(f"{background:g}, the value at the edges, is taken for background, though not the darkest")
    if cut := int((is_rest & (values < low)).sum()):
        remarks.append(f"what is below {low:g}, down to {darkest:g}, is set to black (voxels: {cut})")
    return scaled, remarks


def _fill_padding(values: NDArray[np.floating]) -> list[str]:
    """Give voxels of a value below 0 that pads the volume, or is an outlier, the black of the others; a remark if any.

    The black of the others is 0 where they are magnitudes, else their darkest. The background of a head in other units
    is no padding: nothing else is as dark, and it is not further below the head than the head's own range.
    """
    darkest = float(values.min())
    rest = values[values > darkest]
    low, high = map(float, np.percentile(rest, (DARKEST_PERCENTILES[0], BRIGHTEST_PERCENTILE)))
    below, span = low - darkest, high - low
    if darkest >= 0 or below <= NEAR_BELOW * span or span == 0:
        return []
    has_air = low >= 0 or float((rest <= low + DARK * span).mean()) > IS_AIR
    if not has_air and below <= span:
        return []
    is_padding = values == darkest
    values[is_padding] = 0 if 0 <= low <= span else low
    return [f"{darkest:g}, far below all others, is set to black (voxels: {is_padding.sum()})"]


def background_of(values_xyz: NDArray[np.floating]) -> float | None:
    """The value that most voxels at the volume's twelve edges have, where slices show no head; None without such."""
    edges = [values_xyz[place] for place in _edges()]
    found, counts = np.unique(np.concatenate(edges), return_counts=True)
    commonest = counts.argmax()
    return float(found[commonest]) if counts[commonest] > IS_BACKGROUND * counts.sum() else None


def _edges() -> list[tuple[int | slice, ...]]:
    """Indices of the twelve edges."""
    edges = []
    for axis, ends in product(range(3), product((0, -1), repeat=2)):
        place: list[int | slice] = list(ends)
        place.insert(axis, slice(None))
        edges.append(tuple(place))
    return edges


def _low(rest: NDArray[np.floating], background: float | None) -> float:
    """The value that becomes black, from the voxels that are not background."""
    low, one_percent, high = map(float, np.percentile(rest, (*DARKEST_PERCENTILES, BRIGHTEST_PERCENTILE)))
    if one_percent - low > FAR_BELOW * (high - one_percent):
        low = one_percent
    if low - float(rest.min()) < NEAR_BELOW * (high - low):
        low = float(rest.min())
    if background is None:
        return low
    return background if float((rest < background).mean()) <= FEW_BELOW else low
