"""Scores of patients in the prepared geometry, in the source's, or in both: a row for each patient and region.

This process predicts, worker processes score. Rows are a pure function of their task, so the number of processes
changes nothing.

Legend: r region, s slice, h height, w width.
"""

import logging
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from segtrain.config import EvaluateConfig
from segtrain.data.neighbours import refuse_unknown_distances
from segtrain.data.sources import Source, first_few, make_source
from segtrain.data.store import Store
from segtrain.errors import LaunchError
from segtrain.evaluation.calibration import ECE, Reliability, reliabilities
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened
from segtrain.evaluation.overlays import Picture, shown_contrast
from segtrain.evaluation.patient_scores import AsConfigured, PatientScores, Task, scores_of
from segtrain.evaluation.region_scores import (
    MOST_LESIONS,
    LesionsOfRegion,
    Row,
    Rules,
)
from segtrain.evaluation.trained_on import trained_on, unless_seen
from segtrain.evaluation.units import Spacing, prepared_voxel_ml, refuse_unknown_spacing, usable
from segtrain.evaluation.worst import WorstPatients
from segtrain.runtime.terminal import Progress
from segtrain.runtime.workers import in_order

if TYPE_CHECKING:
    from segtrain.evaluation.predictor import Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """A row for each patient and region, and the patients' lesions.

    calibration: by patient and region, "" where there is one; of those that are in the means, in the prepared geometry.
    units: the reason for voxels, or the units; in_mm: whether distances are in mm and volumes in ml; worst: the sheet
    of the worst patients.
    """

    rows: Sequence[Row]
    lesions: Sequence[LesionsOfRegion] = ()
    in_mm: bool = False
    units: str = ""
    worst: Picture | None = None
    calibration: Mapping[tuple[str, str], Reliability] = field(default_factory=dict)

    @property
    def regions(self) -> tuple[str, ...]:
        """Of several, in their order; none where there is one."""
        return tuple(dict.fromkeys(row["region"] for row in self.rows if "region" in row))

    @property
    def unseen(self) -> "Scores":
        """Those of the patients that were not trained on, as far as is known."""
        return self._part({row["patient"] for row in self.rows if row["trained_on"] != "yes"}, self.regions)

    def of(self, region: str) -> "Scores":
        """Those of one of several regions."""
        return self._part({row["patient"] for row in self.rows}, (region,))

    def _part(self, patients: Collection[str], regions: Sequence[str]) -> "Scores":
        return replace(
            self,
            calibration={
                (patient, region): table
                for (patient, region), table in self.calibration.items()
                if patient in patients and (not regions or region in regions)
            },
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
    source, seen = make_source(checkpoints[0].cfg.data), trained_on(patients, checkpoints, store.pixels(patients))
    cfg = checkpoints[0].cfg
    refuse_unknown_distances(cfg.data, store, patients)
    refuse_unknown_spacing(cfg.evaluate, store.columns.spacings_of(patients), cfg.data.layout.regions)
    spacings, units = _spacings(store, patients)
    rows: list[Row] = []
    lesions: list[LesionsOfRegion] = []
    worst = WorstPatients(sort)
    tables: dict[str, tuple[Reliability, ...]] = {}
    calibration: dict[tuple[str, str], Reliability] = {}
    total = sum(store.columns.slices_of(patients).values())
    with opened(checkpoints) as predictor, Progress("evaluate", total=total, unit="slices") as bar:
        tasks = _predicted(predictor, store, spacings, source, rules, checkpoints[0].configured, tables)
        with closing(_scored(tasks, workers)) as scored:
            for scores in scored:
                stored = store.patients[scores.rows[0]["patient"]]
                mark = "yes" if stored.patient in seen else unless_seen(checkpoints)
                marks = {"institution": stored.institution, "trained_on": mark}
                marked = scores.marked(marks)
                calibration |= _add_calibration(marked, tables.pop(stored.patient, ()))
                rows += marked
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
    return Scores(rows, lesions, any(spacings.values()), units, worst.sheet(store.layout.regions), calibration)


def _add_calibration(rows: Sequence[Row], tables: Sequence[Reliability]) -> dict[tuple[str, str], Reliability]:
    """Adds ECE to a patient's rows; the tables by patient and region, without those that are in no mean."""
    counted: dict[tuple[str, str], Reliability] = {}
    if not tables:  # not scored in the prepared geometry
        return counted
    for row, table in zip(rows, tables, strict=True):
        row[ECE] = table.ece if row["dsc"] is not None else None
        if row[ECE] is not None:
            counted[row["patient"], row.get("region", "")] = table
    return counted


def _spacings(store: Store, patients: Sequence[str]) -> tuple[dict[str, Spacing | None], str]:
    """The spacing of each patient, None of all where it is not known of some; and the units, with the reason.

    A mean over millimetres and voxels would say nothing.
    """
    spacings = {patient: usable(mm) for patient, mm in store.columns.spacings_of(patients).items()}
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
    tables: dict[str, tuple[Reliability, ...]],
) -> Iterator[Task]:
    """Each patient, predicted on demand; configured: the run's own settings, where others are in use.

    This process alone has the probabilities. So it puts their calibration into `tables`, where it scores in their
    geometry.
    """
    for patient, spacing_mm in spacings.items():
        image_shwc, mask_shw = store.volume(patient)
        stored = store.patients[patient]
        probability_rshw = predictor.probability(
            image_shwc, mask_shw, spacing_mm=stored.spacing_mm, where=f"patient {patient}"
        )
        predicted_rshw = predictor.over_threshold(probability_rshw)
        if "prepared" in rules.geometries:
            tables[patient] = reliabilities(probability_rshw, predicted_rshw, mask_shw, predictor.layout)
        as_configured = None
        if configured is not None:
            by_threshold = replace(predictor, cfg=configured).over_threshold(probability_rshw)
            as_configured = AsConfigured(by_threshold, configured)
        yield Task(
            patient=patient,
            predicted_rshw=predicted_rshw,
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
