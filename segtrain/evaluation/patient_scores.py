"""All scores of one patient: a pure function of its prediction, its mask and the rules. No torch is imported.

Legend: r region, s slice, h height, w width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import EvaluateConfig, MaskLayout
from segtrain.data.geometry import Geometry, to_source
from segtrain.data.masks import regions_of
from segtrain.data.sources import Source, read_with_mask
from segtrain.errors import DataError
from segtrain.evaluation.lesion_marks import picture_of
from segtrain.evaluation.lesion_places import lesions_of_regions
from segtrain.evaluation.metrics import among_known, count, kept_components
from segtrain.evaluation.overlays import Picture
from segtrain.evaluation.region_scores import (
    NO_LESIONS,
    GeometryName,
    LesionsOfRegion,
    Mask,
    Row,
    Rules,
    dsc_ceiling,
    further_numbers,
    lesions_of,
    matched,
    numbers,
    with_and_without,
)
from segtrain.evaluation.units import Spacing
from segtrain.evaluation.worst import WorstLesion


@dataclass(frozen=True)
class AsConfigured:
    """A prediction with all its components by the run's own settings, where others are in use, and these settings."""

    predicted_rshw: Mask
    cfg: EvaluateConfig


@dataclass(frozen=True)
class Task:
    """One patient's prediction with all its components, bool [r, s, h, w], and its mask, in the prepared geometry.

    `source` has the mask in the original geometry; it is read only for that. spacing_mm: in the source; None where
    distances and volumes are to be in voxels. voxel_ml: of the prepared geometry, where the spacing is known.
    plane_shw: the contrast that pictures show; None: no picture.
    """

    patient: str
    predicted_rshw: Mask
    mask_shw: NDArray[np.uint8]
    layout: MaskLayout
    geometry: Geometry
    source: Source
    cfg: EvaluateConfig
    rules: Rules
    spacing_mm: Spacing | None = None
    voxel_ml: float | None = None
    as_configured: AsConfigured | None = None
    plane_shw: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class PatientScores:
    """A row for each region; the scores of lesions and volumes, which are columns behind all others; the lesions.

    worst: the patient's worst lesion and its picture, in the prepared geometry.
    """

    rows: Sequence[Row]
    further: Sequence[Row]
    lesions: Sequence[LesionsOfRegion]
    worst: tuple[WorstLesion, Picture] | None = None

    def marked(self, marks: Row) -> list[Row]:
        """The whole rows, with what is known of the patient in the middle."""
        return [row | marks | further for row, further in zip(self.rows, self.further, strict=True)]


def scores_of(task: Task) -> PatientScores:
    """A row a region: patient, region where there are several, then the numbers in each geometry."""
    regions = task.layout.regions
    rows: list[Row] = [{"patient": task.patient, **({"region": name} if len(regions) > 1 else {})} for name in regions]
    further: list[Row] = [{} for _ in regions]
    lesions: list[LesionsOfRegion] = []
    prepared_rshw = kept_components(task.predicted_rshw, regions, task.cfg, task.voxel_ml), task.predicted_rshw
    as_configured_rshw = _as_configured(task)
    worst = None
    for geometry in task.rules.geometries:
        predictions, mask_shw, spacing_mm = prepared_rshw, task.mask_shw, task.spacing_mm
        if geometry == "prepared" and spacing_mm is not None:
            spacing_mm = task.geometry.prepared_spacing(spacing_mm)
        if geometry == "original":
            predictions = in_source(predictions[0], task.geometry), in_source(predictions[1], task.geometry)
            mask_shw = _original_mask(task)
            _add_ceilings(further, task, mask_shw)
        kept_rshw, predicted_rshw = (among_known(each, mask_shw, task.layout) for each in predictions)
        true_rshw = regions_of(mask_shw, task.layout)
        if geometry == "prepared" and task.plane_shw is not None:
            worst = _worst(task, kept_rshw, true_rshw, spacing_mm)
        for number, (kept, predicted, true) in enumerate(zip(kept_rshw, predicted_rshw, true_rshw, strict=True)):
            rows[number] |= _named(numbers(kept, predicted, true, task.rules, spacing_mm), geometry)
            matching = matched(kept, true, task.rules, spacing_mm)
            further[number] |= _named(further_numbers(kept, true, matching, task.rules, spacing_mm), geometry)
            if matching is not None:
                lesions.append(lesions_of(task.patient, rows[number].get("region", ""), geometry, matching))
        if as_configured_rshw is not None:
            dsc = [row[column("dsc", geometry)] for row in rows]
            for number, own in enumerate(_without(task, as_configured_rshw, geometry, mask_shw, dsc)):
                further[number] |= _named(own, geometry)
    return PatientScores(rows, further, lesions, worst)


def _without(
    task: Task, as_configured_rshw: Mask, geometry: GeometryName, mask_shw: NDArray[np.uint8], dsc: Sequence[Any]
) -> Iterator[Row]:
    """Of each region, what the run's own settings give beside the DSC that others gave."""
    if geometry == "original":
        as_configured_rshw = in_source(as_configured_rshw, task.geometry)
    as_configured_rshw = among_known(as_configured_rshw, mask_shw, task.layout)
    for with_others, without, true in zip(dsc, as_configured_rshw, regions_of(mask_shw, task.layout), strict=True):
        yield with_and_without(with_others, count(without, true))


def _worst(
    task: Task, kept_rshw: Mask, true_rshw: Mask, spacing_mm: Spacing | None
) -> tuple[WorstLesion, Picture] | None:
    """The patient's worst lesion, by the rule of the scores; None by the rule of no lesions."""
    if task.rules.lesions == NO_LESIONS or task.plane_shw is None:
        return None
    lesions = lesions_of_regions(kept_rshw, true_rshw, task.layout.regions, spacing_mm, task.rules.lesions)
    dsc = [count(kept, true).dsc for kept, true in zip(kept_rshw, true_rshw, strict=True)]
    one = WorstLesion.of(task.patient, sum(dsc) / len(dsc), lesions)
    plane_hw = task.plane_shw[one.place]
    return one, picture_of(plane_hw, kept_rshw[:, one.place], true_rshw[:, one.place], lesions, one.place)


def _add_ceilings(rows: Sequence[Row], task: Task, mask_shw: NDArray[np.uint8]) -> None:
    """Adds `dsc_ceiling` to the rows of the regions; mask_shw: the source's."""
    prepared_rshw = in_source(regions_of(task.mask_shw, task.layout), task.geometry)
    perfect_rshw = among_known(prepared_rshw, mask_shw, task.layout)
    for row, perfect, true in zip(rows, perfect_rshw, regions_of(mask_shw, task.layout), strict=True):
        row |= _named(dsc_ceiling(perfect, true, task.rules), "original")


def _as_configured(task: Task) -> Mask | None:
    """The components that the run's own settings keep, where others are in use."""
    if task.as_configured is None:
        return None
    predicted_rshw, cfg = task.as_configured.predicted_rshw, task.as_configured.cfg
    return kept_components(predicted_rshw, task.layout.regions, cfg, task.voxel_ml)


def _named(row: Row, geometry: GeometryName) -> Row:
    return {column(name, geometry): value for name, value in row.items()}


def in_source(volumes_rshw: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The regions' volumes in the source's geometry."""
    return np.stack([to_source(volume_shw, geometry) for volume_shw in volumes_rshw])


def column(name: str, geometry: GeometryName) -> str:
    """A column's name: as training writes it in the prepared geometry, `original_...` in the source's."""
    return name if geometry == "prepared" else f"original_{name}"


def _original_mask(task: Task) -> NDArray[np.uint8]:
    _, mask_shw = read_with_mask(task.source, task.patient)
    if mask_shw.shape != task.geometry.source_shape:
        raise DataError(
            f"patient {task.patient}: {mask_shw.shape} voxels in {task.source.label}, but the store was prepared from "
            f"{task.geometry.source_shape}; do not change the data while it is scored, and start again"
        )
    return mask_shw
