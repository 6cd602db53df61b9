"""A whole batch, drawn by position and augmented in one call on the training device.

Legend: b batch, h height, w width, c channel, p plane of a mask.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import AUGMENTATIONS, IGNORED, Choice, MaskLayout, name_of, options_of, part_of
from segtrain.data.augment.draws import Contrasts, Draws, to
from segtrain.data.augment.geometry import warp
from segtrain.data.augment.mix import Mix
from segtrain.data.augment.strong import strengthen


def is_own(choice: Choice) -> bool:
    """Whether an augmentation is one of the user's own."""
    return name_of(choice) not in AUGMENTATIONS


def draw(
    choice: Choice,
    seed: int,
    positions: NDArray[np.int64],
    contrasts: Contrasts = Contrasts(),  # noqa: B008  frozen
) -> Draws | None:
    """What a built-in augmentation does to the samples at `positions`; None: nothing."""
    assert not is_own(choice), "own augmentations are not drawn: the feed has them done"
    draws: Callable[..., Draws | None] = part_of(choice, AUGMENTATIONS).load(**options_of(choice))
    return draws(seed, positions, contrasts=contrasts)


def no_draws(seed: int, positions: NDArray[np.int64], contrasts: Contrasts) -> None:
    """Samples stay as they are."""


def augment(image_bchw: Tensor, mask_bphw: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Image and mask after the draws; all on one device."""
    if draws.strong is None:
        return warp(image_bchw, mask_bphw, draws.affines)
    return strengthen(image_bchw, mask_bphw, draws.affines, draws.strong)


def planes_of(mask_bhw: Tensor, layout: MaskLayout) -> Tensor:
    """float32 [b, p, h, w] of a mask's bits."""
    if layout.is_plain:
        return mask_bhw.float().unsqueeze(1)
    bits = [1 << number for number in range(len(layout.regions))] + [IGNORED] * layout.ignores
    return torch.stack([(mask_bhw & bit) > 0 for bit in bits], dim=1).float()


def to_device(
    image_bhwc: Tensor,
    mask_bhw: Tensor,
    draws: Draws | None,
    device: torch.device,
    mix: Mix | None = None,
    layout: MaskLayout = MaskLayout(),  # noqa: B008  frozen
) -> tuple[Tensor, Tensor]:
    """A gathered batch (float16, uint8, on the CPU), mixed, then augmented: float32 [b, c, h, w] and [b, p, h, w].

    p: the planes of the layout, the regions and then, where there are some, the ignored voxels.
    """
    image = image_bhwc.to(device, non_blocking=True).float().permute(0, 3, 1, 2)
    mask = planes_of(mask_bhw.to(device, non_blocking=True), layout)
    with torch.no_grad():
        if mix is not None:
            mix = mix.moved(to(device))
            image, mask = mix.apply(image, mask, planes_of(mix.mask_khw, layout), layout)
        if draws is not None:
            image, mask = augment(image, mask, draws.moved(to(device)))
    return image, mask
