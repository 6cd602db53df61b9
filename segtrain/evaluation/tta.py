"""Test-time augmentation: probabilities averaged over views of the same slices.

Legend: b batch, c channel, r region, h height, w width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrain.config import TtaName


@dataclass(frozen=True)
class View:
    """A slice turned and enlarged about its centre, then flipped."""

    flip: tuple[int, ...] = ()  # dimensions of [b, c, h, w]
    angle_degrees: float = 0.0
    scale: float = 1.0

    def there(self, image: Tensor) -> Tensor:
        """The image in this view; outside of it the edge is repeated."""
        return self._warp(image, back=False).flip(self.flip)

    def back(self, probability: Tensor) -> Tensor:
        """A prediction for the view, in the geometry of the image."""
        return self._warp(probability.flip(self.flip), back=True)

    def _warp(self, image: Tensor, back: bool) -> Tensor:
        if not self.angle_degrees and self.scale == 1:
            return image
        angle, scale = math.radians(self.angle_degrees), self.scale
        if not back:  # a grid has the origin of each pixel, so the way there is the inverse
            angle, scale = -angle, 1 / scale
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        ratio = image.shape[2] / image.shape[3]
        map_ = image.new_tensor([[cos, -sin * ratio, 0], [sin / ratio, cos, 0]])
        grid = F.affine_grid(map_.expand(len(image), 2, 3), list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


FLIPS = (View(flip=(3,)), View(flip=(2,)), View(flip=(2, 3)))
TURNS = (View(angle_degrees=10), View(angle_degrees=-10), View(scale=1.1), View(scale=0.9))
VIEWS: dict[TtaName, tuple[View, ...]] = {  # `trained` is one of these once a config is loaded
    "none": (),
    "left_right": FLIPS[:1],
    "up_down": FLIPS[1:2],
    "flips": FLIPS,
    "all": FLIPS + TURNS,
}


def mean_probability(logits: Callable[[Tensor], Tensor], image_bchw: Tensor, plain: Tensor, tta: TtaName) -> Tensor:
    """[b, r, h, w]: the mean over the views of `tta` and the slices themselves, whose logits are `plain`."""
    total = torch.sigmoid(plain)
    for view in VIEWS[tta]:
        total = total + view.back(torch.sigmoid(logits(view.there(image_bchw))))
    return total / (1 + len(VIEWS[tta]))
