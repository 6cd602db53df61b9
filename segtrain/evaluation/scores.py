"""Scores of patients in the prepared geometry, in the source's, or in both: a row for each patient and region.

This process predicts, worker processes score. Rows are a pure function of their task, so the number of processes
changes nothing.

Legend: r region, s slice, h height, w width.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segtrain.config import EvaluateConfig, MaskLayout
from segtrain.data.geometry import Geometry, to_source
from segtrain.data.masks import regions_of
from segtrain.data.sources import Source, make_source, read_with_mask
from segtrain.data.store import Store
from segtrain.errors import DataError, LaunchError
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened, trained_on
from segtrain.evaluation.metrics import EMPTY_RULE, among_known, count, kept_components
from segtrain.evaluation.surface import NAMES, surface_scores
from segtrain.runtime.terminal import Progress
from segtrain.runtime.workers import in_order

if TYPE_CHECKING:
    from segtrain.evaluation.predictor import Predictor

Row = dict[str, Any]  # a line of scores.csv: values by column, None for an empty cell
Mask = NDArray[np.bool_]
GeometryName = Literal["prepared", "original"]
EmptyMasks = Literal["score", "leave_out"]
EmptySurfaces = Literal["leave_out", "worst"]

# The columns of `numbers` that have a mean; those before them are `Counts.columns`.
METRICS = ("dsc", "dsc_all_components", "iou", "sensitivity", "precision", *NAMES, "false_positive_slices")
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
# By any rule these ratios have no value there; by `leave_out` a patient without lesion is in no mean at all.
RATIO_RULE = "no lesion: no sensitivity; nothing predicted: no precision; such a patient is not in that mean"


@dataclass(frozen=True)
class Rules:
    """The geometries to score in, and the scores of a patient without lesion or without prediction."""

    geometries: tuple[GeometryName, ...] = ("prepared",)
    masks: EmptyMasks = "score"
    surfaces: EmptySurfaces = "leave_out"


@dataclass(frozen=True)
class Task:
    """One patient's prediction with all its components, bool [r, s, h, w], and its mask, in the prepared geometry.

    `source` has the mask in the original geometry; it is read only for that.
    """

    patient: str
    predicted_rshw: Mask
    mask_shw: NDArray[np.uint8]
    layout: MaskLayout
    geometry: Geometry
    source: Source
    cfg: EvaluateConfig
    rules: Rules


def score(
    checkpoints: Sequence[TrainedCheckpoint], store: Store, patients: Sequence[str], rules: Rules, workers: int = 1
) -> list[Row]:
    """A row for each patient and region, predicted and scored by the functions that score in training.

    Raises DataError: source not readable; LaunchError: started under torchrun, or a worker was killed.
    """
    source, seen = make_source(checkpoints[0].cfg.data), trained_on(patients, checkpoints)
    rows: list[Row] = []
    total = sum(store.patients[patient].slices for patient in patients)
    with opened(checkpoints) as predictor, Progress("evaluate", total=total, unit="slices") as bar:
        tasks = _predicted(predictor, store, patients, source, rules)
        with closing(_scored(tasks, workers)) as scored:
            for rows_of_patient in scored:
                stored = store.patients[rows_of_patient[0]["patient"]]
                marks = {"institution": stored.institution, "trained_on": "yes" if stored.patient in seen else "no"}
                rows += [row | marks for row in rows_of_patient]
                bar.advance(stored.slices, patient=stored.patient)
    return rows


def _predicted(
    predictor: "Predictor", store: Store, patients: Sequence[str], source: Source, rules: Rules
) -> Iterator[Task]:
    """Each patient, predicted on demand."""
    for patient in patients:
        image_shwc, mask_shw = store.volume(patient)
        yield Task(
            patient=patient,
            predicted_rshw=predictor.over_threshold(predictor.probability(image_shwc, mask_shw)),
            mask_shw=mask_shw,
            layout=predictor.layout,
            geometry=store.patients[patient].geometry,
            source=source,
            cfg=predictor.cfg,
            rules=rules,
        )


def _scored(tasks: Iterable[Task], workers: int) -> Generator[list[Row], None, None]:
    try:
        yield from in_order(rows_of, tasks, workers, "--workers 1")
    except BrokenProcessPool as error:
        raise LaunchError(
            "a process that scored patients was killed, probably out of memory; try --workers 1"
        ) from error


def rows_of(task: Task) -> list[Row]:
    """A row a region: patient, region where there are several, then the numbers in each geometry."""
    regions = task.layout.regions
    rows: list[Row] = [{"patient": task.patient, **({"region": name} if len(regions) > 1 else {})} for name in regions]
    prepared_rshw = kept_components(task.predicted_rshw, regions, task.cfg), task.predicted_rshw
    for geometry in task.rules.geometries:
        predictions, mask_shw = prepared_rshw, task.mask_shw
        if geometry == "original":
            predictions = in_source(predictions[0], task.geometry), in_source(predictions[1], task.geometry)
            mask_shw = _original_mask(task)
        kept_rshw, predicted_rshw = (among_known(each, mask_shw, task.layout) for each in predictions)
        true_rshw = regions_of(mask_shw, task.layout)
        for row, kept, predicted, true in zip(rows, kept_rshw, predicted_rshw, true_rshw, strict=True):
            for name, value in numbers(kept, predicted, true, task.rules).items():
                row[column(name, geometry)] = value
    return rows


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


def numbers(kept_shw: Mask, all_components_shw: Mask, true_shw: Mask, rules: Rules) -> Row:
    """Counts and METRICS of one volume, in its own voxels; None where a number has no value."""
    counts, everything = count(kept_shw, true_shw), count(all_components_shw, true_shw)
    lesion, predicted = counts.tp + counts.fn, counts.tp + counts.fp
    union = lesion + counts.fp
    row: Row = {**counts.columns(len(true_shw)), **dict.fromkeys(METRICS)}
    if lesion > 0 or rules.masks == "score":
        row["dsc"] = counts.dsc
        row["dsc_all_components"] = everything.dsc
        row["iou"] = counts.tp / union if union else 1.0
        row["precision"] = counts.tp / predicted if predicted else None
        row["false_positive_slices"] = int((kept_shw.any((1, 2)) & ~true_shw.any((1, 2))).sum())
    if lesion > 0:
        row["sensitivity"] = counts.tp / lesion
    return row | _distances(kept_shw, true_shw, rules)


def _distances(kept_shw: Mask, true_shw: Mask, rules: Rules) -> dict[str, float | None]:
    nothing_predicted, no_lesion = not kept_shw.any(), not true_shw.any()
    if rules.surfaces == "leave_out" or not (nothing_predicted or no_lesion):
        return surface_scores(kept_shw, true_shw)
    if no_lesion and rules.masks == "leave_out":
        return dict.fromkeys(NAMES)
    if nothing_predicted and no_lesion:
        distance, surface_dice = 0.0, 1.0
    else:
        distance, surface_dice = math.hypot(*true_shw.shape), 0.0
    return {name: surface_dice if name.startswith("nsd") else distance for name in NAMES}
