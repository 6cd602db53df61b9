"""Scores of a patient's whole volume, from integer counts, and their mean with what belongs beside it (L10).

Legend: s slice, h height, w width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EMPTY_RULE = "mask and prediction both empty: DSC 1; only one of them empty: DSC 0"
CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Counts:
    """Voxels of one volume: true positives, false positives, false negatives."""

    tp: int
    fp: int
    fn: int

    @property
    def dsc(self) -> float:
        """2 TP / (2 TP + FP + FN); see EMPTY_RULE."""
        denominator = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / denominator if denominator else 1.0


def count(prediction_shw: NDArray[np.bool_], mask_shw: NDArray[np.bool_]) -> Counts:
    """Counts of a predicted against a true volume of the same shape."""
    tp = int(np.count_nonzero(prediction_shw & mask_shw))
    return Counts(tp, int(np.count_nonzero(prediction_shw)) - tp, int(np.count_nonzero(mask_shw)) - tp)


def largest_component(prediction_shw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component of voxels connected through faces; the first of equals; an empty volume stays empty."""

    def largest(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(np.arange(len(sizes)) == sizes.argmax())

    return _choose(prediction_shw, largest)


def drop_small(prediction_shw: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    """Without the components, connected through faces, of fewer than `voxels`."""
    return _choose(prediction_shw, lambda sizes: sizes >= voxels)


def _choose(
    prediction_shw: NDArray[np.bool_], choice: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """The components that `choice`, given all their sizes, says to keep."""
    box = _occupied(prediction_shw)
    inside = prediction_shw[box]
    labels, found = ndimage.label(inside)
    if not found:
        return prediction_shw
    label_of_voxel = labels[inside] - 1
    keep = np.zeros_like(prediction_shw)
    keep[box][inside] = choice(np.bincount(label_of_voxel))[label_of_voxel]
    return keep


def _occupied(volume_shw: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The smallest box with all that is set; small next to the volume where a lesion is all that is predicted."""
    plane = np.asarray(volume_shw.any(axis=0))
    occupied = (volume_shw.reshape(len(volume_shw), -1).any(axis=1), plane.any(axis=1), plane.any(axis=0))
    ends = [np.flatnonzero(line)[[0, -1]] if line.any() else (0, -1) for line in occupied]
    s, h, w = (slice(int(first), int(last) + 1) for first, last in ends)
    return s, h, w


@dataclass(frozen=True)
class Summary:
    """A mean and what must stand beside it: n, median and a bootstrap confidence interval over patients."""

    mean: float
    median: float
    n: int
    ci_low: float
    ci_high: float

    def __str__(self) -> str:
        known = math.isfinite(self.ci_low)
        interval = f"{CONFIDENCE:.0%} CI {self.ci_low:.3f} to {self.ci_high:.3f}" if known else "no CI"
        return f"{self.mean:.4f} (n = {self.n}, {interval}, median {self.median:.4f})"


def summarise(values: Sequence[float]) -> Summary:
    """Mean and median of per-patient values, with a percentile bootstrap interval; NaN ends when n < 2.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. Resampling is seeded:
    the same values give the same interval.
    """
    array = np.asarray(values, dtype=np.float64)
    assert len(array), "the mean of no patient"
    low = high = math.nan
    if len(array) > 1:
        from scipy import stats  # slow to import, needed once an epoch

        interval = stats.bootstrap(
            (array,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        low, high = float(interval.low), float(interval.high)
    # fsum: the mean does not depend on the order in which patients were gathered.
    return Summary(math.fsum(array) / len(array), float(np.median(array)), len(array), low, high)
