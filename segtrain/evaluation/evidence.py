"""Evidence against a mask: where an out-of-fold prediction confidently disagrees, and which mistake would explain it.

Legend: s slice, h height, w width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from segtrain.evaluation.metrics import count, occupied

Mask = NDArray[np.bool_]
Shift = tuple[int, int, int]  # slices, rows, columns

FARTHEST = 4  # a shift is looked for up to this part of the volume's sides: a quarter
CONFIDENT = 0.5  # the mean confidence of a whole lesion that one of both volumes does not have at all
UNEXPLAINED = 0.25  # the weight of a disagreement that no single mistake explains
WORTH_NAMING = 0.05  # the gain from which on a mistake gives the kind its name
IN_PLANE = np.array([[[0, 0, 0]] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0]] * 3])  # face neighbours of a slice


class Kind(StrEnum):
    """What is wrong with the mask, if the prediction is right."""

    MISSING = "missing"
    EXTRA = "extra"
    SHIFTED = "shifted"
    SWAPPED = "swapped"


@dataclass(frozen=True)
class Correction:
    """A change of the mask after which it agrees better: its DSC before and after, and how many voxels change.

    shift: by what the mask is moved, in voxels as prepared.
    """

    before: float
    dsc: float
    voxels: int
    shift: Shift = (0, 0, 0)


@dataclass(frozen=True)
class Evidence:
    """One region of one patient. Voxels of `agreed`, `missing` and `extra` count by the prediction's confidence.

    missing, extra: by slice, predicted lesion without mask and the other way round. corrections: by the mistake that
    they would undo; `SWAPPED` is added once all patients are known.
    """

    dsc: float
    mask_voxels: int
    predicted_voxels: int
    agreed: float
    missing: NDArray[np.float64]
    extra: NDArray[np.float64]
    corrections: Mapping[Kind, Correction] = field(default_factory=dict)

    @property
    def wrong(self) -> float:
        """Confidently wrong voxels."""
        return float(self.missing.sum() + self.extra.sum())

    def disagreement(self, small: float) -> float:
        """The confidently wrong part, 0 to 1: 1 - DSC with voxels that count by confidence.

        `small` voxels more in the denominator keep specks from a high value.
        """
        return self.wrong / (2 * self.agreed + self.wrong + small) if self.wrong else 0.0

    def gain(self, kind: Kind, small: float) -> float:
        """The DSC that a correction would gain, weighted by the DSC that it ends in; little for specks."""
        correction = self.corrections.get(kind)
        if correction is None:
            return 0.0
        share = correction.voxels / (correction.voxels + small)
        return max(0.0, correction.dsc - correction.before) * correction.dsc * share

    def kind(self, small: float) -> Kind:
        """The mistake whose correction would gain most; if none gains much, the more frequent one among voxels."""
        gains = {kind: self.gain(kind, small) for kind in Kind}
        likely = max(gains, key=lambda kind: gains[kind])
        if gains[likely] >= WORTH_NAMING:
            return likely
        return Kind.MISSING if self.missing.sum() >= self.extra.sum() else Kind.EXTRA

    def score(self, small: float) -> float:
        """0 to 1: what one mistake would explain, and a part of the disagreement: 1 - (1 - gain)(1 - disagreement / 4).

        Disagreement alone is as often a failure of the network; see docs/labels.md.
        """
        gain = max(self.gain(kind, small) for kind in Kind)
        return 1 - (1 - gain) * (1 - UNEXPLAINED * self.disagreement(small))


def evidence_of(probability_shw: NDArray[np.float32], mask_shw: Mask, known_shw: Mask, threshold: float) -> Evidence:
    """The evidence against one region's mask, from voxels that are known alone."""
    predicted_shw = (probability_shw > threshold) & known_shw
    mask_shw = mask_shw & known_shw
    confidence_shw = confidence(probability_shw, threshold)
    missing_shw, extra_shw = predicted_shw & ~mask_shw, mask_shw & ~predicted_shw
    dsc = count(predicted_shw, mask_shw).dsc
    alone = {
        Kind.MISSING: mask_shw | _without_partner(predicted_shw, mask_shw, confidence_shw),
        Kind.EXTRA: mask_shw & ~_without_partner(mask_shw, predicted_shw, confidence_shw),
    }
    corrections = {
        kind: Correction(dsc, count(predicted_shw, mask).dsc, int(np.count_nonzero(mask != mask_shw)))
        for kind, mask in alone.items()
        if not np.array_equal(mask, mask_shw)
    }
    if moved := best_shift(predicted_shw, mask_shw, dsc):
        corrections[Kind.SHIFTED] = moved
    return Evidence(
        dsc=dsc,
        mask_voxels=int(np.count_nonzero(mask_shw)),
        predicted_voxels=int(np.count_nonzero(predicted_shw)),
        agreed=float(confidence_shw[predicted_shw & mask_shw].sum(dtype=np.float64)),
        missing=np.where(missing_shw, confidence_shw, 0).sum((1, 2), dtype=np.float64),
        extra=np.where(extra_shw, confidence_shw, 0).sum((1, 2), dtype=np.float64),
        corrections=corrections,
    )


def confidence(probability: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """0 at the threshold, 1 at probabilities of 0 and 1, linear between."""
    above, below = (probability - threshold) / (1 - threshold), (threshold - probability) / threshold
    return np.asarray(np.where(probability > threshold, above, below), np.float32)


def _without_partner(one_shw: Mask, other_shw: Mask, confidence_shw: NDArray[np.float32]) -> Mask:
    """The slice's lesions of one volume that touch none of the other, where the prediction is confident of it."""
    labels, lesions = ndimage.label(one_shw, IN_PLANE)
    if not lesions:
        return np.zeros_like(one_shw)
    inside = labels[one_shw]
    sizes = np.bincount(inside, minlength=lesions + 1)
    touched = np.bincount(inside, other_shw[one_shw], minlength=lesions + 1) > 0
    mean = np.bincount(inside, confidence_shw[one_shw], minlength=lesions + 1) / np.maximum(sizes, 1)
    alone = ~touched & (mean >= CONFIDENT)
    alone[0] = False
    return np.asarray(alone[labels])


def best_shift(predicted_shw: Mask, mask_shw: Mask, before: float) -> Correction | None:
    """The shift of the mask, by whole voxels, that agrees best with the prediction; None where that is no shift.

    The overlaps of all shifts at once are the correlation of both volumes, computed by FFT.
    """
    if not predicted_shw.any() or not mask_shw.any():
        return None
    predicted, mask = predicted_shw[occupied(predicted_shw)], mask_shw[occupied(mask_shw)]
    overlap = signal.correlate(predicted.astype(np.float32), mask.astype(np.float32), method="fft").round()
    # Place 0 of the correlation is the shift that puts the mask's last voxel on the prediction's first.
    starts = [
        there.start - here.stop + 1 for there, here in zip(occupied(predicted_shw), occupied(mask_shw), strict=True)
    ]
    far = np.zeros(overlap.shape, bool)
    for axis, (start, side) in enumerate(zip(starts, mask_shw.shape, strict=True)):
        steps = np.abs(np.arange(overlap.shape[axis]) + start)
        far |= np.expand_dims(steps > side // FARTHEST, tuple({0, 1, 2} - {axis}))
    overlap[far] = 0
    place = np.unravel_index(int(overlap.argmax()), overlap.shape)
    slices, rows, columns = (int(at) + start for at, start in zip(place, starts, strict=True))
    dsc = 2 * float(overlap[place]) / float(predicted.sum() + mask.sum())
    if dsc == 0 or (slices, rows, columns) == (0, 0, 0):
        return None
    return Correction(before, dsc, int(mask.sum()), (slices, rows, columns))
