"""A row for each lesion of a region: size, place, and whether it was found; recall by size over many patients.

Places are voxels of the volume that was scored, from 0. Every true lesion has a row, then every false one, the largest
first. A predicted lesion that matches a true one has none: `predicted_voxels` and `dsc` of the true one tell of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.evaluation.intervals import CONFIDENCE, RESAMPLES
from segtrain.evaluation.lesions import Labels, Mask, Matching, Sizes
from segtrain.evaluation.units import voxel_ml

Row = dict[str, Any]

# Of a true lesion: found, missed, or small (not counted, by rules that drop small ones); of a predicted one: false.
RESULTS = ("found", "missed", "small", "false")
PLACE = ("slice", "row", "column", "first_slice", "last_slice")
COLUMNS = ("lesion", "result", "voxels", "ml", *PLACE, "overlap_voxels", "predicted_voxels", "dsc")


@dataclass(frozen=True)
class SizeRecall:
    """The share of lesions of a size that were found, over all people's; the ends are NaN for fewer than two people."""

    size: str
    lesions: int
    people: int
    recall: float
    ci_low: float
    ci_high: float


def lesion_table(matching: Matching) -> list[Row]:
    """Columns: lesion (a number from 1), result (of RESULTS), voxels, ml (where the spacing is known), PLACE (centroid,
    first and last slice), overlap_voxels (with any prediction), predicted_voxels (of what matches), dsc.
    """
    results = np.where(matching.is_small, "small", np.where(matching.is_found, "found", "missed"))
    places = _places(matching.true_shw, matching.origin)
    rows = []
    for place in np.argsort(-matching.true_voxels, kind="stable"):
        overlap, matched = int(matching.overlap_voxels[place]), int(matching.matched_voxels[place])
        voxels = int(matching.true_voxels[place])
        scores = {"overlap_voxels": overlap, "predicted_voxels": matched, "dsc": float(matching.dsc[place])}
        rows.append({"result": str(results[place])} | _size(voxels, matching) | places[place] | scores)
    voxels_of_false = matching.predicted_voxels[matching.is_false]
    places = _places(_only(matching.predicted_shw, matching.is_false), matching.origin)
    for place in np.argsort(-voxels_of_false, kind="stable"):
        voxels = int(voxels_of_false[place])
        scores = {"overlap_voxels": 0, "predicted_voxels": voxels, "dsc": 0.0}
        rows.append({"result": "false"} | _size(voxels, matching) | places[place] | scores)
    return [{"lesion": number} | row for number, row in enumerate(rows, start=1)]


def recall_by_size(
    people: Sequence[str], sizes: Sequence[float], found: Sequence[bool], classes: Mapping[str, tuple[float, float]]
) -> list[SizeRecall]:
    """For each class (`lesions.size_classes`) that has lesions: how many of them were found.

    Each lesion comes with its person and its size in the classes' unit. The percentile bootstrap resamples people, not
    lesions, since one person's lesions are alike (B. Efron, R. Tibshirani, 1993, chapter 13).
    """
    names, person = np.unique(np.asarray(people), return_inverse=True)
    size, hit = np.asarray(sizes, np.float64), np.asarray(found, bool)
    recalls = []
    for name, (low, high) in classes.items():
        here = (size >= low) & (size < high)
        lesions = np.bincount(person[here], minlength=len(names))
        hits = np.bincount(person[here & hit], minlength=len(names))[lesions > 0]
        lesions = lesions[lesions > 0]
        if len(lesions):
            ends = _interval(hits, lesions)
            recalls.append(SizeRecall(name, int(lesions.sum()), len(lesions), float(hits.sum() / lesions.sum()), *ends))
    return recalls


def _interval(hits: Sizes, lesions: Sizes) -> tuple[float, float]:
    if len(lesions) < 2:
        return math.nan, math.nan
    from scipy import stats  # slow to import

    result = stats.bootstrap(
        (hits, lesions),
        lambda hits, lesions, axis: hits.sum(axis) / lesions.sum(axis),
        paired=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _size(voxels: int, matching: Matching) -> Row:
    if matching.spacing_mm is None:
        return {"voxels": voxels}
    return {"voxels": voxels, "ml": voxels * voxel_ml(matching.spacing_mm)}


def _only(labels: Labels, chosen: Mask) -> Labels:
    """The labels of the chosen lesions, numbered anew from 1."""
    numbers = np.concatenate([[0], np.where(chosen, np.cumsum(chosen), 0)]).astype(np.int32)
    return np.asarray(numbers[labels])


def _places(labels: Labels, origin: tuple[int, int, int]) -> list[Row]:
    """Centroid, first and last slice by lesion, in the whole volume."""
    if not labels.any():
        return []
    from skimage.measure import regionprops_table  # slow to import

    table: Mapping[str, NDArray[Any]] = regionprops_table(labels, properties=("centroid", "bbox"))
    centroids = np.stack([table[f"centroid-{axis}"] + origin[axis] for axis in range(3)], axis=1)
    first, last = table["bbox-0"] + origin[0], table["bbox-3"] + origin[0] - 1
    values = zip(*centroids.T.tolist(), first.tolist(), last.tolist(), strict=True)
    return [dict(zip(PLACE, place, strict=True)) for place in values]
