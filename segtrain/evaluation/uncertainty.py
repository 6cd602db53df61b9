"""Uncertainty of a prediction: entropy of its probability, spread of members' probabilities. No torch is imported.

A member is one network in one view of the slices (test-time augmentation).

Legend: r region, s slice, h height, w width, n member.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtrain.evaluation.calibration import MARGIN_VOXELS, box_around
from segtrain.evaluation.region_scores import Row

MOST_SPREAD = 0.5  # the standard deviation of values in 0..1: half of them 0, half of them 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberSpread:
    """Of a prepared volume: the standard deviation over members, and how many voxels each has over the threshold.

    It is filled batch by batch, so that no member's probabilities of the whole volume are kept.
    """

    sd_rshw: NDArray[np.float32]
    voxels_nrs: NDArray[np.int64]

    @classmethod
    def empty(cls, members: int, regions: int, shape: tuple[int, ...]) -> "MemberSpread":
        """Room for a volume [s, h, w]."""
        return cls(np.zeros((regions, *shape), np.float32), np.zeros((members, regions, shape[0]), np.int64))

    def volume_cv(self, region: int) -> float | None:
        """Coefficient of variation over members of the volume over the threshold; None where none predicts any."""
        voxels = self.voxels_nrs[:, region].sum(axis=1)
        return float(voxels.std() / voxels.mean()) if voxels.any() else None


@dataclass(frozen=True)
class Uncertainty:
    """In the source's geometry: entropy in bits, and the spread, float32 [r, s, h, w]; numbers of each region.

    sd_rshw: None for one network in one view, which has no spread. volume_cvs: of the prepared geometry. networks,
    views: how many there are.
    """

    entropy_rshw: NDArray[np.float32]
    sd_rshw: NDArray[np.float32] | None
    volume_cvs: Sequence[float | None]
    networks: int = 1
    views: int = 1


def entropy_bits(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy of lesion or not: 0 where that is certain, 1 bit at a probability of 0.5."""
    p = probability.astype(np.float32)
    bits = np.zeros_like(p)
    open_ = (p > 0) & (p < 1)  # 0 log 0 is 0
    inside = p[open_].astype(np.float64)
    bits[open_] = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    return bits


def numbers_of(uncertainty: Uncertainty, mask_rshw: NDArray[np.bool_], number: int) -> Row:
    """A region's means in the box around its delivered mask, grown by MARGIN_VOXELS; None where nothing is predicted.

    Empty cells of `mean_spread` and `volume_cv`: one network in one view.
    """
    box = box_around([mask_rshw[number]], MARGIN_VOXELS)
    row: Row = {"networks": uncertainty.networks, "views": uncertainty.views}
    row |= dict.fromkeys(("mean_entropy_bits", "mean_spread", "volume_cv"))
    if box is not None:
        row["mean_entropy_bits"] = float(uncertainty.entropy_rshw[number][box].mean(dtype=np.float64))
        if uncertainty.sd_rshw is not None:
            row["mean_spread"] = float(uncertainty.sd_rshw[number][box].mean(dtype=np.float64))
    if uncertainty.sd_rshw is not None:
        row["volume_cv"] = uncertainty.volume_cvs[number]
    return row


def say_what_there_is(networks: int, views: int) -> None:
    """Log what the uncertainty of so many networks, in so many views each, can say."""
    if networks * views == 1:
        log.info(
            "uncertainty: entropy alone, since one network in one view has no spread; name several runs, or use "
            "evaluate.tta=trained"
        )
    else:
        log.info("uncertainty: entropy, and spread over %d networks in %d views each", networks, views)
