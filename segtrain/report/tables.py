"""The tables of a report: of variants, of patients, of runs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segtrain.evaluation.metrics import Summary, summarise
from segtrain.report.collect import Collected, Evaluation, best_epoch, changes, scores
from segtrain.report.statistics import Row, per_patient
from segtrain.report.texts import Say


@dataclass(frozen=True)
class Cell:
    """The text that a table shows, and the value that it sorts by."""

    text: str
    value: float | str
    link: str = ""  # the id of an element of the page


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are heads."""

    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(not isinstance(row[place].value, str) for row in self.rows) for place in range(len(self.heads))]


def variants_table(groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], say: Say) -> Table:
    """A row per variant; where there are several, with the difference to the baseline."""
    several = len(rows) > 1
    heads = [say("variant")]
    if several:
        heads.append(say("settings"))
    heads += [say("n"), say("mean_ci"), say("best_mean")]
    if several:
        heads += [say("difference_ci", baseline=rows[0].variant), say("pairs"), say("p_holm"), say("verdict")]
    heads += [say("hours"), say("gpu_hours"), say("speed")]
    lines = []
    for row in rows:
        runs = groups[row.variant]
        baseline_run = groups[rows[0].variant][0]
        line = [_word(row.variant)]
        if several:
            line.append(_word(" ".join(f"{key}={value}" for key, value in changes(runs[0], baseline_run).items())))
        line += [_number(row.summary.n, "d"), _with_ci(row.summary), _with_ci(best_epoch(runs))]
        if several:
            line += [*_difference_cells(row, say), _word(verdict(row, say))]
        lines.append([*line, *_cost_cells(runs)])
    return Table("variants", heads, lines)


def _difference_cells(row: Row, say: Say) -> list[Cell]:
    """The difference, its pairs and how they were formed, and p."""
    if (difference := row.difference) is None:
        return [_word("")] * 3
    pairs = Cell(f"{difference.summary.n} ({say(difference.pairing)})", difference.summary.n)
    p = Cell("< 0.001" if difference.p_holm < 0.001 else f"{difference.p_holm:.3f}", difference.p_holm)
    return [_with_ci(difference.summary, sign="+"), pairs, p]


def verdict(row: Row, say: Say) -> str:
    """The verdict in words."""
    return say(row.verdict, n=row.difference.summary.n if row.difference else 0)


def patients_of_run(best: Evaluation, last: Evaluation, links: Mapping[str, str], say: Say) -> Table:
    """The patients of one run, worst first, with their voxels. `links`: a patient's place in the atlas."""
    counts = ("slices", "voxels", "tp", "fp", "fn")
    heads = [say(key) for key in ("patient", *counts, "dsc_last", "dsc_best")]
    lines = []
    for row in sorted(last.rows, key=lambda row: float(row["dsc"])):
        name = row["patient"]
        line = [Cell(name, name, links.get(name, "")), *(_number(int(row[key]), "d") for key in counts)]
        lines.append([*line, _number(float(row["dsc"])), _number(best.by_patient[name])])
    return Table("patients", heads, lines)


def patients_of_variants(variants: Mapping[str, Mapping[str, float]], links: Mapping[str, str], say: Say) -> Table:
    """The patients of all variants side by side, worst first. `variants`: each patient's DSC."""
    names = {patient for dsc_by_patient in variants.values() for patient in dsc_by_patient}
    values = {name: [dsc_by_patient.get(name, math.nan) for dsc_by_patient in variants.values()] for name in names}
    worst_first = sorted(names, key=lambda name: (min(dsc for dsc in values[name] if not math.isnan(dsc)), name))
    lines = [
        [Cell(name, name, links.get(name, "")), *(_number(value) for value in values[name])] for name in worst_first
    ]
    return Table("patients", [say("patient"), *variants], lines)


def runs_table(runs: Sequence[Collected], say: Say) -> Table:
    """A row per run, whatever its state."""
    keys = (
        "run", "variant", "fold", "seed", "state", "epochs", "n", "mean_ci", "best_mean", "hours", "gpu_hours", "speed",
    )  # fmt: skip
    lines = []
    for run in runs:
        line = [
            _word(run.name),
            _word(run.variant),
            _number(run.fold, "d"),
            _number(run.seed, "d"),
            _word(say(run.state)),
            _number(run.last.epoch if run.last else None, "d"),
            _number(len(run.last.by_patient) if run.last else None, "d"),
            _with_ci(_summary(run.last)) if run.last else _word(""),
            _with_ci(_summary(run.best), f" ({say('epoch')} {run.best.epoch})") if run.best else _word(""),
        ]
        lines.append([*line, *_cost_cells([run])])
    return Table("runs", [say(key) for key in keys], lines)


def dropped_table(runs: Sequence[Collected], say: Say) -> Table:
    """The runs that do not count, each with the reason."""
    lines = [[_word(run.name), _word(say(run.state)), _word(run.reason or say(f"why_{run.state}"))] for run in runs]
    return Table("dropped", [say("run"), say("state"), say("reason")], lines)


def mean_of_variant(runs: Sequence[Collected]) -> tuple[Mapping[str, float], Summary]:
    """Each patient's DSC at the last epoch, averaged over the runs of one variant, and their mean."""
    dsc_by_patient = per_patient(scores(runs))
    return dsc_by_patient, summarise(list(dsc_by_patient.values()))


def mean_text(summary: Summary) -> str:
    """A mean with its interval and n."""
    return f"{_with_ci(summary).text}, n = {summary.n}"


def _summary(evaluation: Evaluation) -> Summary:
    return summarise(list(evaluation.by_patient.values()))


def _cost_cells(runs: Sequence[Collected]) -> list[Cell]:
    """Hours, GPU hours, images/s: sums, and the median of the runs."""
    costs = [run.cost for run in runs if run.cost]
    rates = [run.images_per_s for run in runs if run.images_per_s is not None]
    return [
        _number(math.fsum(cost.hours for cost in costs) if costs else None, ".2f"),
        _number(math.fsum(cost.gpu_hours for cost in costs) if costs else None, ".2f"),
        _number(statistics.median(rates) if rates else None, ".1f"),
    ]


def _word(text: str) -> Cell:
    return Cell(text, text)


def _number(value: float | None, form: str = ".4f") -> Cell:
    return Cell("", "") if value is None or math.isnan(value) else Cell(format(value, form), value)


def _with_ci(summary: Summary, more: str = "", sign: str = "") -> Cell:
    interval = "" if math.isnan(summary.ci_low) else f" [{summary.ci_low:{sign}.3f}, {summary.ci_high:{sign}.3f}]"
    return Cell(f"{summary.mean:{sign}.4f}{interval}{more}", summary.mean)
