"""What a report says, section by section, before it is a page or a Markdown file."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from segtrain.evaluation.metrics import EMPTY_RULE, Summary, summarise
from segtrain.report import figures
from segtrain.report.atlas import Atlas
from segtrain.report.collect import Collected, Evaluation, Point, best_epoch, changes, scores
from segtrain.report.figures import Figure, Interval, Series
from segtrain.report.statistics import ALPHA, Row, can_find, per_patient
from segtrain.report.texts import TEXTS, Language

Say = Callable[..., str]


@dataclass(frozen=True)
class Cell:
    """What a table shows, and what it sorts by."""

    text: str
    value: float | str
    link: str = ""  # the id of what it leads to


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


@dataclass(frozen=True)
class Section:
    """A heading and what is below it; figures by their names."""

    name: str
    title: str
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    pictures: Sequence[Collected] = ()
    atlases: Sequence[Atlas] = ()


def speaker(language: Language) -> Say:
    """A function from a text's key, and what it is to hold, to the text."""

    def say(key: str, **values: object) -> str:
        return TEXTS[language][key].format(**values)

    return say


def sections(
    runs: Sequence[Collected], groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], say: Say,
    atlases: Sequence[Atlas] = (),
) -> list[Section]:  # fmt: skip
    """All of the report: of `runs` those that count are in `groups`, a row each in `rows`, the baseline first."""
    found = [_result(runs, groups, rows, say)]
    if groups:
        found.append(_patients(groups, [atlas for atlas in atlases if atlas.cards], say))
    found.append(_curves(runs, groups, say))
    if dropped := [run for run in runs if not run.counts]:
        lines = [
            [_word(run.name), _word(say(run.state)), _word(run.reason or say(f"why_{run.state}"))] for run in dropped
        ]
        table = Table("dropped", [say("run"), say("state"), say("reason")], lines)
        found.append(Section("dropped", say("dropped"), tables=[table]))
    found += [_runs(runs, say), _method(runs, rows, say)]
    if atlases:
        found.append(_atlas(atlases, say))
    return [*found, Section("pictures", say("pictures"), pictures=[run for run in runs if run.last])]


def _result(
    runs: Sequence[Collected], groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], say: Say
) -> Section:
    counted = [run for run in runs if run.counts]
    patients = {patient for run in counted if run.last for patient in run.last.by_patient}
    waiting = sum(run.state == "none" for run in runs)
    numbers = {"counted": len(counted), "waiting": waiting, "variants": len(rows), "patients": len(patients)}
    notes = [say("overview", runs=len(runs), **numbers)]
    warnings = []
    if any(run.config is not None and run.config.data.source == "phantom" for run in runs):
        warnings.append(say("phantom"))
    if misnamed := [run.name for run in runs if run.misnamed]:
        warnings.append(say("misnamed", runs=", ".join(misnamed)))
    if not rows:
        return Section("result", say("result"), notes, [*warnings, say("nothing")])
    notes.append(say("chosen_epoch"))
    drawn = {}
    if compared := [row for row in rows if row.difference]:
        words = [row.verdict for row in compared]
        better, worse = words.count("better"), words.count("worse")
        rest = len(words) - better - worse
        notes.append(say("verdicts", baseline=rows[0].variant, better=better, worse=worse, rest=rest))
        if not can_find(rows):
            warnings.append(say("too_few"))
        title, axis = (say(key, baseline=rows[0].variant) for key in ("forest", "forest_axis"))
        intervals = [_interval(place, row, say) for place, row in enumerate(rows) if row.difference]
        drawn["forest"] = figures.forest(title, intervals, axis)
    return Section("result", say("result"), notes, warnings, [_variants(groups, rows, say)], drawn)


def _variants(groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], say: Say) -> Table:
    several = len(rows) > 1
    heads = [say("variant"), *([say("settings")] if several else []), say("n"), say("mean_ci"), say("best_mean")]
    if several:
        heads += [say("difference_ci", baseline=rows[0].variant), say("pairs"), say("p_holm"), say("verdict")]
    heads += [say("hours"), say("gpu_hours"), say("speed")]
    lines = []
    for row in rows:
        own, first = groups[row.variant], groups[rows[0].variant][0]
        settings = " ".join(f"{key}={value}" for key, value in changes(own[0], first).items())
        line = [_word(row.variant), *([_word(settings)] if several else []), _number(row.summary.n, "d")]
        line += [_with_ci(row.summary), _with_ci(best_epoch(own))]
        if several:
            line += [*_difference(row, say), _word(verdict(row, say))]
        lines.append([*line, *_costs(own)])
    return Table("variants", heads, lines)


def _difference(row: Row, say: Say) -> list[Cell]:
    """The difference, its pairs and how they were made, p."""
    if (found := row.difference) is None:
        return [_word("")] * 3
    pairs = Cell(f"{found.summary.n} ({say(found.pairing)})", found.summary.n)
    p = Cell("< 0.001" if found.p_holm < 0.001 else f"{found.p_holm:.3f}", found.p_holm)
    return [_with_ci(found.summary, sign="+"), pairs, p]


def verdict(row: Row, say: Say) -> str:
    """The verdict in words."""
    return say(row.verdict, n=row.difference.summary.n if row.difference else 0)


def _interval(place: int, row: Row, say: Say) -> Interval:
    assert row.difference
    found = row.difference.summary
    return Interval(row.variant, found.mean, found.ci_low, found.ci_high, verdict(row, say), place)


def _patients(groups: Mapping[str, Sequence[Collected]], atlases: Sequence[Atlas], say: Say) -> Section:
    """Every patient, worst first; of one run with its voxels, of several variants side by side."""
    by_variant = {variant: per_patient(scores(runs)) for variant, runs in groups.items()}
    first, links = next(iter(groups.values())), _links(atlases)
    if len(groups) > 1:
        labelled = {f"{name}: {_mean(summarise(list(own.values())))}": own for name, own in by_variant.items()}
        drawn = {"strip": figures.strip(say("strip"), labelled, "DSC")}
    else:
        own = next(iter(by_variant.values()))
        of_all = summarise(list(own.values()))
        mean, median = f"{say('mean')} {_mean(of_all)}", f"{say('median')} {of_all.median:.4f}"
        drawn = {"bars": figures.bars(say("bars"), own, (mean, of_all.mean), (median, of_all.median))}
    if len(groups) == len(first) == 1 and first[0].last and first[0].best:
        counts = ("slices", "voxels", "tp", "fp", "fn")
        heads = [say(key) for key in ("patient", *counts, "dsc_last", "dsc_best")]
        best = first[0].best.by_patient
        lines = []
        for row in sorted(first[0].last.rows, key=lambda row: float(row["dsc"])):
            name = row["patient"]
            line = [Cell(name, name, links.get(name, "")), *(_number(int(row[key]), "d") for key in counts)]
            lines.append([*line, _number(float(row["dsc"])), _number(best[name])])
    else:
        heads = [say("patient"), *by_variant]
        names = {patient for of_variant in by_variant.values() for patient in of_variant}
        found = {name: [of_variant.get(name, math.nan) for of_variant in by_variant.values()] for name in names}
        worst_first = sorted(found, key=lambda name: (min(v for v in found[name] if not math.isnan(v)), name))
        lines = [
            [Cell(name, name, links.get(name, "")), *(_number(value) for value in found[name])] for name in worst_first
        ]
    return Section("patients", say("patients"), tables=[Table("patients", heads, lines)], figures=drawn)


def _links(atlases: Sequence[Atlas]) -> dict[str, str]:
    """The id of each patient's place in the first atlas that has it."""
    found: dict[str, str] = {}
    for number, atlas in enumerate(atlases):
        for place, card in enumerate(atlas.cards):
            found.setdefault(card.patient, f"atlas-{number}-{place}")
    return found


def _atlas(atlases: Sequence[Atlas], say: Say) -> Section:
    warnings, notes = [], []
    for atlas in atlases:
        if atlas.reason:
            warnings.append(say("no_atlas", run=atlas.run, reason=atlas.reason))
            continue
        note = say("atlas_of", run=atlas.run, epoch=atlas.epoch, checkpoint=atlas.checkpoint, n=len(atlas.cards))
        notes.append(note if atlas.differ else f"{note} {say('atlas_same')}")
        if atlas.differ:
            warnings.append(say("atlas_differs", run=atlas.run, patients=", ".join(atlas.differ)))
        if atlas.left_out:
            warnings.append(say("atlas_left_out", run=atlas.run, n=atlas.left_out))
    if notes:
        notes.append(say("atlas_how"))
    return Section("atlas", say("atlas"), notes, warnings, atlases=[atlas for atlas in atlases if atlas.cards])


def _curves(runs: Sequence[Collected], variants: Iterable[str], say: Say) -> Section:
    drawn_of = [run for run in runs if run.curves]
    if len(drawn_of) == 1 and drawn_of[0].curves:
        curves = drawn_of[0].curves
        both = [Series(say("of_training"), curves["loss"], 0), Series(say("of_validation"), curves["val_loss"], 1)]
        dsc = [Series(say("of_validation"), curves["val_dsc"], 1)]
        drawn = {"losses": figures.lines(say("losses"), both, say("epoch")),
                 "val_dsc": figures.lines(say("val_dsc"), dsc, say("epoch"), unit=True)}  # fmt: skip
        return Section("curves", say("curves"), figures=drawn)
    drawn = {}
    for key in ("val_dsc", "val_loss", "loss") if drawn_of else ():
        drawn[key] = figures.lines(
            say(key), list(_series(drawn_of, variants, key)), say("epoch"), unit=key == "val_dsc"
        )
    return Section("curves", say("curves"), [say("thin")], figures=drawn)


def _series(runs: Sequence[Collected], first: Iterable[str], key: str) -> Iterator[Series]:
    """Each run's curve, and the mean of each variant over the epochs that all its runs have."""
    variants = dict.fromkeys([*first, *(run.variant for run in runs)])  # colours as in the other figures
    for place, variant in enumerate(variants):
        curves: list[dict[float, float]] = [dict(r.curves[key]) for r in runs if r.curves and r.variant == variant]
        if len(curves) > 1:
            yield from (Series(variant, list(curve.items()), place, thin=True) for curve in curves)
        common = sorted(set(curves[0]).intersection(*curves))
        mean: list[Point] = [(epoch, statistics.fmean(curve[epoch] for curve in curves)) for epoch in common]
        yield Series(variant, mean, place)


def _runs(runs: Sequence[Collected], say: Say) -> Section:
    keys = ["run", "variant", "fold", "seed", "state", "epochs", "n", "mean_ci", "best_mean"]
    keys += ["hours", "gpu_hours", "speed"]
    lines = []
    for run in runs:
        line = [_word(run.name), _word(run.variant), _number(run.fold, "d"), _number(run.seed, "d")]
        line += [_word(say(run.state)), _number(run.last.epoch if run.last else None, "d")]
        line.append(_number(len(run.last.by_patient) if run.last else None, "d"))
        line.append(_with_ci(_of_run(run.last)) if run.last else _word(""))
        line.append(_with_ci(_of_run(run.best), f" ({say('epoch')} {run.best.epoch})") if run.best else _word(""))
        lines.append([*line, *_costs([run])])
    return Section("runs", say("runs"), tables=[Table("runs", [say(key) for key in keys], lines)])


def _of_run(evaluation: Evaluation) -> Summary:
    return summarise(list(evaluation.by_patient.values()))


def _method(runs: Sequence[Collected], rows: Sequence[Row], say: Say) -> Section:
    given = sorted({run.empty_rule for run in runs if run.empty_rule})
    rules = [say("empty_rule") if rule == EMPTY_RULE else rule for rule in given]
    notes = [say("method_ci"), say("method_mean", rule=" / ".join(rules))]
    if len(rows) > 1:
        compared = sum(row.difference is not None for row in rows)
        notes += [say("method_test", m=compared, alpha=ALPHA), say("method_baseline", baseline=rows[0].variant)]
    return Section("method", say("method"), [*notes, say("method_hours")])


def _costs(runs: Sequence[Collected]) -> list[Cell]:
    """Hours, GPU hours, images/s: sums, and the median of the runs."""
    costs = [run.cost for run in runs if run.cost]
    rates = [run.images_per_s for run in runs if run.images_per_s is not None]
    hours = math.fsum(one.hours for one in costs) if costs else None
    gpu_hours = math.fsum(one.gpu_hours for one in costs) if costs else None
    return [
        _number(hours, ".2f"),
        _number(gpu_hours, ".2f"),
        _number(statistics.median(rates) if rates else None, ".1f"),
    ]


def _mean(found: Summary) -> str:
    return f"{_with_ci(found).text}, n = {found.n}"


def _word(text: str) -> Cell:
    return Cell(text, text)


def _number(value: float | None, form: str = ".4f") -> Cell:
    return Cell("", "") if value is None or math.isnan(value) else Cell(format(value, form), value)


def _with_ci(found: Summary, more: str = "", sign: str = "") -> Cell:
    interval = "" if math.isnan(found.ci_low) else f" [{found.ci_low:{sign}.3f}, {found.ci_high:{sign}.3f}]"
    return Cell(f"{found.mean:{sign}.4f}{interval}{more}", found.mean)
