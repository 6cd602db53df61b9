"""A patient's numbers, from what was predicted and what is true: in the prepared geometry, in the original, or both.

A pure function of its task, so that any number of processes finds the same. Imports torch only when it scores. Legend:
s slice, h height, w width.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segtrain.config import EvaluateConfig
from segtrain.data.preprocess import Geometry, geometry_of, to_source
from segtrain.data.sources.base import Source
from segtrain.data.sources.open import make_source
from segtrain.data.store import Store
from segtrain.errors import DataError, LaunchError
from segtrain.evaluation.ensemble import Chosen, ensemble_logits
from segtrain.evaluation.metrics import EMPTY_RULE, count
from segtrain.evaluation.surface import NAMES, surface_scores
from segtrain.runtime.allocator import use_allocator
from segtrain.runtime.terminal import Progress
from segtrain.runtime.workers import in_order

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]
Volume = NDArray[np.bool_]
GeometryName = Literal["prepared", "original"]
EmptyMasks = Literal["score", "leave_out"]
EmptySurfaces = Literal["leave_out", "worst"]
METRICS = (
    "dsc", "dsc_all_components", "iou", "sensitivity", "precision", *NAMES, "false_positive_slices",
)  # fmt: skip
MASK_RULES: dict[EmptyMasks, str] = {
    "score": EMPTY_RULE,
    "leave_out": "mask empty: the patient is in no mean; prediction alone empty: DSC 0",
}
SURFACE_RULES: dict[EmptySurfaces, str] = {
    "leave_out": "mask or prediction empty: no surface, the cell stays empty and the patient is not in the mean",
    "worst": "mask or prediction empty: the volume's diagonal and surface Dice 0; both empty: 0 and surface Dice 1",
}
# Whatever the rules: these ratios have no value there. With leave_out a patient without lesion is in no mean at all.
RATIO_RULE = "no lesion: no sensitivity; nothing predicted: no precision; such a patient is not in that mean"


@dataclass(frozen=True)
class Rules:
    """Where is scored, and what a patient without lesion, or without anything predicted, scores."""

    geometries: tuple[GeometryName, ...] = ("prepared",)
    masks: EmptyMasks = "score"
    surfaces: EmptySurfaces = "leave_out"


@dataclass(frozen=True)
class Task:
    """One patient: prediction and truth in the prepared geometry, bool [s, h, w], before components are chosen.

    `source` is read for the truth in the original geometry, where that is asked for.
    """

    patient: str
    predicted_shw: Volume
    true_shw: Volume
    geometry: Geometry
    source: Source
    cfg: EvaluateConfig
    rules: Rules


def column(name: str, geometry: GeometryName) -> str:
    """Of a table: plain in the prepared geometry, as training writes them; `original_...` in the other."""
    return name if geometry == "prepared" else f"original_{name}"


def rows_of(tasks: Iterable[Task], workers: int) -> Generator[Row, None, None]:
    """A row a task, in their order. Raises DataError: source not readable; LaunchError: a worker was killed."""
    try:
        yield from in_order(row_of, tasks, workers)
    except BrokenProcessPool as error:
        raise LaunchError("a process that scored patients was killed, for want of memory? try --workers 1") from error


def row_of(task: Task) -> Row:
    """Patient, slices, then each geometry's numbers."""
    from segtrain.evaluation.evaluate import kept_components  # imports torch: seconds

    kept_shw = kept_components(task.predicted_shw, task.cfg)
    row: Row = {"patient": task.patient}
    for geometry in task.rules.geometries:
        volumes = kept_shw, task.predicted_shw, task.true_shw
        if geometry == "original":
            kept, predicted = (to_source(volume, task.geometry) for volume in volumes[:2])
            volumes = kept, predicted, _original_truth(task)
        row |= {column(name, geometry): value for name, value in numbers(*volumes, task.rules).items()}
    return row


def _original_truth(task: Task) -> Volume:
    true_shw = task.source.read(task.patient).mask_shw.astype(bool)
    if true_shw.shape != task.geometry.source_shape:
        raise DataError(
            f"patient {task.patient}: {true_shw.shape} voxels in {task.source.label}, but the store was prepared from "
            f"{task.geometry.source_shape}; leave the data alone while it is scored, and start again"
        )
    return true_shw


def numbers(kept_shw: Volume, all_components_shw: Volume, true_shw: Volume, rules: Rules) -> Row:
    """Counts and METRICS of one volume, in its own voxels; None where there is nothing to tell."""
    c, everything = count(kept_shw, true_shw), count(all_components_shw, true_shw)
    lesion, predicted = c.tp + c.fn, c.tp + c.fp
    union = lesion + c.fp
    told = lesion > 0 or rules.masks == "score"
    return {
        "slices": len(true_shw), "voxels": lesion, "tp": c.tp, "fp": c.fp, "fn": c.fn,
        "dsc": c.dsc if told else None,
        "dsc_all_components": everything.dsc if told else None,
        "iou": (c.tp / union if union else 1.0) if told else None,
        "sensitivity": c.tp / lesion if lesion else None,
        "precision": c.tp / predicted if predicted and told else None,
        **_distances(kept_shw, true_shw, rules),
        "false_positive_slices": int((kept_shw.any((1, 2)) & ~true_shw.any((1, 2))).sum()) if told else None,
    }  # fmt: skip


def _distances(kept_shw: Volume, true_shw: Volume, rules: Rules) -> dict[str, float | None]:
    empty = [not volume.any() for volume in (kept_shw, true_shw)]
    if rules.surfaces == "leave_out" or not any(empty):
        return surface_scores(kept_shw, true_shw)
    if empty[1] and rules.masks == "leave_out":
        return dict.fromkeys(NAMES)
    distance, dice = (0.0, 1.0) if all(empty) else (math.hypot(*true_shw.shape), 0.0)
    return {name: dice if name.startswith("nsd") else distance for name in NAMES}


def score(
    chosen: Sequence[Chosen],
    store: Store,
    patients: Sequence[str],
    trained_on: frozenset[str],
    rules: Rules,
    workers: int = 1,
) -> list[Row]:
    """A row a patient, from the code that scores in training; this process predicts, `workers` others score."""
    cfg = chosen[0].cfg
    use_allocator(cfg.allocator, cfg.device)
    from segtrain.runtime.world import join  # imports torch: seconds

    rows = []
    with join(cfg.device, cfg.threads_per_rank, cfg.deterministic) as world:
        if world.size > 1:
            raise LaunchError(f"{world.size} processes, but segtrain evaluate is one; start it without torchrun")
        tasks = _tasks(chosen, store, patients, rules, world.device)
        total = sum(store.patients[p].slices for p in patients)
        with Progress("evaluate", total=total, unit="slices") as bar, closing(rows_of(tasks, workers)) as scored:
            for row in scored:
                patient = row["patient"]
                rows.append({
                    **row, "institution": store.patients[patient].institution,
                    "trained_on": "yes" if patient in trained_on else "no",
                })  # fmt: skip
                bar.advance(store.patients[patient].slices, patient=patient)
    return rows


def _tasks(
    chosen: Sequence[Chosen], store: Store, patients: Sequence[str], rules: Rules, device: "torch.device"
) -> Iterator[Task]:
    """Each patient, predicted when it is asked for."""
    from segtrain.evaluation.evaluate import predict_volume

    cfg, source = chosen[0].cfg, make_source(chosen[0].cfg.data)
    logits = ensemble_logits(chosen, device)
    for patient in patients:
        image_shwc, mask_shw = store.volume(patient)
        probability_shw = predict_volume(logits, image_shwc, mask_shw, device, cfg.evaluate, cfg.data.neighbours)
        predicted_shw = probability_shw > np.float32(cfg.evaluate.threshold)
        geometry = geometry_of(store.patients[patient].geometry)
        yield Task(patient, predicted_shw, mask_shw.astype(bool), geometry, source, cfg.evaluate, rules)
