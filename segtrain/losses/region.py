"""Losses that are functions of sums over all voxels of the global batch.

For the lesion, or for lesion and background, there are three sums: overlap (probability times truth), predicted
(probability) and true. All but the generalized Dice have the reference program's smoothing 1 in numerator and
denominator: in a batch without lesion the loss then grows with what is predicted, and no quotient is 0/0.

Keyword-only parameters are the options that a config may give.

Legend: b batch, h height, w width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST = 1e-6  # least base of a power below 1, whose slope at 0 is infinite
NEXT_TO_NOTHING = 1e-30  # far below what a batch with one known voxel adds up to


class Region:
    """`formula` of the sums [classes, 3], the lesion first, then the background."""

    couples = False

    def __init__(self, formula: Callable[[Tensor], Tensor], classes: int = 1) -> None:
        self.formula, self.classes, self.width = formula, classes, 3 * classes

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        known = known_voxels(mask, logits.dtype)
        mask = mask[:, :1].to(logits.dtype)
        sums = []
        # The background's are summed themselves: as differences to the lesion's they would lose precision.
        for signed, true in ((logits, mask), (-logits, 1 - mask))[: self.classes]:
            probability = torch.sigmoid(signed)
            if known is not None:
                probability, true = probability * known, true * known
            sums += [(probability * true).sum(), probability.sum(), true.sum()]
        return torch.stack(sums)

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        return self.formula(sums.view(self.classes, 3))


def known_voxels(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """1 where a voxel is known, [b, 1, h, w]; None: all are, since the mask has no plane of ignored ones."""
    return (mask[:, 1:] == 0).to(dtype) if mask.shape[1] > 1 else None


def _tversky_index(sums: Tensor, alpha: float, beta: float, smooth: float) -> Tensor:
    """Per class; `alpha` weighs false positives, `beta` false negatives. S. Salehi et al., MLMI 2017."""
    overlap, predicted, true = sums.unbind(1)
    wrong = alpha * (predicted - overlap) + beta * (true - overlap)
    return (overlap + smooth) / (overlap + wrong + smooth)


def dice(sums: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice of the whole batch as one volume.

    The loss of the public LGG reference, after F. Milletari et al., "V-Net", 3DV 2016, without the squares.
    """
    overlap, predicted, true = sums[0].unbind()
    return 1 - (2 * overlap + smooth) / (predicted + true + smooth)


def jaccard(sums: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - soft Jaccard index (intersection over union). M. Rahman, Y. Wang, ISVC 2016."""
    return 1 - _tversky_index(sums, 1.0, 1.0, smooth)[0]


def tversky(sums: Tensor, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0) -> Tensor:
    """1 - Tversky index; false negatives weigh more than false positives, as its authors chose for lesions."""
    return 1 - _tversky_index(sums, alpha, beta, smooth)[0]


def focal_tversky(
    sums: Tensor, *, alpha: float = 0.3, beta: float = 0.7, gamma: float = 0.75, smooth: float = 1.0
) -> Tensor:
    """(1 - Tversky index) to the power of `gamma`. N. Abraham, N. Khan, ISBI 2019."""
    return (1 - _tversky_index(sums, alpha, beta, smooth)[0]).clamp_min(SMALLEST).pow(gamma)


def log_cosh_dice(sums: Tensor, *, smooth: float = 1.0) -> Tensor:
    """log cosh of the Dice loss. S. Jadon, CIBCB 2020."""
    return dice(sums, smooth=smooth).cosh().log()


def generalized_dice(sums: Tensor, *, power: float = 2.0) -> Tensor:
    """Dice over lesion and background, each weighted by 1 / its size to a power. C. Sudre et al., DLMIA 2017.

    A class without a voxel is weighted as if it had one. No smoothing: the denominator is 0 only where no voxel of the
    batch is known.
    """
    overlap, predicted, true = sums.unbind(1)
    weight = true.clamp_min(1.0).pow(-power)
    return 1 - 2 * (weight * overlap).sum() / (weight * (predicted + true)).sum().clamp_min(NEXT_TO_NOTHING)


def asymmetric_focal_tversky(sums: Tensor, *, delta: float = 0.6, gamma: float = 0.5, smooth: float = 1.0) -> Tensor:
    """The Tversky part of the unified focal loss (M. Yeung et al., 2022); `delta` weighs false negatives.

    Only the lesion's part is raised to a power, 1 - `gamma`.
    """
    lesion, background = (1 - _tversky_index(sums, 1 - delta, delta, smooth)).unbind()
    lesion = lesion.clamp_min(SMALLEST)
    # The slopes of a root and of the power 0.5 differ in the last bits.
    raised = lesion.sqrt() if gamma == 0.5 else lesion.pow(1 - gamma)
    return (raised + background) / 2
