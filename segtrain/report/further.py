"""Further scores: the tables that `segtrain evaluate` wrote into the runs, by variant, whatever their columns are."""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segtrain.data.people import values_by_person
from segtrain.errors import DAMAGED
from segtrain.evaluation.calibration import ECE
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.region_scores import limits
from segtrain.report.collect import Collected
from segtrain.report.scored import command, is_current
from segtrain.report.tables import Cell, Table, number, word
from segtrain.report.texts import Say, first_names
from segtrain.run import read_evaluation
from segtrain.run.stored import built, number_in

log = logging.getLogger(__name__)

ORIGINAL = "original_"  # before the columns of the source's geometry
PREPARED_ALONE = (ECE,)
# The word before a unit has a letter: in under_10_voxels it has none, that is the end of a class.
UNIT = re.compile(r"(?P<name>(?:.*_)?[^_]*[a-z][^_]*)_(?P<unit>mm|px|ml|voxels|percent)")
SETTINGS = ("settings", "empty_masks", "empty_surfaces", "lesions", "units")


@dataclass(frozen=True)
class _Mean:
    """A mean in a summary, with its interval."""

    n: int | None = None
    mean: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """One run's evaluation: its rows and its summary, what they are called, and the name of their folder."""

    run: Collected
    rows: Sequence[Mapping[str, str]]
    summary: Mapping[str, Any]
    folder: str = ""

    @property
    def is_current(self) -> bool:
        """Whether the run has not left behind the checkpoint that was scored."""
        return is_current(self.run, self.folder, self.summary)

    @property
    def regions(self) -> list[str]:
        """ "" where there is one."""
        return list(self.summary.get("regions", {})) or [""]

    @property
    def prefix(self) -> str:
        """Before the columns of the geometry to show: the original one where it was scored."""
        return ORIGINAL if list(self.summary["geometries"])[-1] == "original" else ""

    def block(self, region: str) -> Mapping[str, Any]:
        """The part of the summary about a region."""
        block: Mapping[str, Any] = self.summary["regions"][region] if region else self.summary
        return block

    def columns(self, region: str) -> list[str]:
        """Those of that geometry, without its prefix, and those that the prepared geometry alone has."""
        names = list(self.block(region)["not_trained_on"])
        if self.prefix:
            original = [name.removeprefix(ORIGINAL) for name in names if name.startswith(ORIGINAL)]
            return [*original, *(name for name in names if name in PREPARED_ALONE)]
        return [name for name in names if not name.startswith(ORIGINAL)]

    def values(self, region: str, column: str) -> dict[str, float]:
        """Of each patient that was not trained on and has a value."""
        rows = [row for row in self.rows if row["trained_on"] != "yes" and row.get("region", "") == region]
        name = column if column in PREPARED_ALONE else f"{self.prefix}{column}"
        cells = {row["patient"]: row.get(name) for row in rows}
        return {patient: number_in(cell) for patient, cell in cells.items() if cell}

    def strata(self, region: str) -> Mapping[str, Mapping[str, Any]]:
        """The mean of each stratum of the patients, with its interval and n, as far as there are any."""
        strata: Mapping[str, Mapping[str, Any]] = self.block(region).get(f"{self.prefix}dsc_by", {})
        return strata

    def check(self) -> None:
        """Raise one of DAMAGED where a table could not be made of it."""
        _ = self.is_current
        for region in self.regions:
            for column in self.columns(region):
                self.values(region, column)
            for mean in self.strata(region).values():
                built(_Mean, dict(mean))


@dataclass(frozen=True)
class Further:
    """The tables, and what has to be said with them."""

    tables: Sequence[Table]
    warnings: Sequence[str]


def further_scores(groups: Mapping[str, Sequence[Collected]], say: Say) -> Further:
    """A table of all scores for each evaluation that the variants have, and one of the DSC by stratum.

    An evaluation is known by its folder's name, such as validation-last, and its geometry. Runs without it, and scores
    of a checkpoint that the run has left behind, are not in its means.
    """
    evaluations: dict[tuple[str, str], dict[str, list[Evaluated]]] = {}
    outdated: dict[str, list[Collected]] = {}
    for variant, runs in groups.items():
        for run in runs:
            for one in _evaluations(run):
                if one.is_current:
                    evaluations.setdefault((one.folder, one.prefix), {}).setdefault(variant, []).append(one)
                else:
                    outdated.setdefault(one.folder, []).append(run)
    tables: list[Table] = []
    warnings = [_outdated(folder, runs, say) for folder, runs in sorted(outdated.items())]
    in_order = sorted(evaluations.items(), key=lambda item: _order(*item[0]))
    for place, ((folder, prefix), variants) in enumerate(in_order):
        title = f"{folder}, {say('geometry_original' if prefix else 'geometry_prepared')}"
        tables.append(_scores_table(f"further{place}", title, variants, say))
        if strata := _strata_table(f"strata{place}", title, variants, say):
            tables.append(strata)
        warnings += _warnings(folder, [one for evaluated in variants.values() for one in evaluated], say)
    return Further(tables, list(dict.fromkeys(warnings)))


def _order(folder: str, prefix: str) -> tuple[bool, str, bool]:
    """The last epochs first, and the source's geometry."""
    return not folder.endswith("-last"), folder, not prefix


def _outdated(folder: str, runs: Sequence[Collected], say: Say) -> str:
    names = first_names([run.name for run in runs])
    return say("further_outdated", folder=folder, n=len(runs), runs=names, command=command(runs[0], folder))


def _evaluations(run: Collected) -> Iterator[Evaluated]:
    """The evaluations in a run's directory; a damaged one is passed over."""
    for folder in sorted(run.run.evaluations.glob("*")):
        try:
            rows, summary = read_evaluation(folder)
            evaluated = Evaluated(run, rows, summary, folder.name)
            evaluated.check()
        except DAMAGED as error:
            log.warning("%s: no scores that a report could show (%s)", folder, " ".join(str(error).split()))
            continue
        yield evaluated


def _scores_table(name: str, title: str, variants: Mapping[str, Sequence[Evaluated]], say: Say) -> Table:
    """A row for each score and region, a column for each variant: the mean over people, its interval and n."""
    every = [one for evaluated in variants.values() for one in evaluated]
    rows = dict.fromkeys((column, region) for one in every for region in one.regions for column in one.columns(region))
    several = any(region for _, region in rows)
    heads = [title, *([say("region")] if several else []), say("unit"), *variants]
    lines = []
    for column, region in rows:
        label, unit = _label(column)
        line = [word(label), *([word(region)] if several else []), word(unit)]
        lines.append([*line, *(_mean(evaluated, region, column) for evaluated in variants.values())])
    return Table(name, heads, lines)


def _label(column: str) -> tuple[str, str]:
    """The name of a score and its unit, from its column."""
    parts = UNIT.fullmatch(column)
    name, unit = (parts["name"], parts["unit"]) if parts else (column, "")
    return name.replace("_", " "), "%" if unit == "percent" else unit


def _mean(evaluated: Sequence[Evaluated], region: str, column: str) -> Cell:
    """The mean over people of each patient's mean over the runs of a variant; empty where nobody has a value."""
    by_patient: dict[str, list[float]] = {}
    for one in evaluated:
        for patient, value in one.values(region, column).items():
            by_patient.setdefault(patient, []).append(value)
    if not by_patient:
        return word("")
    means = {patient: math.fsum(values) / len(values) for patient, values in by_patient.items()}
    of_people = values_by_person(means, evaluated[0].run.people)
    lowest, highest = limits(column)
    if max(of_people) > highest or min(of_people) < lowest:  # a metric that is not known here
        lowest, highest = -math.inf, math.inf
    summary = summarise(of_people, highest, lowest)
    interval = "" if math.isnan(summary.ci_low) else f" [{summary.ci_low:.4g}, {summary.ci_high:.4g}]"
    return Cell(f"{summary.mean:.4g}{interval}, n = {summary.n}", summary.mean)


def _strata_table(name: str, title: str, variants: Mapping[str, Sequence[Evaluated]], say: Say) -> Table | None:
    """The DSC by stratum of every run, as its summary has it; None where there are no strata."""
    lines = []
    for evaluated in variants.values():
        for one in evaluated:
            for region in one.regions:
                for stratum, mean in one.strata(region).items():
                    line = [word(one.run.name), word(region), word(stratum), number(mean.get("n"), "d")]
                    ends = [mean.get(end) for end in ("mean", "ci_low", "ci_high")]
                    lines.append([*line, *(number(end) for end in ends)])
    if not lines:
        return None
    heads = [say("run"), say("region"), f"{title}: {say('stratum')}", say("n"), say("dsc"), "95% CI", ""]
    if all(line[1].text == "" for line in lines):
        return Table(name, [heads[0], *heads[2:]], [[line[0], *line[2:]] for line in lines])
    return Table(name, heads, lines)


def _warnings(folder: str, evaluated: Sequence[Evaluated], say: Say) -> Iterator[str]:
    """What makes means too good or too low, and what makes them no comparison."""
    for key in ("chosen_on", "low_ceiling"):
        for message in dict.fromkeys(one.summary.get(key) for one in evaluated):
            if message:
                yield f"{folder}: {message}"
    differing = [key for key in SETTINGS if len({str(one.summary.get(key)) for one in evaluated}) > 1]
    if differing:
        yield say("further_differ", folder=folder, keys=", ".join(differing))
