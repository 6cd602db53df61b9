"""The epochs of a run: its curves, and the per-patient scores of one epoch."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segtrain.report.variance import NOBODY, People
from segtrain.run import Run
from segtrain.run.events import EvaluationEvent, TrainEvent, with_steps
from segtrain.run.stored import number_in, reading

Point = tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one epoch: a row per patient (and region), as the run wrote them.

    `by_patient` is the mean over the regions where there are several, which are then in `by_region`.
    """

    epoch: int
    step: int
    dsc: float
    rows: Sequence[Mapping[str, str]]
    by_patient: Mapping[str, float]
    by_region: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def scores(self, region: str = "") -> Mapping[str, float]:
        """Each patient's DSC in a region, or over all."""
        return self.by_region[region] if region else self.by_patient


@dataclass(frozen=True)
class Curves:
    """Values by epoch."""

    loss: Sequence[Point]
    val_loss: Sequence[Point]
    val_dsc: Sequence[Point]
    by_region: Mapping[str, Sequence[Point]] = field(default_factory=dict)  # DSC, where there are several


def curves(training: Sequence[TrainEvent], scores: Sequence[EvaluationEvent]) -> Curves:
    """The training loss as its mean over each epoch's steps."""
    steps_per_epoch = scores[0].step / scores[0].epoch
    losses: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for event, steps in with_steps(training):
        losses[math.ceil(event.step / steps_per_epoch)].append((event.loss, steps))
    by_region: dict[str, list[Point]] = defaultdict(list)
    for scored in scores:
        for region, numbers in scored.regions.items():
            if (dsc := numbers["dsc"]) is not None:
                by_region[region].append((float(scored.epoch), dsc))
    return Curves(
        loss=[(float(epoch), statistics.fmean(*zip(*values, strict=True))) for epoch, values in sorted(losses.items())],
        val_loss=[(float(event.epoch), event.val_loss) for event in scores],
        val_dsc=[(float(event.epoch), event.val_dsc) for event in scores],
        by_region=dict(by_region),
    )


def evaluation(run: Run, event: EvaluationEvent, people: People = NOBODY) -> Evaluation:
    """The evaluation of an event. Raises ValueError: its table or the run's people do not agree with it."""
    table = run.validation_table(event.epoch)
    rows = run.scores(event.epoch)
    by_patient, by_region = by_patient_and_region(rows, list(event.regions), lambda row: _dsc(table, row))
    if len(by_patient) != event.n:
        raise ValueError(f"{table}: {len(by_patient)} patients, {event.n} were scored")
    if len(rows) != event.n * max(1, len(by_region)):
        raise ValueError(f"{table}: {len(rows)} rows for {event.n} patients and the regions {', '.join(by_region)}")
    number = len({people.get(patient, patient) for patient in by_patient})
    if event.people not in (None, number):
        raise ValueError(f"{run.split_file}: the patients are {number} people, {event.people} were scored")
    return Evaluation(event.epoch, event.step, event.val_dsc, rows, by_patient, by_region)


def by_patient_and_region(
    rows: Sequence[Mapping[str, str]], regions: Sequence[str], dsc: Callable[[Mapping[str, str]], float]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Each patient's DSC, the mean over the regions where there are several, and that in each region.

    `dsc` reads that of a row. Raises KeyError: a region lacks a patient of the first.
    """
    if not regions:
        return {row["patient"]: dsc(row) for row in rows}, {}
    by_region = {region: {row["patient"]: dsc(row) for row in rows if row["region"] == region} for region in regions}
    values = list(by_region.values())
    return {patient: math.fsum(own[patient] for own in values) / len(values) for patient in values[0]}, by_region


def _dsc(table: Path, row: Mapping[str, str]) -> float:
    """Raises DamagedFile."""
    with reading(table):
        return number_in(row["dsc"])
