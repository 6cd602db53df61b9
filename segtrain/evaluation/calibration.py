"""Calibration: whether a predicted probability is the share of voxels that are lesion. No torch is imported.

Of most voxels, far from any lesion, nobody doubts that they are background, and over a whole volume they make any
network look calibrated. So only voxels in a box around truth and prediction are counted.

Legend: r region, s slice, h height, w width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import MaskLayout
from segtrain.data.masks import is_known, regions_of
from segtrain.evaluation.metrics import occupied

BINS = 10
# Slices are often several times as far apart as pixels.
MARGIN_VOXELS = (1, 5, 5)  # slices, rows, columns
ECE = "ece"  # the column, of the prepared geometry, where the probabilities are
VOXELS_RULE = (
    "voxels that are not ignored, in the box around the true region and all voxels over the threshold, grown by "
    f"{MARGIN_VOXELS[0]} slice and {MARGIN_VOXELS[1]} rows and columns; neither: no value"
)
SOURCE = (
    "Pakdaman Naeini et al., AAAI 2015, and Guo et al., ICML 2017, for the probability of the region instead of the "
    "confidence; in a box as Mehrtash et al., IEEE TMI 2020"
)

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Reliability:
    """For each of BINS equal bins of probability: voxels, the sum of their probabilities, those in the region.

    The upper end of a bin belongs to the next one, 1 to the last.
    """

    voxels: tuple[int, ...]
    probability_sums: tuple[float, ...]
    lesion_voxels: tuple[int, ...]

    @property
    def ece(self) -> float | None:
        """Expected calibration error: mean difference of probability and share, weighted by voxels; None without."""
        if not (total := sum(self.voxels)):
            return None
        pairs = zip(self.probability_sums, self.lesion_voxels, strict=True)
        return math.fsum(abs(expected - lesion) for expected, lesion in pairs) / total

    def bins(self) -> list[dict[str, Any]]:
        """A row for each bin: its ends, voxels, mean probability and share of lesion, None without voxels."""
        rows = []
        for number, (voxels, expected, lesion) in enumerate(
            zip(self.voxels, self.probability_sums, self.lesion_voxels, strict=True)
        ):
            row: dict[str, Any] = {"from": number / BINS, "to": (number + 1) / BINS, "voxels": voxels}
            row["mean_probability"] = expected / voxels if voxels else None
            row["lesion_share"] = lesion / voxels if voxels else None
            rows.append(row)
        return rows


def pooled(parts: Iterable[Reliability]) -> Reliability:
    """The voxels of all, together; those of nobody are a table of zeros."""
    parts = list(parts)
    return Reliability(
        voxels=tuple(sum(part.voxels[number] for part in parts) for number in range(BINS)),
        probability_sums=tuple(math.fsum(part.probability_sums[number] for part in parts) for number in range(BINS)),
        lesion_voxels=tuple(sum(part.lesion_voxels[number] for part in parts) for number in range(BINS)),
    )


def reliabilities(
    probability_rshw: NDArray[np.float32],
    predicted_rshw: NDArray[np.bool_],
    mask_shw: NDArray[np.uint8],
    layout: MaskLayout,
) -> tuple[Reliability, ...]:
    """Each region's table over the box around its truth and prediction; of zeros where it has neither."""
    known_shw = is_known(mask_shw) if layout.ignores else None
    true_rshw = regions_of(mask_shw, layout)
    tables = []
    for probability_shw, predicted_shw, true_shw in zip(probability_rshw, predicted_rshw, true_rshw, strict=True):
        box = box_around((predicted_shw, true_shw), MARGIN_VOXELS)
        if box is None:
            tables.append(pooled(()))
            continue
        counted = slice(None) if known_shw is None else known_shw[box]
        tables.append(reliability(probability_shw[box][counted], true_shw[box][counted]))
    return tuple(tables)


def reliability(probability: NDArray[np.float32], is_lesion: NDArray[np.bool_]) -> Reliability:
    """The table of these voxels, whatever their shape."""
    probability, is_lesion = probability.ravel(), is_lesion.ravel()
    number = np.minimum((probability * BINS).astype(np.intp), BINS - 1)
    return Reliability(
        voxels=tuple(np.bincount(number, minlength=BINS).tolist()),
        probability_sums=tuple(np.bincount(number, probability, BINS).tolist()),  # in float64
        lesion_voxels=tuple(np.bincount(number[is_lesion], minlength=BINS).tolist()),
    )


def box_around(volumes_shw: Sequence[NDArray[np.bool_]], margin_voxels: tuple[int, int, int]) -> Box | None:
    """The smallest box around all voxels of the volumes, grown by a margin; None without voxels."""
    boxes = [occupied(volume_shw) for volume_shw in volumes_shw]
    boxes = [box for box in boxes if box[0].stop]
    if not boxes:
        return None
    shape = volumes_shw[0].shape
    s, h, w = (
        slice(
            max(0, min(box[axis].start for box in boxes) - margin_voxels[axis]),
            min(shape[axis], max(box[axis].stop for box in boxes) + margin_voxels[axis]),
        )
        for axis in range(3)
    )
    return s, h, w
