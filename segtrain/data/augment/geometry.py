"""Scale, rotation, flips and elastic deformation as one resampling of image and mask.

Legend: b batch, k samples that are changed, h height, w width, c channel, p plane of a mask, n control points along a
side.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segtrain.data.augment.draws import Contrasts, Drawn, Draws
from segtrain.data.order import AUGMENT_STREAM, generator
from segtrain.errors import ConfigError

# [b, 2, 3], output to input coordinates in -1..1, as torch.nn.functional.affine_grid takes them
Affines = NDArray[np.float32]
Reals = NDArray[np.float64]


def affine_maps(scale: Reals, angle: Reals, flip_x: Reals, flip_y: Reals) -> Affines:
    """Scale about the centre, rotate (radians), flip (-1; 1 for no flip), as one affine map for each sample."""
    cos, sin, zero = np.cos(angle) / scale, np.sin(angle) / scale, np.zeros(len(scale))
    return np.stack(
        [np.stack([cos * flip_x, -sin * flip_y, zero], axis=1), np.stack([sin * flip_x, cos * flip_y, zero], axis=1)],
        axis=1,
    ).astype(np.float32)


def reference_draws(
    seed: int,
    positions: NDArray[np.int64],
    contrasts: Contrasts = Contrasts(),  # noqa: B008  frozen
    *,
    scale: float = 0.05,
    rotation_degrees: float = 15.0,
    flip_chance: float = 0.5,
) -> Draws:
    """The reference's scale (1 +- 0.05), rotation (+-15 degrees) and left-right flip of the samples at `positions`."""
    options = {"scale": scale, "rotation_degrees": rotation_degrees, "flip_chance": flip_chance}
    for (name, value), most in zip(options.items(), (0.9, 180, 1), strict=True):
        if not 0 <= value <= most:
            raise ConfigError(f"data.augment.{name}={value}: set it to a number from 0 to {most}")
    draws = np.array([generator(seed, AUGMENT_STREAM, int(position)).random(3) for position in positions])
    factor = 1 + scale * (2 * draws[:, 0] - 1)
    angle = np.deg2rad(rotation_degrees) * (2 * draws[:, 1] - 1)
    flip = np.where(draws[:, 2] < flip_chance, -1.0, 1.0)
    return Draws(torch.from_numpy(affine_maps(factor, angle, flip, np.ones(len(draws)))))


def warp(image_bchw: Tensor, mask_bphw: Tensor, affines: Tensor) -> tuple[Tensor, Tensor]:
    """Image (linear) and mask (nearest) after the affine maps [b, 2, 3]; zeros come from outside."""
    return _sample(image_bchw, mask_bphw, F.affine_grid(affines, list(image_bchw.shape), align_corners=False))


def warp_in_air(image_bchw: Tensor, mask_bphw: Tensor, affines: Tensor, elastic: Drawn | None) -> tuple[Tensor, Tensor]:
    """Image (linear) and mask (nearest) after affine maps and elastic displacements; air comes from outside.

    Air is each channel's smallest value, which is not 0 in z-scores. elastic: displacements [k, 2, n, n] of control
    points in x and y, in input coordinates of -1..1.
    """
    grid = F.affine_grid(affines, list(image_bchw.shape), align_corners=False)
    if elastic is not None:
        height, width = (spline(size, elastic.values.shape[-1], grid.device) for size in image_bchw.shape[2:])
        grid.index_add_(0, elastic.place, (height @ elastic.values @ width.T).permute(0, 2, 3, 1))
    # First over rows, then along a row: ten times faster than at once where channels are innermost, as in the store.
    rows = image_bchw.permute(0, 2, 3, 1).flatten(2).amin(1)
    air = rows.unflatten(1, (image_bchw.shape[3], -1)).amin(1)[:, :, None, None]
    image, mask = _sample(image_bchw - air, mask_bphw, grid)
    return image.add_(air), mask


def spline(size: int, points: int, device: torch.device) -> Tensor:
    """[size, points]: weights of control points along an axis, uniform cubic B-splines; outer points are outside."""
    place = (torch.arange(size, device=device) + 0.5) * ((points - 3) / size) + 1
    away = (place[:, None] - torch.arange(points, device=device)).abs()
    return torch.where(away < 1, 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp_min(0) ** 3 / 6)


def _sample(image: Tensor, mask: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    return (
        F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False),
        F.grid_sample(mask, grid, mode="nearest", padding_mode="zeros", align_corners=False),
    )
