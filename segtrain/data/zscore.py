"""The protocol `zscore`: each contrast, in its own numbers, standardised inside the head; 0 everywhere else.

Robust ends and the head's own mean and deviation make contrasts of any unit alike, however much air is around the head
and however bright a lone voxel is.

Legend: s slice, h height, w width, c channel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.data.sources.levels import BRIGHTEST_PERCENTILE, DARK, FEW_BELOW, IS_AIR, background_of
from segtrain.errors import LEAVE_OUT, DataError

# Raise it when `head_of` or `z_scored` gives anything else for any volume; see PREPROCESS_VERSION.
ZSCORE_VERSION = 1

INSTEAD_OF_CONSTANT = f"export it again, say what stands in for it, as in data.missing=zeros, or {LEAVE_OUT}"
ENDS = (0.5, 99.5)  # percentiles inside the head, to which a contrast is clipped
DARKEST_PERCENTILE = 0.1


def head_of(image_shwc: NDArray[Any], present: list[int]) -> NDArray[np.bool_]:
    """Whether each voxel [s, h, w] is in the head: above background in one of the contrasts `present`, or enclosed."""
    head = np.zeros(image_shwc.shape[:3], bool)
    for c in present:
        contrast_shw = _floats(image_shwc[..., c])
        if contrast_shw.max() > contrast_shw.min():
            head |= _is_tissue(contrast_shw)
    for plane_hw in head:
        plane_hw[...] = ndimage.binary_fill_holes(plane_hw)
    return head


def z_scored(image_shwc: NDArray[Any], head_shw: NDArray[np.bool_], present: list[int], where: str) -> NDArray[Any]:
    """float32 [c, s, h, w]: clipped to robust ends and z-scored inside the head, 0 outside and where not `present`."""
    scored = np.zeros((image_shwc.shape[3], *head_shw.shape), np.float32)
    for c in present:
        inside = _floats(image_shwc[..., c])[head_shw]
        low, high = np.percentile(inside, ENDS)
        if high <= low:
            raise DataError(
                f"{where}: channel {c} is constant inside the head (between percentiles {ENDS}); {INSTEAD_OF_CONSTANT}"
            )
        inside = (inside.clip(low, high) - low) / (high - low)
        scored[c][head_shw] = (inside - inside.mean(dtype=np.float64)) / inside.std(dtype=np.float64)
    return scored


def _is_tissue(contrast_shw: NDArray[np.floating]) -> NDArray[np.bool_]:
    """All but an exact background, as skulls are stripped; else what is above a tenth of the range."""
    background = background_of(contrast_shw)
    is_rest = np.full(contrast_shw.shape, True) if background is None else contrast_shw != background
    rest = contrast_shw[is_rest]
    low = float(np.percentile(rest, DARKEST_PERCENTILE)) if background is None else background
    level = low + DARK * (float(np.percentile(rest, BRIGHTEST_PERCENTILE)) - low)
    if background is not None:
        is_in_the_middle = float((rest < background).mean()) > FEW_BELOW
        has_air = float((rest < level).mean()) > IS_AIR
        if is_in_the_middle or not has_air:
            return is_rest
    return np.asarray(contrast_shw > level)


def _floats(contrast_shw: NDArray[Any]) -> NDArray[np.floating]:
    """float32 where that holds the values, else float64."""
    fits = contrast_shw.dtype.itemsize <= 2 or contrast_shw.dtype == np.float32
    return contrast_shw.astype(np.float32 if fits else np.float64)
