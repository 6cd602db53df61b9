"""The sections of a report, before they are a page or a Markdown file."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from segtrain.evaluation.metrics import EMPTY_RULE
from segtrain.evaluation.svg import Figure
from segtrain.report import figures
from segtrain.report.atlas import Atlas
from segtrain.report.collect import Collected, Curves, Point
from segtrain.report.figures import Interval, Series
from segtrain.report.statistics import ALPHA, Row, can_find
from segtrain.report.tables import (
    Table,
    dropped_table,
    mean_of_variant,
    mean_text,
    patients_of_run,
    patients_of_variants,
    runs_table,
    variants_table,
    verdict,
)
from segtrain.report.texts import Say

CurveName = Literal["loss", "val_loss", "val_dsc"]


@dataclass(frozen=True)
class Section:
    """A heading and everything below it; figures by their names."""

    name: str
    title: str
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    pictures: Sequence[Collected] = ()
    atlases: Sequence[Atlas] = ()


def sections(
    runs: Sequence[Collected],
    groups: Mapping[str, Sequence[Collected]],
    rows: Sequence[Row],
    say: Say,
    atlases: Sequence[Atlas] = (),
) -> list[Section]:
    """The whole report. `groups` and `rows` hold the runs that count, by variant, the baseline first."""
    parts = [_result(runs, groups, rows, say)]
    if groups:
        parts.append(_patients(groups, [atlas for atlas in atlases if atlas.cards], say))
    parts.append(_curves(runs, groups, say))
    if dropped := [run for run in runs if not run.counts]:
        parts.append(Section("dropped", say("dropped"), tables=[dropped_table(dropped, say)]))
    parts.append(Section("runs", say("runs"), tables=[runs_table(runs, say)]))
    parts.append(_method(runs, rows, say))
    if atlases:
        parts.append(_atlas(atlases, say))
    parts.append(Section("pictures", say("pictures"), pictures=[run for run in runs if run.last]))
    return parts


def _result(
    runs: Sequence[Collected], groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], say: Say
) -> Section:
    notes = [_overview(runs, rows, say)]
    warnings = []
    if any(run.config is not None and run.config.data.source == "phantom" for run in runs):
        warnings.append(say("phantom"))
    if misnamed := [run.name for run in runs if run.misnamed]:
        warnings.append(say("misnamed", runs=", ".join(misnamed)))
    if not rows:
        return Section("result", say("result"), notes, [*warnings, say("nothing")])
    notes.append(say("chosen_epoch"))
    drawings = {}
    if compared := [row for row in rows if row.difference]:
        notes.append(_verdicts(compared, rows[0].variant, say))
        if not can_find(rows):
            warnings.append(say("too_few"))
        intervals = [_interval(place, row, say) for place, row in enumerate(rows) if row.difference]
        title = say("forest", baseline=rows[0].variant)
        drawings["forest"] = figures.forest(title, intervals, say("forest_axis", baseline=rows[0].variant))
    return Section("result", say("result"), notes, warnings, [variants_table(groups, rows, say)], drawings)


def _overview(runs: Sequence[Collected], rows: Sequence[Row], say: Say) -> str:
    counted = [run for run in runs if run.counts]
    return say(
        "overview",
        runs=len(runs),
        counted=len(counted),
        waiting=sum(run.state == "none" for run in runs),
        variants=len(rows),
        patients=len({patient for run in counted if run.last for patient in run.last.by_patient}),
    )


def _verdicts(compared: Sequence[Row], baseline: str, say: Say) -> str:
    better = sum(row.verdict == "better" for row in compared)
    worse = sum(row.verdict == "worse" for row in compared)
    return say("verdicts", baseline=baseline, better=better, worse=worse, rest=len(compared) - better - worse)


def _interval(place: int, row: Row, say: Say) -> Interval:
    assert row.difference
    summary = row.difference.summary
    return Interval(row.variant, summary.mean, summary.ci_low, summary.ci_high, verdict(row, say), place)


def _patients(groups: Mapping[str, Sequence[Collected]], atlases: Sequence[Atlas], say: Say) -> Section:
    """Every patient, worst first: of one run with its voxels, of several variants side by side."""
    means = {variant: mean_of_variant(runs) for variant, runs in groups.items()}
    if len(groups) > 1:
        labelled = {f"{name}: {mean_text(summary)}": by_patient for name, (by_patient, summary) in means.items()}
        drawings = {"strip": figures.strip(say("strip"), labelled, "DSC")}
    else:
        ((by_patient, summary),) = means.values()
        mean = (f"{say('mean')} {mean_text(summary)}", summary.mean)
        median = (f"{say('median')} {summary.median:.4f}", summary.median)
        drawings = {"bars": figures.bars(say("bars"), by_patient, mean, median)}
    links = _links(atlases)
    first = next(iter(groups.values()))
    if len(groups) == len(first) == 1 and first[0].best and first[0].last:
        table = patients_of_run(first[0].best, first[0].last, links, say)
    else:
        table = patients_of_variants({variant: by_patient for variant, (by_patient, _) in means.items()}, links, say)
    return Section("patients", say("patients"), tables=[table], figures=drawings)


def _links(atlases: Sequence[Atlas]) -> dict[str, str]:
    """The id of each patient's place in the first atlas that has it."""
    links: dict[str, str] = {}
    for number, atlas in enumerate(atlases):
        for place, card in enumerate(atlas.cards):
            links.setdefault(card.patient, f"atlas-{number}-{place}")
    return links


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
    with_curves = [(run.variant, run.curves) for run in runs if run.curves]
    if len(with_curves) == 1:
        return _curves_of_run(with_curves[0][1], say)
    names: tuple[CurveName, ...] = ("val_dsc", "val_loss", "loss") if with_curves else ()
    drawings: dict[str, Figure] = {}
    for name in names:
        series = list(_series(with_curves, variants, name))
        drawings[name] = figures.lines(say(name), series, say("epoch"), unit=name == "val_dsc")
    return Section("curves", say("curves"), [say("thin")], figures=drawings)


def _curves_of_run(curves: Curves, say: Say) -> Section:
    """The losses of training and validation in one figure."""
    training = Series(say("of_training"), curves.loss, 0)
    validation = Series(say("of_validation"), curves.val_loss, 1)
    dsc = Series(say("of_validation"), curves.val_dsc, 1)
    drawings = {
        "losses": figures.lines(say("losses"), [training, validation], say("epoch")),
        "val_dsc": figures.lines(say("val_dsc"), [dsc], say("epoch"), unit=True),
    }
    return Section("curves", say("curves"), figures=drawings)


def _series(runs: Sequence[tuple[str, Curves]], first: Iterable[str], name: CurveName) -> Iterator[Series]:
    """Each run's curve, and the mean of each variant over the epochs that all its runs have."""
    variants = dict.fromkeys([*first, *(variant for variant, _ in runs)])  # colours as in the other figures
    for place, variant in enumerate(variants):
        own = [curves for of_variant, curves in runs if of_variant == variant]
        curves: list[dict[float, float]] = [dict(getattr(of_run, name)) for of_run in own]
        if len(curves) > 1:
            yield from (Series(variant, list(curve.items()), place, thin=True) for curve in curves)
        common = sorted(set(curves[0]).intersection(*curves))
        mean: list[Point] = [(epoch, statistics.fmean(curve[epoch] for curve in curves)) for epoch in common]
        yield Series(variant, mean, place)


def _method(runs: Sequence[Collected], rows: Sequence[Row], say: Say) -> Section:
    rules = sorted({run.empty_rule for run in runs if run.empty_rule})
    words = [say("empty_rule") if rule == EMPTY_RULE else rule for rule in rules]
    notes = [say("method_ci"), say("method_mean", rule=" / ".join(words))]
    if len(rows) > 1:
        compared = sum(row.difference is not None for row in rows)
        notes += [say("method_test", m=compared, alpha=ALPHA), say("method_baseline", baseline=rows[0].variant)]
    return Section("method", say("method"), [*notes, say("method_hours")])
