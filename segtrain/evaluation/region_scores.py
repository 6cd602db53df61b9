"""All numbers of one volume: a region of one patient in one geometry. No torch is imported.

Legend: s slice, h height, w width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segtrain.evaluation import lesions, surface, volumes
from segtrain.evaluation.lesion_table import lesion_table
from segtrain.evaluation.metrics import EMPTY_RULE, Counts, count
from segtrain.evaluation.units import Spacing, in_unit

Row = dict[str, Any]  # a line of a table: values by column, None for an empty cell
Mask = NDArray[np.bool_]
GeometryName = Literal["prepared", "original"]
EmptyMasks = Literal["score", "leave_out"]
EmptySurfaces = Literal["leave_out", "worst"]

NO_LESIONS = "none"
# These sentences are in every summary.json, and `segtrain evaluate` compares them before it replaces scores: after a
# change of words, earlier scores would count as scores by another rule.
MASK_RULES: dict[EmptyMasks, str] = {
    "score": EMPTY_RULE,
    "leave_out": "mask empty: the patient is in no mean; prediction alone empty: DSC 0",
}
SURFACE_RULES: dict[EmptySurfaces, str] = {
    "leave_out": "mask or prediction empty: no surface, the cell stays empty and the patient is not in the mean",
    "worst": "mask or prediction empty: the volume's diagonal and surface Dice 0; both empty: 0 and surface Dice 1",
}
LESION_RULES: dict[str, str] = {
    **{name: rule.about for name, rule in lesions.RULES.items()},
    NO_LESIONS: "no scores of lesions",
}
# By any rule these ratios have no value there; by `leave_out` a patient without lesion is in no mean at all.
RATIO_RULE = "no lesion: no sensitivity; nothing predicted: no precision; such a patient is not in that mean"
WITH_AND_WITHOUT = ("dsc_as_configured", "dsc_gain")  # columns where chosen post-processing is in use
DSC_CEILING = "dsc_ceiling"  # of the original geometry
# How columns end that count something, or measure it in a unit; all others are shares.
COUNTED_IN = ("_mm", "_px", "_ml", "_voxels", "_percent", "_slices", "lesions", "_found", "_predicted", "_false")
# A map of specks has thousands of lesions; a table of them would be read by nobody.
MOST_LESIONS = 1000


@dataclass(frozen=True)
class Rules:
    """The geometries to score in, the scores of empty volumes, and how lesions match (of LESION_RULES)."""

    geometries: tuple[GeometryName, ...] = ("prepared",)
    masks: EmptyMasks = "score"
    surfaces: EmptySurfaces = "leave_out"
    lesions: str = lesions.DEFAULT_RULE


@dataclass(frozen=True)
class LesionsOfRegion:
    """One region's lesions in one geometry.

    table: the largest MOST_LESIONS of them; of_all: how many there are; sizes, is_found: of all true lesions that
    count, the size in the table's unit.
    """

    patient: str
    region: str  # "" where there is one
    geometry: GeometryName
    table: Sequence[Row]
    of_all: int
    sizes: Sequence[float]
    is_found: Sequence[bool]


def metrics(spacing_mm: Spacing | None = None) -> tuple[str, ...]:
    """The columns of `numbers` that have a mean; those before them are `Counts.columns`."""
    overlap = ("dsc", "dsc_all_components", "iou", "sensitivity", "precision")
    return (*overlap, *surface.names(spacing_mm), "false_positive_slices")


def further_metrics(rules: Rules, spacing_mm: Spacing | None = None) -> tuple[str, ...]:
    """The columns of `further_numbers`."""
    of_lesions = () if rules.lesions == NO_LESIONS else lesions.names(spacing_mm, rules.lesions)
    return (*of_lesions, *volumes.names(spacing_mm))


def limits(column: str) -> tuple[float, float]:
    """The smallest and the largest value that a column can have, which its interval does not pass."""
    lowest = 0.0
    if "volume_error" in column:
        lowest = -math.inf
    elif column.endswith("dsc_gain"):
        lowest = -1.0
    is_share = "lesion_recall" in column or not column.endswith(COUNTED_IN)  # recall of lesions from 1 to 10 ml
    return lowest, 1.0 if is_share else math.inf


def numbers(
    kept_shw: Mask, all_components_shw: Mask, true_shw: Mask, rules: Rules, spacing_mm: Spacing | None = None
) -> Row:
    """Counts and `metrics` of one volume; None where a number has no value."""
    counts, everything = count(kept_shw, true_shw), count(all_components_shw, true_shw)
    lesion, predicted = counts.tp + counts.fn, counts.tp + counts.fp
    union = lesion + counts.fp
    row: Row = {**counts.columns(len(true_shw)), **dict.fromkeys(metrics(spacing_mm))}
    if lesion > 0 or rules.masks == "score":
        row["dsc"] = counts.dsc
        row["dsc_all_components"] = everything.dsc
        row["iou"] = counts.tp / union if union else 1.0
        row["precision"] = counts.tp / predicted if predicted else None
        row["false_positive_slices"] = int((kept_shw.any((1, 2)) & ~true_shw.any((1, 2))).sum())
    if lesion > 0:
        row["sensitivity"] = counts.tp / lesion
    return row | _distances(kept_shw, true_shw, rules, spacing_mm)


def with_and_without(dsc: float | None, as_configured: Counts) -> Row:
    """WITH_AND_WITHOUT: DSC by the run's own settings, where others were chosen, and by how much theirs is higher.

    dsc: by the chosen settings; None where a patient is in no mean.
    """
    values = (None, None) if dsc is None else (as_configured.dsc, dsc - as_configured.dsc)
    return dict(zip(WITH_AND_WITHOUT, values, strict=True))


def dsc_ceiling(prepared_shw: Mask, true_shw: Mask, rules: Rules) -> Row:
    """DSC_CEILING: what a perfect prediction scores, given the prepared mask as it is in the source's geometry.

    Image size, resampling and dropped slices set it.
    """
    leave_out = rules.masks == "leave_out" and not true_shw.any()
    return {DSC_CEILING: None if leave_out else count(prepared_shw, true_shw).dsc}


def _distances(kept_shw: Mask, true_shw: Mask, rules: Rules, spacing_mm: Spacing | None) -> Row:
    names = surface.names(spacing_mm)
    nothing_predicted, no_lesion = not kept_shw.any(), not true_shw.any()
    if rules.surfaces == "leave_out" or not (nothing_predicted or no_lesion):
        return dict(surface.surface_scores(kept_shw, true_shw, spacing_mm))
    if no_lesion and rules.masks == "leave_out":
        return dict.fromkeys(names)
    if nothing_predicted and no_lesion:
        distance, surface_dice = 0.0, 1.0
    else:
        sides = np.multiply(true_shw.shape, spacing_mm or 1.0)
        distance, surface_dice = math.hypot(*sides.tolist()), 0.0
    return {name: surface_dice if name.startswith("nsd") else distance for name in names}


def matched(kept_shw: Mask, true_shw: Mask, rules: Rules, spacing_mm: Spacing | None) -> lesions.Matching | None:
    """The region's lesions, matched; None by the rule of none."""
    return None if rules.lesions == NO_LESIONS else lesions.match(kept_shw, true_shw, rules.lesions, spacing_mm)


def further_numbers(
    kept_shw: Mask, true_shw: Mask, matching: lesions.Matching | None, rules: Rules, spacing_mm: Spacing | None = None
) -> Row:
    """The scores of lesions and volumes; None where a number has no value."""
    if rules.masks == "leave_out" and not true_shw.any():
        return dict.fromkeys(further_metrics(rules, spacing_mm))
    of_lesions = lesions.lesion_scores(matching) if matching is not None else {}
    return of_lesions | volumes.volume_scores(kept_shw, true_shw, spacing_mm)


def lesions_of(patient: str, region: str, geometry: GeometryName, matching: lesions.Matching) -> LesionsOfRegion:
    """The table of the largest lesions, and the sizes of all."""
    rows = lesion_table(matching)
    largest = sorted(rows, key=lambda row: -row["voxels"])[:MOST_LESIONS]
    counts = ~matching.is_small
    return LesionsOfRegion(
        patient=patient,
        region=region,
        geometry=geometry,
        table=sorted(largest, key=lambda row: row["lesion"]),
        of_all=len(rows),
        sizes=(in_unit(1, matching.spacing_mm) * matching.true_voxels[counts]).tolist(),
        is_found=matching.is_found[counts].tolist(),
    )
