"""Losses that are functions of sums over all voxels of the global batch.

For the lesion, or for lesion and background, there are three sums: overlap (probability times truth), predicted
(probability) and true. All but the generalized Dice have the reference program's smoothing 1 in numerator and
denominator: in a batch without lesion the loss then grows with what is predicted, and no quotient is 0/0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SMOOTH = 1.0
SMALLEST = 1e-6  # least base of a power below 1, whose slope at 0 is infinite


class Region:
    """`formula` of the sums [classes, 3], the lesion first, then the background."""

    couples = False

    def __init__(self, formula: Callable[[Tensor], Tensor], classes: int = 1) -> None:
        self.formula, self.classes, self.width = formula, classes, 3 * classes

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        mask = mask.to(logits.dtype)
        sums = []
        # The background's are summed themselves: as differences to the lesion's they would lose precision.
        for signed, true in ((logits, mask), (-logits, 1 - mask))[: self.classes]:
            probability = torch.sigmoid(signed)
            sums += [(probability * true).sum(), probability.sum(), true.sum()]
        return torch.stack(sums)

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        return self.formula(sums.view(self.classes, 3))


def _tversky_index(sums: Tensor, false_positives: float, false_negatives: float) -> Tensor:
    """Per class. S. Salehi, D. Erdogmus, A. Gholipour, MLMI 2017."""
    overlap, predicted, true = sums.unbind(1)
    wrong = false_positives * (predicted - overlap) + false_negatives * (true - overlap)
    return (overlap + SMOOTH) / (overlap + wrong + SMOOTH)


def dice(sums: Tensor) -> Tensor:
    """1 - soft Dice of the whole batch as one volume.

    The loss of the public LGG reference, after F. Milletari et al., "V-Net", 3DV 2016, without the squares.
    """
    overlap, predicted, true = sums[0].unbind()
    return 1 - (2 * overlap + SMOOTH) / (predicted + true + SMOOTH)


def jaccard(sums: Tensor) -> Tensor:
    """1 - soft Jaccard index (intersection over union). M. Rahman, Y. Wang, ISVC 2016."""
    return 1 - _tversky_index(sums, 1.0, 1.0)[0]


def tversky(sums: Tensor) -> Tensor:
    """1 - Tversky index; false negatives weigh 0.7 and false positives 0.3, as its authors chose for lesions."""
    return 1 - _tversky_index(sums, 0.3, 0.7)[0]


def focal_tversky(sums: Tensor) -> Tensor:
    """(1 - Tversky index) to the power of 3/4. N. Abraham, N. Khan, ISBI 2019."""
    return (1 - _tversky_index(sums, 0.3, 0.7)[0]).clamp_min(SMALLEST).pow(0.75)


def log_cosh_dice(sums: Tensor) -> Tensor:
    """log cosh of the Dice loss. S. Jadon, CIBCB 2020."""
    return dice(sums).cosh().log()


def generalized_dice(sums: Tensor) -> Tensor:
    """Dice over lesion and background, each weighted by 1 / its size squared. C. Sudre et al., DLMIA 2017.

    A class without a voxel is weighted as if it had one. No smoothing: the denominator is never 0.
    """
    overlap, predicted, true = sums.unbind(1)
    weight = true.clamp_min(1.0).pow(-2)
    return 1 - 2 * (weight * overlap).sum() / (weight * (predicted + true)).sum()


def asymmetric_focal_tversky(sums: Tensor) -> Tensor:
    """The Tversky part of the unified focal loss (M. Yeung et al., 2022), delta 0.6, gamma 0.5.

    Only the lesion's part is raised to a power.
    """
    lesion, background = (1 - _tversky_index(sums, 0.4, 0.6)).unbind()
    return (lesion.clamp_min(SMALLEST).sqrt() + background) / 2
