"""The sections of a report, before they are a page or a Markdown file."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from segtrain.evaluation.svg import Figure
from segtrain.report import confirmation, evidence, figures, method
from segtrain.report.atlas import Atlas
from segtrain.report.collect import Collected
from segtrain.report.epochs import Curves, Point
from segtrain.report.figures import Interval, Series, Strip
from segtrain.report.further import further_scores
from segtrain.report.headline import headline
from segtrain.report.postprocessing import postprocessing_table
from segtrain.report.statistics import Row, lines_of
from segtrain.report.tables import (
    Table,
    dropped_table,
    mean_text,
    patients_of_run,
    patients_of_variants,
    region_name,
    runs_table,
    short_verdict,
    variants_table,
)
from segtrain.report.texts import Say
from segtrain.report.trained import trained_tables
from segtrain.report.variants import best_variant, mean_of_variant

CurveName = Literal["loss", "val_loss", "val_dsc"]


@dataclass(frozen=True)
class Section:
    """A heading and everything below it, in this order on the page; figures by their names.

    `cautions` and `remarks` are warnings and notes on what the tables and figures above them show.
    """

    name: str
    title: str
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    pictures: Sequence[Collected] = ()
    atlases: Sequence[Atlas] = ()
    headline: str = ""  # the main finding in words; above everything else
    cautions: Sequence[str] = ()
    remarks: Sequence[str] = ()
    part: str = ""  # of a report over several measurements, the one that it is of

    @property
    def heading(self) -> str:
        """The title, with that of its part."""
        return f"{self.part}: {self.title}" if self.part else self.title


@dataclass(frozen=True)
class Place:
    """Where the sections of a part stand in a page of several.

    atlases: how many of the parts before are on the page; over: what Holm's correction is over, in words.
    """

    atlases: int = 0
    over: str = ""


ALONE = Place()


def sections(
    runs: Sequence[Collected],
    groups: Mapping[str, Sequence[Collected]],
    rows: Sequence[Row],
    say: Say,
    atlases: Sequence[Atlas] = (),
    place: Place = ALONE,
) -> list[Section]:
    """The whole report. `groups` and `rows` hold the runs that count, by variant, the baseline first."""
    parts = [_result(runs, groups, rows, say)]
    if tables := trained_tables(runs, say):
        parts.append(Section("trained", say("trained"), [say("trained_notes")], tables=tables))
    if groups:
        parts.append(_patients(groups, _links([atlas for atlas in atlases if atlas.cards], place.atlases), say))
    further = further_scores(groups, say)
    if further.tables or further.warnings:
        parts.append(Section("further", say("further"), [say("further_how")], further.warnings, further.tables))
    parts.append(_curves(runs, groups, say))
    if dropped := [run for run in runs if not run.counts]:
        parts.append(Section("dropped", say("dropped"), tables=[dropped_table(dropped, say)]))
    parts.append(Section("runs", say("runs"), tables=[runs_table(runs, say)]))
    if postprocessing := postprocessing_table(runs, say):
        parts.append(
            Section("postprocessing", say("postprocessing"), [say("postprocessing_how")], tables=[postprocessing])
        )
    if table := evidence.table(lines_of(rows), say):
        parts.append(Section("evidence", say("evidence"), tables=[table]))
    parts.append(Section("method", say("method"), list(method.notes(runs, rows, say, place.over))))
    if atlases:
        parts.append(_atlas(atlases, say))
    parts.append(Section("pictures", say("pictures"), pictures=[run for run in runs if run.last]))
    return parts


def _result(
    runs: Sequence[Collected], groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], say: Say
) -> Section:
    notes = list(_overview(runs, rows, say))
    warnings = []
    if any(run.config is not None and run.config.data.source == "phantom" for run in runs):
        warnings.append(say("phantom"))
    if misnamed := [run.name for run in runs if run.misnamed]:
        warnings.append(say("misnamed", runs=", ".join(misnamed)))
    records = confirmation.records_of(runs)
    warnings += confirmation.warnings(runs, records, say)
    if not rows:
        return Section("result", say("result"), notes, [*warnings, say("nothing")])
    notes.append(say("chosen_epoch"))
    drawings = {}
    lines = lines_of(rows)
    best = None if confirmation.is_confirmation(records) else best_variant(groups)
    notes += evidence.notes(lines, best, say)
    cautions = [*confirmation.cautions(records, groups, best, rows[0].variant, say), *evidence.warnings(lines, say)]
    if any(row.difference for row in lines):
        notes += evidence.counts(lines, say)
        title = say("forest", baseline=rows[0].variant)
        worse, better = (say(key, baseline=rows[0].variant) for key in ("forest_worse", "forest_better"))
        drawings["forest"] = figures.forest(title, list(_intervals(rows, say)), worse, better)
    return Section(
        "result",
        say("result"),
        headline=headline(rows, say),
        notes=list(confirmation.notes(runs, records, say)),
        warnings=warnings,
        tables=[variants_table(groups, rows, say)],
        figures=drawings,
        cautions=cautions,
        remarks=notes,
    )


def _overview(runs: Sequence[Collected], rows: Sequence[Row], say: Say) -> Iterator[str]:
    counted = [run for run in runs if run.counts]
    patients = {patient for run in counted if run.last for patient in run.last.by_patient}
    yield say(
        "overview",
        runs=len(runs),
        counted=len(counted),
        waiting=sum(run.state == "none" for run in runs),
        variants=len(rows),
        patients=len(patients),
    )
    people = {runs[0].people.get(patient, patient) for patient in patients}
    if len(people) < len(patients):
        yield say("people", people=len(people), patients=len(patients))


def _intervals(rows: Sequence[Row], say: Say) -> Iterator[Interval]:
    places = {row.variant: place for place, row in enumerate(rows)}
    for line in lines_of(rows):
        if line.difference:
            summary = line.difference.summary
            label = " · ".join(filter(None, (region_name(line, say), line.variant)))
            note, place = short_verdict(line, say), places[line.variant]
            yield Interval(label, summary.mean, summary.ci_low, summary.ci_high, note, place)


def _patients(groups: Mapping[str, Sequence[Collected]], links: Mapping[str, str], say: Say) -> Section:
    """Every patient, worst first: of one run with its voxels, of several variants side by side; with links."""
    regions = ["", *dict.fromkeys(region for runs in groups.values() for region in runs[0].regions)]
    drawings = {}
    for number, region in enumerate(regions):
        kind, figure = _patients_figure({v: runs for v, runs in groups.items() if _has(runs, region)}, region, say)
        drawings[f"{kind}_region{number}" if number else kind] = figure
    first = next(iter(groups.values()))[0]
    if len(groups) == len(next(iter(groups.values()))) == 1 and first.best and first.last:
        table = patients_of_run(first.best, first.last, first.people, links, say)
    else:
        means = {
            variant: {region: mean_of_variant(runs, "last", region)[0] for region in ("", *runs[0].regions)}
            for variant, runs in groups.items()
        }
        table = patients_of_variants(means, first.people, links, say)
    return Section("patients", say("patients"), tables=[table], figures=drawings)


def _has(runs: Sequence[Collected], region: str) -> bool:
    return not region or region in runs[0].regions


def _patients_figure(groups: Mapping[str, Sequence[Collected]], region: str, say: Say) -> tuple[str, Figure]:
    """Every patient's DSC in a region or over all: bars of one variant, strips of several; the kind and the figure."""
    means = {variant: mean_of_variant(runs, "last", region) for variant, runs in groups.items()}
    several = any(runs[0].regions for runs in groups.values())
    of_region = f"{region or say('mean_of_regions')}: " if several else ""
    if len(groups) > 1:
        strips = [
            Strip(
                f"{variant}: {mean_text(summary, len(by_patient), say)}",
                by_patient,
                summary.mean,
                place,
                summary.ci_low,
                summary.ci_high,
            )
            for place, (variant, (by_patient, summary)) in enumerate(means.items())
        ]
        return "strip", figures.strip(of_region + say("strip"), strips, "DSC")
    ((by_patient, summary),) = means.values()
    mean = (f"{say('mean')} {mean_text(summary, len(by_patient), say)}", summary.mean)
    median = (f"{say('median')} {summary.median:.4f}", summary.median)
    return "bars", figures.bars(of_region + say("bars"), by_patient, mean, median)


def _links(atlases: Sequence[Atlas], first: int) -> dict[str, str]:
    """The id of each patient's place in the first atlas that has it; `first`: the number of the first of these."""
    links: dict[str, str] = {}
    for number, atlas in enumerate(atlases, start=first):
        for place, card in enumerate(atlas.cards):
            links.setdefault(card.patient, f"atlas-{number}-{place}")
    return links


def _atlas(atlases: Sequence[Atlas], say: Say) -> Section:
    warnings, notes = [], []
    for atlas in atlases:
        if atlas.reason:
            warnings.append(say("no_atlas", run=atlas.run, reason=atlas.reason))
            continue
        note = say(
            f"atlas_of_{atlas.sort}", run=atlas.run, epoch=atlas.epoch, checkpoint=atlas.checkpoint, n=len(atlas.cards)
        )
        notes.append(note if atlas.differ else f"{note} {say('atlas_same')}")
        if atlas.differ:
            warnings.append(say("atlas_differs", run=atlas.run, patients=", ".join(atlas.differ)))
        if atlas.unshown:
            contrasts = ", ".join(atlas.unshown)
            notes.append(say("atlas_unshown", run=atlas.run, shown=atlas.shown, contrasts=contrasts))
        if atlas.left_out:
            warnings.append(say(f"atlas_left_out_{atlas.sort}", run=atlas.run, n=atlas.left_out))
    if notes:
        notes.append(say("atlas_how"))
    return Section("atlas", say("atlas"), notes, warnings, atlases=[atlas for atlas in atlases if atlas.cards])


def _curves(runs: Sequence[Collected], first: Iterable[str], say: Say) -> Section:
    with_curves = [(run.variant, run.curves) for run in runs if run.curves]
    if len(with_curves) == 1:
        return _curves_of_run(with_curves[0][1], say)
    names: tuple[CurveName, ...] = ("val_dsc", "val_loss", "loss") if with_curves else ()
    variants = list(dict.fromkeys([*first, *(variant for variant, _ in with_curves)]))  # colours as elsewhere
    regions = list(dict.fromkeys(region for _, curves in with_curves for region in curves.by_region))
    drawings: dict[str, Figure] = {}
    for name in names:
        own = [(variant, getattr(curves, name)) for variant, curves in with_curves]
        title = f"{say('mean_of_regions')}: {say(name)}" if regions and name == "val_dsc" else say(name)
        drawings[name] = figures.lines(title, list(_series(own, variants)), say("epoch"), unit=name == "val_dsc")
        for number, region in enumerate(regions if name == "val_dsc" else (), start=1):
            own = [(variant, curves.by_region[region]) for variant, curves in with_curves if region in curves.by_region]
            title = f"{region}: {say(name)}"
            series = list(_series(own, variants))
            drawings[f"{name}_region{number}"] = figures.lines(title, series, say("epoch"), unit=True)
    return Section("curves", say("curves"), [say("thin"), say("loss_mixtures")], figures=drawings)


def _curves_of_run(curves: Curves, say: Say) -> Section:
    """The losses of training and validation in one figure; the DSC with that of each region."""
    training = Series(say("of_training"), curves.loss, 0)
    validation = Series(say("of_validation"), curves.val_loss, 1)
    dsc = [Series(say("mean_of_regions" if curves.by_region else "of_validation"), curves.val_dsc, 1)]
    dsc += [Series(region, points, place) for place, (region, points) in enumerate(curves.by_region.items(), start=2)]
    drawings = {
        "losses": figures.lines(say("losses"), [training, validation], say("epoch")),
        "val_dsc": figures.lines(say("val_dsc"), dsc, say("epoch"), unit=True),
    }
    return Section("curves", say("curves"), [say("loss_mixtures")], figures=drawings)


def _series(runs: Sequence[tuple[str, Sequence[Point]]], variants: Sequence[str]) -> Iterator[Series]:
    """Each run's curve, and the mean of each variant over the epochs that all its runs have."""
    for place, variant in enumerate(variants):
        curves = [dict(points) for of_variant, points in runs if of_variant == variant]
        if not curves:
            continue
        if len(curves) > 1:
            yield from (Series(variant, list(curve.items()), place, thin=True) for curve in curves)
        common = sorted(set(curves[0]).intersection(*curves))
        mean: list[Point] = [(epoch, statistics.fmean(curve[epoch] for curve in curves)) for epoch in common]
        yield Series(variant, mean, place)
