"""Augmentation of a whole batch in one call on the training device, its parameters a function of (seed, position) (L4).

Legend: b batch, h height, w width, c channel.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segtrain.config import AugmentName
from segtrain.data.sampler import AUGMENT_STREAM, generator

SCALE = 0.05
ANGLE_DEGREES = 15.0
FLIP_CHANCE = 0.5

Affines = NDArray[
    np.float32
]  # [b, 2, 3], output to input coordinates in -1..1, as torch.nn.functional.affine_grid takes


def reference_affines(seed: int, positions: NDArray[np.int64]) -> Affines:
    """The reference's scale (1 +- 0.05), rotation (+-15 degrees) and left-right flip, as one affine map a sample."""
    draws = np.array([generator(seed, AUGMENT_STREAM, int(position)).random(3) for position in positions])
    scale = 1 + SCALE * (2 * draws[:, 0] - 1)
    angle = np.deg2rad(ANGLE_DEGREES) * (2 * draws[:, 1] - 1)
    flip = np.where(draws[:, 2] < FLIP_CHANCE, -1.0, 1.0)
    cos, sin, zero = np.cos(angle) / scale, np.sin(angle) / scale, np.zeros(len(draws))
    return np.stack(
        [np.stack([cos * flip, -sin, zero], axis=1), np.stack([sin * flip, cos, zero], axis=1)], axis=1
    ).astype(np.float32)


AUGMENTATIONS: dict[AugmentName, Callable[[int, NDArray[np.int64]], Affines] | None] = {
    "none": None,
    "reference": reference_affines,
}


def warp(image_bchw: Tensor, mask_bchw: Tensor, affines: Tensor) -> tuple[Tensor, Tensor]:
    """Both after the affine maps [b, 2, 3]: image linear, mask nearest, zeros from outside."""
    grid = F.affine_grid(affines, list(image_bchw.shape), align_corners=False)
    image = F.grid_sample(image_bchw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    mask = F.grid_sample(mask_bchw, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return image, mask


def to_device(
    image_bhwc: Tensor, mask_bhw: Tensor, affines: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A gathered batch (float16, uint8, on the CPU), augmented: float32 [b, 3, h, w] and [b, 1, h, w] on the device."""
    image = image_bhwc.to(device, non_blocking=True).float().permute(0, 3, 1, 2)
    mask = mask_bhw.to(device, non_blocking=True).float().unsqueeze(1)
    if affines is not None:
        with torch.no_grad():
            image, mask = warp(image, mask, affines.to(device, non_blocking=True))
    return image, mask
