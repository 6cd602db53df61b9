"""Masks as they are prepared: uint8 bits of regions, taken apart (see `segtrain.config.regions`).

Legend: r region.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import IGNORED, MaskLayout


def is_lesion(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each voxel is in any region."""
    return np.asarray((mask & np.uint8(IGNORED - 1)) > 0)


def is_known(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each voxel is not ignored."""
    return np.asarray((mask & np.uint8(IGNORED)) == 0)


def in_region(mask: NDArray[np.uint8], number: int) -> NDArray[np.bool_]:
    """Whether each voxel is in the region of that number."""
    return np.asarray((mask >> np.uint8(number) & np.uint8(1)) > 0)


def regions_of(mask: NDArray[np.uint8], layout: MaskLayout) -> NDArray[np.bool_]:
    """[r, ...]: the regions of a mask."""
    if layout.is_plain:
        return mask.astype(bool)[None]
    return np.stack([in_region(mask, number) for number in range(len(layout.regions))])


def bits_of(regions: NDArray[Any]) -> NDArray[np.uint8]:
    """The mask of regions [r, ...]."""
    bits = np.zeros(regions.shape[1:], np.uint8)
    for number, region in enumerate(regions):
        bits |= (region > 0).astype(np.uint8) << np.uint8(number)
    return bits
