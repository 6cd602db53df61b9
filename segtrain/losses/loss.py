"""A loss over the global batch: the protocol, weighted sums of losses, several regions, deep supervision.

Legend: b batch, r region, p plane (the regions, then the ignored voxels where there may be some), h height, w width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from segtrain.config import LOSSES, PART, LossConfig, LossTerm, MaskLayout, Ramp, Reference, loss_terms
from segtrain.errors import ConfigError
from segtrain.losses import per_sample, region
from segtrain.losses.own import OwnLoss
from segtrain.losses.per_sample import PerSample
from segtrain.losses.region import Region
from segtrain.losses.trial import tried_loss

# Options that are shares or are taken from 1; all options are numbers, 0 or more.
_AT_MOST_1 = {
    "focal": ("alpha",),
    "dice_focal": ("alpha",),
    "dice_topk": ("share",),
    "unified_focal": ("balance", "delta", "gamma"),
}


class Loss(Protocol):
    """A training loss over the global batch."""

    @property
    def width(self) -> int:
        """The number of sums."""

    @property
    def couples(self) -> bool:
        """Whether `sums` is not additive: in training it is then given the whole global batch."""

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Vector [width], additive over samples unless it `couples`, float32 (float64 for float64 logits).

        logits [b, r, h, w] of any float type; mask [b, p, h, w] of 0 and 1. Ignored voxels count as if they were not
        there.
        """

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        """The loss, a scalar, of the summed vector; weights with a ramp follow `progress`, the run's, 0 to 1."""


class WeightedSum:
    """The sum of losses times their weights."""

    def __init__(self, parts: Sequence[tuple[Loss, float | Ramp]]) -> None:
        self.parts = parts

    @property
    def width(self) -> int:
        return sum(loss.width for loss, _ in self.parts)

    @property
    def couples(self) -> bool:
        return any(loss.couples for loss, _ in self.parts)

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([loss.sums(logits, mask) for loss, _ in self.parts])

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        own_sums = sums.split([loss.width for loss, _ in self.parts])
        values = [
            _weight(weight, progress) * loss.value(own, progress)
            for (loss, weight), own in zip(self.parts, own_sums, strict=True)
        ]
        return torch.stack(values).sum()


class OverRegions:
    """The mean of a loss of one region over several, by their weights: each region has sums of its own."""

    def __init__(self, loss: Loss, weights: Sequence[float]) -> None:
        self.loss, self.weights = loss, weights
        self.width, self.couples = len(weights) * loss.width, loss.couples

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        regions = len(self.weights)
        masks = mask[:, :regions].split(1, dim=1)
        if mask.shape[1] > regions:
            masks = tuple(torch.cat((one, mask[:, regions:]), dim=1) for one in masks)
        pairs = zip(logits.split(1, dim=1), masks, strict=True)
        return torch.cat([self.loss.sums(*pair) for pair in pairs])

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        values = [self.loss.value(part, progress) for part in sums.split(self.loss.width)]
        # Numbers, not a tensor: the host would wait for the device.
        total = sum(self.weights)
        return torch.stack([weight / total * value for weight, value in zip(self.weights, values, strict=True)]).sum()


class DeepSupervision:
    """A loss over several outputs of a network, [b, outputs, r, h, w], finest first; of one output, the loss itself.

    Each output's weight is `ratio` times that of the one before; the weights add up to 1, as in F. Isensee et al.,
    "nnU-Net", Nature Methods 2021, whose ratio is 1/2. Coarse outputs come enlarged and are compared with the mask.
    """

    def __init__(self, loss: Loss, ratio: float) -> None:
        self.loss, self.ratio = loss, ratio
        self.width, self.couples = loss.width, loss.couples

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        outputs = logits.unbind(1) if logits.dim() == 5 else (logits,)
        return torch.cat([self.loss.sums(output, mask) for output in outputs])

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        values = [self.loss.value(part, progress) for part in sums.split(self.loss.width)]
        # Numbers, not a tensor: the host would wait for the device.
        weights = [self.ratio**place for place in range(len(values))]
        return torch.stack([weight / sum(weights) * value for weight, value in zip(weights, values, strict=True)]).sum()


def _weight(weight: float | Ramp, progress: float) -> float:
    if isinstance(weight, Ramp):
        return weight.start + (weight.end - weight.start) * progress
    return weight


def dice_bce(*, smooth: float = 1.0) -> Loss:
    """Dice + cross-entropy."""
    return _with_dice(per_sample.bce, smooth)


def dice_focal(*, gamma: float = 2.0, alpha: float | None = None, smooth: float = 1.0) -> Loss:
    """Dice + focal loss."""
    return _with_dice(partial(per_sample.focal, gamma=gamma, alpha=alpha), smooth)


def dice_topk(*, share: float = 0.1, smooth: float = 1.0) -> Loss:
    """Dice + cross-entropy over the voxels that have the most of it."""
    return _with_dice(partial(per_sample.top_k, share=share), smooth)


def _with_dice(function: Callable[[Tensor, Tensor], Tensor], smooth: float) -> Loss:
    return WeightedSum([(Region(partial(region.dice, smooth=smooth)), 1.0), (PerSample(function), 1.0)])


def unified_focal(*, balance: float = 0.5, delta: float = 0.6, gamma: float = 0.5) -> Loss:
    """Asymmetric unified focal loss, M. Yeung et al., Computerized Medical Imaging and Graphics 2022.

    `balance` is the weight of the cross-entropy part, and 1 - `balance` that of the Tversky part.
    """
    cross_entropy = partial(per_sample.asymmetric_focal, delta=delta, gamma=gamma)
    tversky = partial(region.asymmetric_focal_tversky, delta=delta, gamma=gamma)
    return WeightedSum([(PerSample(cross_entropy), balance), (Region(tversky, classes=2), 1 - balance)])


def make_loss(
    cfg: LossConfig,
    layout: MaskLayout = MaskLayout(),  # noqa: B008  frozen
    weights: Mapping[str, float] | None = None,
) -> Loss:
    """The loss that the config names, or the weighted sum of several, over the regions of the layout.

    `weights`: of the regions by name, None for equal ones. Raises ConfigError: an unfit part, option or weight.
    """
    loss = _of_one_region(cfg)
    if layout.ignores and (own := own_losses(loss)):
        raise ConfigError(
            f"{own[0].function}: a loss of your own cannot leave out the ignored voxels of data.ignore, which are "
            "given to it like all others; choose a built-in loss, or give these voxels a label that is trained"
        )
    by_region = _weights(layout.regions, weights)
    return OverRegions(loss, by_region) if len(by_region) > 1 else loss


def _weights(regions: Sequence[str], weights: Mapping[str, float] | None) -> list[float]:
    """The weight of each region. Raises ConfigError: they do not name these regions, or none counts."""
    if weights is None:
        return [1.0] * len(regions)
    if set(weights) != set(regions):
        raise ConfigError(
            f"loss_regions={dict(weights)} does not weigh the regions that the data has, {', '.join(regions)}; give "
            "each of them a weight, or leave it out"
        )
    if not any(weights.values()):
        raise ConfigError(f"loss_regions={dict(weights)}: no region counts; give one a weight above 0")
    return [weights[region] for region in regions]


def _of_one_region(cfg: LossConfig) -> Loss:
    terms = loss_terms(cfg)
    if isinstance(cfg, str) or PART in cfg:
        return _of_term(terms[0])
    return WeightedSum([(_of_term(term), term.weight) for term in terms])


def _of_term(term: LossTerm) -> Loss:
    if reference := Reference.parse(term.part):
        return tried_loss(reference, term.options)
    for option, value in term.options.items():
        most = 1.0 if option in _AT_MOST_1.get(term.part, ()) else math.inf
        if value is not None and not 0 <= value <= most:
            limits = "0 or more" if most == math.inf else "from 0 to 1"
            raise ConfigError(f"loss {term.part}: {option}={value}: write a number {limits}")
    part = LOSSES[term.part]
    function = part.load(**term.options)
    if part.over == "batch":
        return Region(function, part.classes)
    loss: Loss = PerSample(function) if part.over == "sample" else function()
    return loss


def own_losses(loss: Loss) -> list[OwnLoss]:
    """The losses of the user's own that a loss is made of."""
    if isinstance(loss, DeepSupervision | OverRegions):
        return own_losses(loss.loss)
    if isinstance(loss, WeightedSum):
        return [own for part, _ in loss.parts for own in own_losses(part)]
    return [loss] if isinstance(loss, OwnLoss) else []
