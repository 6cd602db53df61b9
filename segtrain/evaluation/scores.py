"""Scores of patients in the prepared geometry, in the source's, or in both: a row for each patient and region.

This process predicts, worker processes score. Rows are a pure function of their task, so the number of processes
changes nothing.

Legend: r region, s slice, h height, w width.
"""

import logging
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import EvaluateConfig, MaskLayout
from segtrain.data.geometry import Geometry, to_source
from segtrain.data.masks import regions_of
from segtrain.data.neighbours import refuse_unknown_distances
from segtrain.data.sources import Source, first_few, make_source, read_with_mask
from segtrain.data.store import Store
from segtrain.errors import DataError, LaunchError
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened, trained_on
from segtrain.evaluation.lesion_marks import picture_of
from segtrain.evaluation.lesion_places import lesions_of_regions
from segtrain.evaluation.metrics import among_known, count, kept_components
from segtrain.evaluation.overlays import Picture, shown_contrast
from segtrain.evaluation.region_scores import (
    MOST_LESIONS,
    NO_LESIONS,
    GeometryName,
    LesionsOfRegion,
    Mask,
    Row,
    Rules,
    further_numbers,
    lesions_of,
    matched,
    numbers,
    with_and_without,
)
from segtrain.evaluation.units import Spacing, prepared_voxel_ml, refuse_unknown_spacing, usable
from segtrain.evaluation.worst import WorstLesion, WorstPatients
from segtrain.runtime.terminal import Progress
from segtrain.runtime.workers import in_order

if TYPE_CHECKING:
    from segtrain.evaluation.predictor import Predictor

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Scores:
    """A row for each patient and region, and the patients' lesions.

    units: the reason for voxels, or the units; in_mm: whether distances are in mm and volumes in ml; worst: the sheet
    of the worst patients.
    """

    rows: Sequence[Row]
    lesions: Sequence[LesionsOfRegion] = ()
    in_mm: bool = False
    units: str = ""
    worst: Picture | None = None

    @property
    def regions(self) -> tuple[str, ...]:
        """Of several, in their order; none where there is one."""
        return tuple(dict.fromkeys(row["region"] for row in self.rows if "region" in row))

    @property
    def unseen(self) -> "Scores":
        """Those of the patients that were not trained on."""
        return self._part({row["patient"] for row in self.rows if row["trained_on"] == "no"}, self.regions)

    def of(self, region: str) -> "Scores":
        """Those of one of several regions."""
        return self._part({row["patient"] for row in self.rows}, (region,))

    def _part(self, patients: Collection[str], regions: Sequence[str]) -> "Scores":
        return replace(
            self,
            rows=[r for r in self.rows if r["patient"] in patients and (not regions or r["region"] in regions)],
            lesions=[one for one in self.lesions if one.patient in patients and (not regions or one.region in regions)],
        )


def score(
    checkpoints: Sequence[TrainedCheckpoint],
    store: Store,
    patients: Sequence[str],
    rules: Rules,
    workers: int = 1,
    sort: str = "dsc",
) -> Scores:
    """A row for each patient and region, predicted and scored by the functions that score in training.

    `sort` (of SORTS) decides which patients are on the sheet of the worst, and in which order.

    Raises DataError: source not readable, or the distance of neighbours not known; LaunchError: started under torchrun,
    or a worker was killed.
    """
    source, seen = make_source(checkpoints[0].cfg.data), trained_on(patients, checkpoints)
    cfg = checkpoints[0].cfg
    refuse_unknown_distances(cfg.data, store, patients)
    refuse_unknown_spacing(
        cfg.evaluate, {patient: store.patients[patient].spacing_mm for patient in patients}, cfg.data.layout.regions
    )
    spacings, units = _spacings(store, patients)
    rows: list[Row] = []
    lesions: list[LesionsOfRegion] = []
    worst = WorstPatients(sort)
    total = sum(store.patients[patient].slices for patient in patients)
    with opened(checkpoints) as predictor, Progress("evaluate", total=total, unit="slices") as bar:
        tasks = _predicted(predictor, store, spacings, source, rules, checkpoints[0].configured)
        with closing(_scored(tasks, workers)) as scored:
            for scores in scored:
                stored = store.patients[scores.rows[0]["patient"]]
                marks = {"institution": stored.institution, "trained_on": "yes" if stored.patient in seen else "no"}
                rows += scores.marked(marks)
                lesions += scores.lesions
                if scores.worst:
                    worst.add(*scores.worst)
                bar.advance(stored.slices, patient=stored.patient)
    for one in lesions:
        if one.of_all > len(one.table):
            what = " ".join(filter(None, (one.region, one.geometry)))
            log.warning(
                "patient %s (%s): %d lesions; the table has the largest %d", one.patient, what, one.of_all, MOST_LESIONS
            )
    return Scores(rows, lesions, any(spacings.values()), units, worst.sheet(store.layout.regions))


def _spacings(store: Store, patients: Sequence[str]) -> tuple[dict[str, Spacing | None], str]:
    """The spacing of each patient, None of all where it is not known of some; and the units, with the reason.

    A mean over millimetres and voxels would say nothing.
    """
    spacings = {patient: usable(store.patients[patient].spacing_mm) for patient in patients}
    unknown = [patient for patient, spacing_mm in spacings.items() if spacing_mm is None]
    if not unknown:
        return spacings, "distances in mm, volumes in ml"
    reason = "the data do not have their spacing"
    if len(unknown) < len(patients):
        reason = f"the spacing of {len(unknown)} of {len(patients)} patients ({first_few(unknown)}) is not known"
    units = f"distances and volumes in voxels: {reason}"
    return dict.fromkeys(patients), units


def _predicted(
    predictor: "Predictor",
    store: Store,
    spacings: Mapping[str, Spacing | None],
    source: Source,
    rules: Rules,
    configured: EvaluateConfig | None,
) -> Iterator[Task]:
    """Each patient, predicted on demand; configured: the run's own settings, where others are in use."""
    for patient, spacing_mm in spacings.items():
        image_shwc, mask_shw = store.volume(patient)
        stored = store.patients[patient]
        probability_rshw = predictor.probability(
            image_shwc, mask_shw, spacing_mm=stored.spacing_mm, where=f"patient {patient}"
        )
        as_configured = None
        if configured is not None:
            by_threshold = replace(predictor, cfg=configured).over_threshold(probability_rshw)
            as_configured = AsConfigured(by_threshold, configured)
        yield Task(
            patient=patient,
            predicted_rshw=predictor.over_threshold(probability_rshw),
            mask_shw=mask_shw,
            layout=predictor.layout,
            geometry=stored.geometry,
            source=source,
            cfg=predictor.cfg,
            rules=rules,
            spacing_mm=spacing_mm,
            voxel_ml=prepared_voxel_ml(stored.spacing_mm, stored.geometry),
            as_configured=as_configured,
            plane_shw=image_shwc[..., shown_contrast(store.contrasts)],
        )


def _scored(tasks: Iterable[Task], workers: int) -> Generator[PatientScores, None, None]:
    try:
        yield from in_order(scores_of, tasks, workers, "--workers 1")
    except BrokenProcessPool as error:
        raise LaunchError(
            "a process that scored patients was killed, probably out of memory; try --workers 1"
        ) from error


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
