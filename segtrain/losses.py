"""Losses that give the same value at any world size and any micro-batch (L5), because they are made of sums.

A loss is two functions. `sums` turns logits and masks of some samples into a vector that is additive over samples;
the engine adds the vectors of all micro-batches and all ranks; `value` turns the sum over the global batch into the
loss. The gradient of each part follows from d value / d sums, so nothing else needs to travel between ranks.

Legend: b batch, h height, w width.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from segtrain.config import LossName


class Loss(Protocol):
    """A training loss over the global batch."""

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Vector, additive over samples, float32 (float64 for float64 logits).

        logits [b, 1, h, w] of any float type; mask 0/1, same shape.
        """

    def value(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, of the summed vector."""


class DiceLoss:
    """1 - soft Dice of the whole batch taken as one volume, smoothing 1 in numerator and denominator.

    The public LGG reference's loss, after F. Milletari et al., "V-Net", 3DV 2016, without their squares.
    """

    smooth = 1.0

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        logits = _at_least_float32(logits)
        probability, mask = torch.sigmoid(logits), mask.to(logits.dtype)
        return torch.stack(((probability * mask).sum(), probability.sum(), mask.sum()))

    def value(self, sums: Tensor) -> Tensor:
        intersection, predicted, true = sums.unbind()
        return 1 - (2 * intersection + self.smooth) / (predicted + true + self.smooth)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


LOSSES: dict[LossName, Callable[[], Loss]] = {"dice": DiceLoss}


def make_loss(name: LossName) -> Loss:
    """The loss of that name."""
    return LOSSES[name]()
