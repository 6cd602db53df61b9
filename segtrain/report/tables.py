"""The tables of a report: of variants, of patients, of runs. Means over regions stand above their parts."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from segtrain.data.people import values_by_person
from segtrain.evaluation.metrics import Summary, summarise
from segtrain.report.collect import Collected
from segtrain.report.epochs import Evaluation
from segtrain.report.statistics import Row
from segtrain.report.texts import Say
from segtrain.report.variance import People
from segtrain.report.variants import changes, mean_of_variant
from segtrain.report.verdicts import FEWEST_PEOPLE, Difference

LONGEST_WORD = 16  # letters that stay together in print
ByRegion = Mapping[str, Mapping[str, float]]  # each patient's DSC by region; "": of the one region, or the mean


@dataclass(frozen=True)
class Cell:
    """The text that a table shows, and the value that it sorts by."""

    text: str
    value: float | str
    link: str = ""  # the id of an element of the page

    @property
    def long(self) -> bool:
        """Whether it has a word that may be broken anywhere, for a page's width."""
        return any(len(letters) > LONGEST_WORD for letters in self.text.split())


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are heads."""

    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @cached_property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(not isinstance(row[place].value, str) for row in self.rows) for place in range(len(self.heads))]


def variants_table(groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], say: Say) -> Table:
    """A row per variant and region; where there are several variants, with the difference to the baseline."""
    several = len(rows) > 1
    by_region = any(row.parts for row in rows)
    heads = [say("variant")]
    if by_region:
        heads.append(say("region"))
    heads.append(say("mean_ci"))
    if several:
        heads += [say("difference_ci", baseline=rows[0].variant), say("verdict"), say("p_holm"), say("pairs")]
    heads += [people_head(rows, say), say("best_mean")]
    if several:
        heads.append(say("settings"))
    heads += [say("hours"), say("gpu_hours"), say("speed")]
    lines = []
    for row in rows:
        runs = groups[row.variant]
        differing = changes(runs[0], groups[rows[0].variant][0])
        for part in row.lines:
            line = [word(row.variant)]
            if by_region:
                line.append(word(region_name(part, say)))
            _, best = mean_of_variant(runs, "best", part.region)
            line.append(_with_ci(part.summary))
            if several:
                line += _difference_cells(part, say)
            line += [_count(part.summary.n, part.patients, say), _with_ci(best)]
            if several:
                line.append(word("" if part.region else " ".join(f"{key}={value}" for key, value in differing.items())))
            lines.append([*line, *(_cost_cells([] if part.region else runs))])
    return Table("variants", heads, lines)


def region_name(row: Row, say: Say) -> str:
    """The region of a row; of a row with parts the words for their mean; nothing where there is one region."""
    return row.region or (say("mean_of_regions") if row.parts else "")


def count_text(people: int, patients: int, say: Say) -> str:
    """n: the people, and their patients where these are more."""
    return str(people) if people == patients else say("people_n", people=people, patients=patients)


def _count(people: int, patients: int, say: Say) -> Cell:
    return Cell(str(people) if people == patients else f"{people} ({patients})", people)


def people_head(rows: Sequence[Row], say: Say) -> str:
    """The head of a column of n."""
    return say("n" if all(row.patients == row.summary.n for row in rows) else "people_head")


def _difference_cells(row: Row, say: Say) -> list[Cell]:
    """The difference, the verdict, p, and the pairs."""
    words = word(verdict(row, say))
    if (difference := row.difference) is None:
        return [word(""), words, word(""), word("")]
    pairs = _count(difference.summary.n, difference.patients, say)
    return [_with_ci(difference.summary, sign="+"), words, p_cell(difference.p_holm), pairs]


def p_cell(p: float) -> Cell:
    """A cell of a p value, empty where there is none."""
    return number(p, ".3f") if math.isnan(p) or p >= 0.001 else Cell("< 0.001", p)


def short_verdict(row: Row, say: Say) -> str:
    """The verdict in a few words, for a figure."""
    difference = row.difference
    n = count_text(difference.summary.n, difference.patients, say) if difference else ""
    return say("none_given", n=n) if row.verdict == "no verdict" else verdict(row, say)


def verdict(row: Row, say: Say) -> str:
    """The verdict in words; where there is none, what would have to hold."""
    if (difference := row.difference) is None:
        return say(row.verdict)
    n = count_text(difference.summary.n, difference.patients, say)
    if row.verdict != "no verdict":
        return say(row.verdict, n=n)
    return say("no verdict", n=n, why=_why_none(difference, say))


def _why_none(difference: Difference, say: Say) -> str:
    if difference.summary.n < FEWEST_PEOPLE:
        return say("no_verdict_people", least=FEWEST_PEOPLE)
    if difference.tolerated_sd == 0:
        return say("no_verdict_patients")
    return say("no_verdict_trainings", sd=f"{difference.tolerated_sd:.4f}")


def patients_of_run(best: Evaluation, last: Evaluation, people: People, links: Mapping[str, str], say: Say) -> Table:
    """The patients of one run, worst first, with their voxels, by region. `links`: a patient's place in the atlas."""
    counts = ("slices", "voxels", "tp", "fp", "fn")
    several = bool(last.by_region)
    heads = [*_patient_heads(last.by_patient, people, several, say), *(say(key) for key in counts)]
    lines = []
    places = {name: (dsc, place) for place, (name, dsc) in enumerate(last.by_patient.items())}
    for row in sorted(last.rows, key=lambda row: places[row["patient"]]):
        name, region = row["patient"], row["region"] if several else ""
        if several and region == next(iter(last.by_region)):
            mean = [*_patient_cells(name, people, last.by_patient, links), word(say("mean_of_regions"))]
            lines.append([*mean, *[word("")] * 5, number(last.by_patient[name]), number(best.by_patient[name])])
        line = _patient_cells(name, people, last.by_patient, links)
        if several:
            line.append(word(region))
        line += [number(int(row[key]), "d") for key in counts]
        lines.append([*line, number(float(row["dsc"])), number(best.scores(region)[name])])
    return Table("patients", [*heads, say("dsc_last"), say("dsc_best")], lines)


def patients_of_variants(variants: Mapping[str, ByRegion], people: People, links: Mapping[str, str], say: Say) -> Table:
    """The patients of all variants side by side, worst first, by region."""
    names = {patient: 0.0 for by_region in variants.values() for patient in by_region[""]}
    regions = list(dict.fromkeys(region for by_region in variants.values() for region in by_region))
    several = len(regions) > 1

    def values(name: str, region: str) -> list[float]:
        return [by_region.get(region, {}).get(name, math.nan) for by_region in variants.values()]

    def worst(name: str) -> tuple[float, str]:
        return min(dsc for dsc in values(name, "") if not math.isnan(dsc)), name

    lines = []
    for name in sorted(names, key=worst):
        for region in regions:
            line = _patient_cells(name, people, names, links)
            if several:
                line.append(word(region or say("mean_of_regions")))
            lines.append([*line, *(number(value) for value in values(name, region))])
    return Table("patients", [*_patient_heads(names, people, several, say), *variants], lines)


def _patient_heads(patients: Mapping[str, float], people: People, several: bool, say: Say) -> list[str]:
    heads = [say("patient")]
    if not people.keys().isdisjoint(patients):
        heads.append(say("person"))
    return [*heads, say("region")] if several else heads


def _patient_cells(name: str, people: People, patients: Mapping[str, float], links: Mapping[str, str]) -> list[Cell]:
    """The patient, and the person where some patients are scans of one."""
    cells = [Cell(name, name, links.get(name, ""))]
    return cells if people.keys().isdisjoint(patients) else [*cells, word(people.get(name, name))]


def runs_table(runs: Sequence[Collected], say: Say) -> Table:
    """A row per run, whatever its state; below it one for each of its regions."""
    by_region, repeated = any(run.regions for run in runs), any(run.repeat is not None for run in runs)
    keys = ["run", "variant", *(["region"] if by_region else []), "fold", *(["repeat"] if repeated else [])]
    keys += ["seed", "state", "epochs", "n", "mean_ci", "best_mean"]
    lines = []
    for run in runs:
        for region in ("", *run.regions):
            line = [word(run.name), word(run.variant)]
            if by_region:
                line.append(word(region or (say("mean_of_regions") if run.regions else "")))
            line += [
                number(run.fold, "d"),
                *([number(run.repeat, "d")] if repeated else []),
                number(run.seed, "d"),
                word(say(run.state)),
                number(run.last.epoch if run.last else None, "d"),
                *_evaluation_cells(run, region, say),
            ]
            lines.append([*line, *_cost_cells([] if region else [run])])
    heads = [say("people_head" if key == "n" and _has_people(runs) else key) for key in keys]
    return Table("runs", [*heads, *(say(key) for key in ("hours", "gpu_hours", "speed"))], lines)


def _evaluation_cells(run: Collected, region: str, say: Say) -> Iterator[Cell]:
    """n, the last and the best epoch of a run."""
    if not run.last or not run.best:
        yield from [word("")] * 3
        return
    last, best = (summarise(values_by_person(each.scores(region), run.people)) for each in (run.last, run.best))
    yield _count(last.n, len(run.last.by_patient), say)
    yield _with_ci(last)
    yield _with_ci(best, f" ({say('epoch')} {run.best.epoch})")


def _has_people(runs: Sequence[Collected]) -> bool:
    """Whether patients of a run are scans of one person."""
    return any(run.last and not run.people.keys().isdisjoint(run.last.by_patient) for run in runs)


def dropped_table(runs: Sequence[Collected], say: Say) -> Table:
    """The runs that do not count, each with the reason."""
    lines = [[word(run.name), word(say(run.state)), word(run.reason or say(f"why_{run.state}"))] for run in runs]
    return Table("dropped", [say("run"), say("state"), say("reason")], lines)


def mean_text(summary: Summary, patients: int, say: Say) -> str:
    """A mean with its interval and n."""
    return f"{_with_ci(summary).text}, n = {count_text(summary.n, patients, say)}"


def _cost_cells(runs: Sequence[Collected]) -> list[Cell]:
    """Hours, GPU hours, images/s: sums, and the median of the runs."""
    costs = [run.cost for run in runs if run.cost]
    rates = [run.images_per_s for run in runs if run.images_per_s is not None]
    return [
        number(math.fsum(cost.hours for cost in costs) if costs else None, ".2f"),
        number(math.fsum(cost.gpu_hours for cost in costs) if costs else None, ".2f"),
        number(statistics.median(rates) if rates else None, ".1f"),
    ]


def word(text: str) -> Cell:
    """A cell of text."""
    return Cell(text, text)


def number(value: float | None, form: str = ".4f") -> Cell:
    """A cell of a number, empty where there is none."""
    return Cell("", "") if value is None or math.isnan(value) else Cell(format(value, form), value)


def _with_ci(summary: Summary, more: str = "", sign: str = "") -> Cell:
    interval = "" if math.isnan(summary.ci_low) else f" [{summary.ci_low:{sign}.3f}, {summary.ci_high:{sign}.3f}]"
    return Cell(f"{summary.mean:{sign}.4f}{interval}{more}", summary.mean)
