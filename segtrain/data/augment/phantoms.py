"""Made-up samples for the trials of an augmentation, and how well a sample's image still shows its mask.

Legend: h height, w width, c channel.
"""

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.data.augment.forms import Mask, Plane

Sample = tuple[Plane, Mask]
FAR_PX = 2.0  # interpolation and coarse voxels displace by less


def _smooth(shape: tuple[int, ...], sigma_px: float, seed: int) -> NDArray[np.float32]:
    """Smooth noise, z-scored in each channel."""
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(noise, (sigma_px, sigma_px, 0), mode="wrap")
    scored: NDArray[np.float32] = (field - field.mean((0, 1))) / field.std((0, 1))
    return scored


@lru_cache(maxsize=8)
def pattern(shape: tuple[int, int], channels: int, lesion: int = 1) -> Sample:
    """An image that is its mask, with a little texture, so that two equal values are rare.

    `lesion`: the mask's value where it is not 0.
    """
    blobs = _smooth((*shape, 1), 4, 0)
    mask = (blobs > np.quantile(blobs, 0.75)).astype(np.uint8)
    image = 3 * mask - np.float32(0.75) + np.float32(0.05) * _smooth((*shape, channels), 1, 1)
    return image.astype(np.float32), mask[..., 0] * np.uint8(lesion)


def plain(shape: tuple[int, int], channels: int, lesion: int = 1, seed: int = 2) -> Sample:
    """A z-scored slice with a lesion of 5%."""
    image = _smooth((*shape, channels), 2, seed)
    blobs = _smooth((*shape, 1), 4, seed + 100)
    return image, (blobs > np.quantile(blobs, 0.95)).astype(np.uint8)[..., 0] * np.uint8(lesion)


def auc(image_hwc: Plane, mask_hw: Mask) -> float | None:
    """How well the image tells lesion from the rest, 0.5 to 1; None: one of the two is not there.

    The image is one of the mask. Voxels of the most frequent value may be a fill, which says nothing.
    """
    values = image_hwc.mean(axis=2).ravel()
    lesion = mask_hw.ravel() > 0
    step = max(1, len(values) // 6000)
    values, lesion = values[::step], lesion[::step]
    levels, counts = np.unique(values, return_counts=True)
    no_fill = values != levels[counts.argmax()]
    aucs = [auc for auc in (_rank(values, lesion), _rank(values[no_fill], lesion[no_fill])) if auc is not None]
    return max(aucs, default=None)


def _rank(values: Plane, lesion: NDArray[np.bool_]) -> float | None:
    inside, outside = values[lesion], np.sort(values[~lesion])
    if not len(inside) or not len(outside):
        return None
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    auc = float(below.mean()) / (2 * len(outside))
    return max(auc, 1 - auc)  # an inverted image moves with its mask too


def displaced_quarters(image_hwc: Plane, mask_hw: Mask) -> int:
    """In how many quarters of an image that is one of its mask the mask fits better elsewhere.

    An image that is blurred, noisy or has holes fits best where it is.
    """
    height, width = mask_hw.shape
    halves = [slice(0, height // 2), slice(height // 2, None)], [slice(0, width // 2), slice(width // 2, None)]
    moved = 0
    for rows, columns in product(*halves):
        image = image_hwc[rows, columns].mean(axis=2)
        mask = mask_hw[rows, columns].astype(np.float64)
        spectra = np.fft.fft2(image - image.mean()), np.fft.fft2(mask - mask.mean())
        fit = np.abs(np.fft.ifft2(spectra[0] * spectra[1].conj()).real)  # by shift; inverted images fit too
        shift_y, shift_x = np.unravel_index(int(fit.argmax()), fit.shape)
        distance = np.hypot(min(shift_y, fit.shape[0] - shift_y), min(shift_x, fit.shape[1] - shift_x))
        moved += bool(distance >= FAR_PX and fit.max() > 1.05 * fit[0, 0])
    return moved
