"""Losses that give the same value at any world size and any micro-batch (L5), because they are made of sums.

A loss is two functions. `sums` turns logits and masks of some samples into a vector that is additive over samples;
the engine adds the vectors of all micro-batches and all ranks; `value` turns the sum over the global batch into the
loss. The gradient of each part follows from d value / d sums, so nothing else needs to travel between ranks.

There are two kinds: a function of sums over all voxels of the global batch (`region`), and a mean over samples of
something that each sample has by itself (`per_sample`). MONAI's losses reduce within the rank and so give another value
on two ranks than on one; the tests compare with them where one rank sees the whole batch.

Legend: b batch, h height, w width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from segtrain.config import LossConfig, LossName, Ramp
from segtrain.losses import per_sample, region
from segtrain.losses.per_sample import PerSample
from segtrain.losses.region import Region


class Loss(Protocol):
    """A training loss over the global batch."""

    @property
    def width(self) -> int:
        """How many sums there are."""

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Vector [width], additive over samples, float32 (float64 for float64 logits).

        logits [b, 1, h, w] of any float type; mask 0/1, same shape.
        """

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        """The loss, a scalar, of the summed vector; `progress` of the run, 0 to 1, moves weights that have a ramp."""


class WeightedSum:
    """A sum of losses, each times its weight."""

    def __init__(self, parts: Sequence[tuple[Loss, float | Ramp]]) -> None:
        self.parts = parts

    @property
    def width(self) -> int:
        return sum(loss.width for loss, _ in self.parts)

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([loss.sums(logits, mask) for loss, _ in self.parts])

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        each = sums.split([loss.width for loss, _ in self.parts])
        values = [
            _weight(weight, progress) * loss.value(part, progress)
            for (loss, weight), part in zip(self.parts, each, strict=True)
        ]
        return torch.stack(values).sum()


class DeepSupervision:
    """A loss over several outputs of a network, [b, outputs, 1, h, w], finest first; over one output, that loss.

    Each output weighs `ratio` times the one before; weights add up to 1, as in F. Isensee et al., "nnU-Net", Nature
    Methods 2021, whose ratio is 1/2. The coarse outputs come enlarged, so all are compared with the mask itself.
    """

    def __init__(self, loss: Loss, ratio: float) -> None:
        self.loss, self.ratio, self.width = loss, ratio, loss.width

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        outputs = logits.unbind(1) if logits.dim() == 5 else (logits,)
        return torch.cat([self.loss.sums(output, mask) for output in outputs])

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        values = [self.loss.value(part, progress) for part in sums.split(self.loss.width)]
        weights = [self.ratio**place for place in range(len(values))]  # no tensor: the host would wait for the device
        return torch.stack([weight / sum(weights) * value for weight, value in zip(weights, values, strict=True)]).sum()


def _weight(weight: float | Ramp, progress: float) -> float:
    if isinstance(weight, Ramp):
        return weight.start + (weight.end - weight.start) * progress
    return weight


def _with_dice(other: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    return WeightedSum([(Region(region.dice), 1.0), (PerSample(other), 1.0)])


def _unified_focal() -> Loss:
    """Asymmetric unified focal loss, M. Yeung et al., Computerized Medical Imaging and Graphics 2022: half and half."""
    return WeightedSum(
        [(PerSample(per_sample.asymmetric_focal), 0.5), (Region(region.asymmetric_focal_tversky, classes=2), 0.5)]
    )


LOSSES: dict[LossName, Callable[[], Loss]] = {
    "dice": lambda: Region(region.dice),
    "bce": lambda: PerSample(per_sample.bce),
    "dice_bce": lambda: _with_dice(per_sample.bce),
    "focal": lambda: PerSample(per_sample.focal),
    "dice_focal": lambda: _with_dice(per_sample.focal),
    "tversky": lambda: Region(region.tversky),
    "focal_tversky": lambda: Region(region.focal_tversky),
    "jaccard": lambda: Region(region.jaccard),
    "lovasz": lambda: PerSample(per_sample.lovasz_hinge),
    "generalized_dice": lambda: Region(region.generalized_dice, classes=2),
    "log_cosh_dice": lambda: Region(region.log_cosh_dice),
    "unified_focal": _unified_focal,
    "boundary": lambda: PerSample(per_sample.boundary),
    "dice_topk": lambda: _with_dice(per_sample.top_k),
}


def make_loss(cfg: LossConfig) -> Loss:
    """The loss of that name, or the weighted sum of several."""
    if isinstance(cfg, str):
        return LOSSES[cfg]()
    return WeightedSum([(LOSSES[name](), weight) for name, weight in cfg.items()])
