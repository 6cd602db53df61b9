"""Losses that are means over samples of a value that depends on one sample alone.

Images of a batch have one size, so a mean over samples of means over voxels is the mean over all voxels, unless some
are ignored: each sample then counts as much as any other that has a known voxel. Keyword-only parameters are the
options that a config may give.

Legend: b batch, h height, w width, n voxels of a sample.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from segtrain.losses.region import known_voxels

AT_ONCE = 2**24  # numbers of which `distance_torch` takes the least: 64 MiB, a sample of 256 pixels


class PerSample:
    """The mean of `function(logits [b, h, w], mask [b, h, w]) -> [b]` over the samples of the global batch.

    Where some voxels are ignored, the function gets a third argument, [b, h, w]: 1 for known voxels, 0 for ignored
    ones, which the mask then has as 0. Samples without a known voxel do not count.
    """

    width = 2
    couples = False

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        logits = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
        known = known_voxels(mask, logits.dtype)
        mask = mask[:, 0].to(logits.dtype)
        if known is None:
            values = self.function(logits, mask)
            return torch.stack((values.sum(), torch.ones_like(values).sum()))
        known = known[:, 0]
        counts = known.amax((1, 2))
        return torch.stack(((self.function(logits, mask * known, known) * counts).sum(), counts.sum()))

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        return sums[0] / sums[1].clamp_min(1.0)


def _mean(values: Tensor, known: Tensor | None) -> Tensor:
    """[b]: the mean of each sample over its known voxels; 0 where there are none."""
    if known is None:
        return values.mean((1, 2))
    return (values * known).sum((1, 2)) / known.sum((1, 2)).clamp_min(1.0)


def _cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, mask, reduction="none")


def bce(logits: Tensor, mask: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy."""
    return _mean(_cross_entropy(logits, mask), known)


def focal(
    logits: Tensor, mask: Tensor, known: Tensor | None = None, *, gamma: float = 2.0, alpha: float | None = None
) -> Tensor:
    """(1 - p of the truth)^gamma times cross-entropy. T.-Y. Lin et al., ICCV 2017.

    `alpha` weighs the lesion and 1 - `alpha` the background; without it both weigh 1.
    """
    wrong = torch.exp(gamma * F.logsigmoid(logits * (1 - 2 * mask)))
    values = wrong * _cross_entropy(logits, mask)
    if alpha is not None:
        values = values * (alpha * mask + (1 - alpha) * (1 - mask))
    return _mean(values, known)


def top_k(logits: Tensor, mask: Tensor, known: Tensor | None = None, *, share: float = 0.1) -> Tensor:
    """Cross-entropy over the `share` of the voxels that have the most of it. Z. Wu et al., arXiv:1605.06885; nnU-Net.

    A share of each sample's voxels, not of the batch's: otherwise a sample's loss would depend on the other samples.
    """
    values = _cross_entropy(logits, mask).flatten(1)
    # As a fraction: a tenth of 70 is 7, but 70 * 0.1 is above it.
    part = Fraction(str(share))
    count = max(1, math.ceil(values.shape[1] * part))
    if known is None:
        return values.topk(count, dim=1).values.mean(1)
    known = known.flatten(1)
    # Each sample has a count of its own, which the host does not wait for. int64 holds the products.
    part = part.limit_denominator(10**9)
    counts = (known.sum(1).long() * part.numerator + part.denominator - 1) // part.denominator
    counts = counts.clamp_min(1)[:, None]
    most = values.masked_fill(known == 0, -1.0).topk(count, dim=1).values  # cross-entropy is 0 or more
    return (most * (torch.arange(count, device=most.device) < counts)).sum(1) / counts[:, 0]


def lovasz_hinge(logits: Tensor, mask: Tensor, known: Tensor | None = None) -> Tensor:
    """The Lovász extension of the Jaccard loss at the hinge errors, per image. M. Berman et al., CVPR 2018.

    Without a lesion, the loss is the hinge of the most confident voxel.
    """
    logits, mask = logits.flatten(1), mask.flatten(1)
    errors = 1 - logits * (2 * mask - 1)
    if known is not None:  # behind all others, where the hinge is 0 and changes no slope before
        errors = errors.masked_fill(known.flatten(1) == 0, -math.inf)
    errors, order = errors.sort(dim=1, descending=True, stable=True)
    truth = mask.gather(1, order)
    total = truth.sum(1, keepdim=True)
    jaccard = 1 - (total - truth.cumsum(1)) / (total + (1 - truth).cumsum(1))
    slope = torch.cat((jaccard[:, :1], jaccard.diff(dim=1)), dim=1)
    return (F.relu(errors) * slope).sum(1)


def asymmetric_focal(
    logits: Tensor, mask: Tensor, known: Tensor | None = None, *, delta: float = 0.6, gamma: float = 0.5
) -> Tensor:
    """The cross-entropy part of the unified focal loss (M. Yeung et al., 2022); `delta` weighs the lesion.

    Only the background is weighted by how wrong it is, to the power of `gamma`.
    """
    background = torch.exp(gamma * F.logsigmoid(logits)) * F.softplus(logits) * (1 - mask)
    return _mean(delta * F.softplus(-logits) * mask + (1 - delta) * background, known)


def boundary(logits: Tensor, mask: Tensor, known: Tensor | None = None) -> Tensor:
    """Probability times signed distance from the lesion's edge in pixels. H. Kervadec et al., MIDL 2019.

    Negative for a good prediction, and blind to slices without lesion: use it beside another loss.
    """
    return _mean(torch.sigmoid(logits) * signed_distance(mask, known), known)


@torch.no_grad()
def signed_distance(mask: Tensor, known: Tensor | None = None) -> Tensor:
    """[b, h, w]: outside the lesion the distance in pixels to its nearest pixel; inside, 1 - that to the outside.

    All 0 where a mask is empty or full. Ignored voxels are neither inside nor outside. Exact and Euclidean; does not
    wait for a CUDA device.
    """
    inside = mask > 0.5
    outside = ~inside if known is None else ~inside & (known > 0)
    distance = distance_torch if mask.is_cuda else distance_scipy
    to_lesion, to_outside = (distance(target).to(mask.dtype) for target in (inside, outside))
    has_edge = inside.any(-1).any(-1) & outside.any(-1).any(-1)
    return torch.where(inside, 1 - to_outside, to_lesion) * has_edge[:, None, None]


def distance_scipy(target: Tensor) -> Tensor:
    """Distance in pixels from each of [b, h, w] to the nearest one that is True; the faster way on a CPU."""
    return torch.from_numpy(np.stack([ndimage.distance_transform_edt(~one) for one in target.numpy()]))


def distance_torch(target: Tensor) -> Tensor:
    """The same on any device, without waiting for it.

    Distances along columns first, then for each row the least sum of squares over all columns (P. Felzenszwalb,
    D. Huttenlocher, Theory of Computing 2012), of some rows at a time.
    """
    dtype = torch.float32
    height, width = target.shape[1:]
    far = float(height + width)
    rows = torch.arange(height, device=target.device, dtype=dtype)[:, None].expand(height, width)
    above = rows - torch.where(target, rows, -far).cummax(dim=1).values
    below = torch.where(target, rows, height + far).flip(1).cummin(dim=1).values.flip(1) - rows
    along = torch.minimum(above, below) ** 2
    columns = torch.arange(width, device=target.device, dtype=dtype)
    apart = (columns[:, None] - columns[None]) ** 2
    block = max(1, AT_ONCE // width**2)
    nearest = [(some[:, None, :] + apart).amin(-1) for one in along for some in one.split(block)]
    return torch.cat(nearest).view(target.shape).sqrt()
