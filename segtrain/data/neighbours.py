"""Slices with those above and below them as channels (2.5D).

Legend: s slice, n slices of a window, h height, w width.
"""

import numpy as np
from numpy.typing import NDArray

from segtrain.data.store import Store


def window(store: Store, patient: str, number: int, neighbours: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """A slice with its neighbours as channels, and its mask: one read, since they are contiguous."""
    numbers = neighbours_of(number, store.patients[patient].slices, neighbours)
    first, size = int(numbers[0]), store.size_px
    shape = int(numbers[-1]) - first + 1, size, size
    image_shwc, mask_shw = np.empty((*shape, len(store.contrasts)), np.float16), np.empty(shape, np.uint8)
    store.read(patient, first, image_shwc, mask_shw)
    return as_channels(image_shwc[numbers - first]), mask_shw[number - first]


def neighbours_of(number: int, slices: int, neighbours: int) -> NDArray[np.int64]:
    """Indices [2 * neighbours + 1] of the slices around slice `number`, from below to above; edges repeat."""
    return np.clip(np.arange(number - neighbours, number + neighbours + 1), 0, slices - 1)


def as_channels(window_nhwc: NDArray[np.float16]) -> NDArray[np.float16]:
    """Slices [n, h, w, c] as the channels of one image [h, w, c * n], slice by slice."""
    n, height, width, contrasts = window_nhwc.shape
    return np.moveaxis(window_nhwc, 0, 2).reshape(height, width, n * contrasts)


def with_neighbours(volume_shwc: NDArray[np.float16], neighbours: int) -> NDArray[np.float16]:
    """Each slice with those above and below it as channels (2.5D): [s, h, w, c * (2 * neighbours + 1)]."""
    if neighbours == 0:
        return volume_shwc
    slices = len(volume_shwc)
    return np.stack([as_channels(volume_shwc[neighbours_of(z, slices, neighbours)]) for z in range(slices)])
