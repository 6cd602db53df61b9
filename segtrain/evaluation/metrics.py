"""Counts and DSC of a patient's whole volume, and a mean over people with its n and interval (L10).

Legend: r region, s slice, h height, w width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.config import EvaluateConfig, MaskLayout, Postprocessing
from segtrain.data.masks import is_known
from segtrain.evaluation.intervals import CONFIDENCE, interval

EMPTY_RULE = "mask and prediction both empty: DSC 1; only one of them empty: DSC 0"


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

    def columns(self, slices: int) -> dict[str, int]:
        """The columns that every table of patients has after the patient."""
        return {"slices": slices, "voxels": self.tp + self.fn, "tp": self.tp, "fp": self.fp, "fn": self.fn}


def count(prediction_shw: NDArray[np.bool_], mask_shw: NDArray[np.bool_]) -> Counts:
    """Counts of a predicted against a true volume of the same shape."""
    tp = int(np.count_nonzero(prediction_shw & mask_shw))
    return Counts(tp, int(np.count_nonzero(prediction_shw)) - tp, int(np.count_nonzero(mask_shw)) - tp)


def among_known(volumes_rshw: NDArray[np.bool_], mask_shw: NDArray[np.uint8], layout: MaskLayout) -> NDArray[np.bool_]:
    """The volumes without the voxels that the mask ignores: they are in no count."""
    return volumes_rshw & is_known(mask_shw) if layout.ignores else volumes_rshw


def kept_components(
    predicted_rshw: NDArray[np.bool_], regions: Sequence[str], cfg: EvaluateConfig, voxel_ml: float | None = None
) -> NDArray[np.bool_]:
    """The components of each region's prediction that are scored, as the settings say."""
    pairs = zip(predicted_rshw, regions, strict=True)
    return np.stack([_kept(predicted_shw, cfg.of(region), voxel_ml) for predicted_shw, region in pairs])


def _kept(predicted_shw: NDArray[np.bool_], rules: Postprocessing, voxel_ml: float | None) -> NDArray[np.bool_]:
    smallest = rules.smallest_voxels(voxel_ml)
    kept = drop_small(predicted_shw, smallest) if smallest > 1 else predicted_shw
    if rules.largest_component:
        return largest_component(kept)
    return drop_small_beside_largest(kept, rules) if rules.min_component_share else kept


def largest_component(prediction_shw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component of voxels connected through faces; the first of equals; an empty volume stays empty."""

    def largest(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(np.arange(len(sizes)) == sizes.argmax())

    return _select(prediction_shw, largest)


def drop_small(prediction_shw: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    """Without the components, connected through faces, of fewer than `voxels`."""
    return _select(prediction_shw, lambda sizes: sizes >= voxels)


def drop_small_beside_largest(prediction_shw: NDArray[np.bool_], rules: Postprocessing) -> NDArray[np.bool_]:
    """Without the components, connected through faces, that are small for the largest of the volume."""
    return _select(prediction_shw, lambda sizes: sizes >= rules.smallest_beside(int(sizes.max())))


def _select(
    prediction_shw: NDArray[np.bool_], choice: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """The components for which `choice`, of all their sizes, is true."""
    box = occupied(prediction_shw)
    inside = prediction_shw[box]
    labels, components = ndimage.label(inside)
    if not components:
        return prediction_shw
    label_of_voxel = labels[inside] - 1
    keep = np.zeros_like(prediction_shw)
    keep[box][inside] = choice(np.bincount(label_of_voxel))[label_of_voxel]
    return keep


def occupied(volume_shw: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The smallest box around all predicted voxels; labelling it is much faster than labelling the whole volume."""
    plane = np.asarray(volume_shw.any(axis=0))
    occupied = (volume_shw.reshape(len(volume_shw), -1).any(axis=1), plane.any(axis=1), plane.any(axis=0))
    ends = [np.flatnonzero(line)[[0, -1]] if line.any() else (0, -1) for line in occupied]
    s, h, w = (slice(int(first), int(last) + 1) for first, last in ends)
    return s, h, w


@dataclass(frozen=True)
class Summary:
    """A mean with n, median and a confidence interval over people; most have one patient id each."""

    mean: float
    median: float
    n: int
    ci_low: float
    ci_high: float

    def __str__(self) -> str:
        known = math.isfinite(self.ci_low)
        interval = f"{CONFIDENCE:.0%} CI {self.ci_low:.3f} to {self.ci_high:.3f}" if known else "no CI"
        return f"{self.mean:.4f} (n = {self.n}, {interval}, median {self.median:.4f})"


def summarise(values: Sequence[float], highest: float = 1.0, lowest: float | None = None) -> Summary:
    """Mean and median of people's values, with the interval of `intervals`; its ends are NaN where there is none.

    `highest`, `lowest`: the values that the score cannot exceed; as a rule it is 0 or more if all of these are.
    """
    assert len(values), "the mean of no patient"
    if lowest is None:
        lowest = 0.0 if min(values) >= 0 else -math.inf
    low, high = interval(values, lowest, highest)
    # fsum: the mean does not depend on the order in which patients were gathered.
    return Summary(math.fsum(values) / len(values), float(np.median(values)), len(values), low, high)
