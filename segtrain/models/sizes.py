"""The sizes of images that a network of the user's own takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.models.heads import Expected, has_mask, no_mask
from segtrain.models.outputs import candidates, shapes

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
LEAST_PX = (64, 96)  # sides of trial images
OTHER_SIZES = (224, 256, 384, 512)  # tried to name a size that the network takes
Run = Callable[[Tensor], Any]  # what the network returns for images; raises ConfigError


@dataclass(frozen=True)
class Sizes:
    """Sides are multiples of `multiple`, or exactly that."""

    multiple: int
    only: bool = False

    def __str__(self) -> str:
        if self.only:
            return f"{self.multiple} x {self.multiple} alone"
        return f"/{self.multiple}" if self.multiple > 1 else "any"

    def image(self, batch: int, channels: int) -> Tensor:
        """Random images, always the same: sides differ and are odd multiples, where the network takes such."""
        height, width = self.multiple, self.multiple
        if not self.only:
            height, width = (side // self.multiple // 2 * 2 + 1 for side in LEAST_PX)
            width = max(width, height + 2)
            height, width = height * self.multiple, width * self.multiple
        return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


class SizeSearch:
    """The search for the sizes that a network takes; of a `supervised` one all outputs have to fit."""

    def __init__(self, run: Run, expected: Expected, channels: int) -> None:
        self.run, self.expected, self.channels = run, expected, channels
        self.name = expected.name

    def find(self, size_px: int) -> Sizes:
        """The smallest multiple that works, or `size_px` alone. Raises ConfigError with the reason if neither does."""
        low, high = 0, len(MULTIPLES)
        while low < high:  # what works for 8 works for 16
            middle = (low + high) // 2
            if self._works(Sizes(MULTIPLES[middle]), self.channels):
                high = middle
            else:
                low = middle + 1
        if low < len(MULTIPLES):
            return Sizes(MULTIPLES[low])
        only = Sizes(size_px, only=True)
        image = only.image(2, self.channels)
        try:
            returned = self.run(image)
        except ConfigError:
            self._explain(size_px)
            raise
        if not self._has_mask(returned, image):
            raise ConfigError(no_mask(self.expected, shapes(returned), image))
        return only

    def _has_mask(self, returned: Any, image: Tensor) -> bool:
        found = list(candidates(returned, len(image), self.expected.regions))
        return has_mask(found, image, self.expected.supervised)

    def _works(self, sizes: Sizes, channels: int) -> bool:
        image = sizes.image(2, channels)
        try:
            return self._has_mask(self.run(image), image)
        except ConfigError:
            return False

    def _explain(self, size_px: int) -> None:
        """Raise ConfigError where other channels or another size would do."""
        three = (Sizes(32), Sizes(size_px, only=True))
        if self.channels != 3 and any(self._works(sizes, 3) for sizes in three):
            raise ConfigError(
                f"model.name={self.name}: takes images of 3 channels alone, and data.contrasts and data.neighbours "
                f"give {self.channels}; set data.neighbours=0 and three of data.contrasts, or build it for "
                f"{self.channels} by an option of its own"
            )
        for other in OTHER_SIZES:
            if other != size_px and self._works(Sizes(other, only=True), self.channels):
                raise ConfigError(
                    f"model.name={self.name}: takes images of {other} x {other} alone, and data.image_size={size_px}; "
                    f"set data.image_size={other}, or build it for {size_px} by an option of its own"
                )
