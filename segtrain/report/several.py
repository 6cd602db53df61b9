"""A report over runs of several measurements or with a confirmation: a part for each, and all across image sizes."""

import io
from collections.abc import Sequence
from dataclasses import replace

from segtrain.report import content, page
from segtrain.report.across import Across, Part, across_sizes, corrected_together
from segtrain.report.atlas import Atlas
from segtrain.report.collect import Collected
from segtrain.report.content import Place, Section
from segtrain.report.measurement import comparables
from segtrain.report.scored import LAST, command
from segtrain.report.statistics import lines_of
from segtrain.report.tables import Table, number, variants_table, word
from segtrain.report.texts import Say, first_names
from segtrain.report.variants import by_variant, compared
from segtrain.runtime.cells import csv_text, read_csv

ONCE = ("method", "atlas", "pictures")  # sections that a page has once, at its end


def parts(runs: Sequence[Collected], baseline: str | None) -> tuple[list[Part], list[Across]]:
    """The runs by measurement, and what is compared across them; p is corrected over all but each confirmation's.

    Raises RunError: the named baseline has no run that counts, or runs are doubled.
    """
    if baseline is not None:
        by_variant(runs, baseline)  # refuses a baseline that is nowhere
    measured = []
    for one in comparables(runs):
        has_it = any(run.counts and run.variant == baseline for run in one.runs)
        first, groups = by_variant(one.runs, baseline if has_it else None)
        measured.append(Part(one, groups, compared(groups, first) if groups else []))
    return corrected_together(measured, across_sizes(measured))


def sections(
    several: Sequence[Part], across: Sequence[Across], say: Say, atlases: Sequence[Atlas] = ()
) -> list[Section]:
    """The whole report: what is told apart, then part by part, then what the page has once."""
    result = [_overview(several, say)]
    if section := _across(across, say):
        result.append(section)
    ends: dict[str, Section] = {}
    before = 0  # atlases of the parts before, with which one numbers them on the page
    for place, part in enumerate(several, start=1):
        names = {run.name for run in part.of.runs}
        own = [atlas for atlas in atlases if atlas.run in names]
        at = Place(before, _corrected_over(part, several, across, say))
        before += sum(bool(atlas.cards) for atlas in own)
        for section in content.sections(part.of.runs, part.groups, part.rows, say, own, at):
            if section.name not in ONCE:
                result.append(_numbered(section, part.of.title, place))
            elif section.name in ends:
                ends[section.name] = _joined(ends[section.name], section)
            else:
                ends[section.name] = section
    return [*result, *(ends[name] for name in ONCE if name in ends)]


def _corrected_over(part: Part, several: Sequence[Part], across: Sequence[Across], say: Say) -> str:
    """What Holm's correction is over in a part."""
    if part.of.confirmation:
        return say("over_confirmation", n=_comparisons([part]), part=part.of.title)
    n = _comparisons([*(one for one in several if not one.of.confirmation), *across])
    return say("over_parts_but" if any(one.of.confirmation for one in several) else "over_parts", n=n)


def _comparisons(every: Sequence[Part | Across]) -> int:
    return sum(line.difference is not None for one in every for line in lines_of(one.rows))


def _numbered(section: Section, title: str, place: int) -> Section:
    """A part's section; names are those of elements of the page and of files."""
    return replace(
        section,
        name=f"{section.name}-{place}",
        part=title,
        tables=[replace(table, name=f"{table.name}-{place}") for table in section.tables],
        figures={f"{name}-{place}": figure for name, figure in section.figures.items()},
    )


def _joined(one: Section, other: Section) -> Section:
    return replace(
        one,
        notes=list(dict.fromkeys([*one.notes, *other.notes])),
        warnings=list(dict.fromkeys([*one.warnings, *other.warnings])),
        pictures=[*one.pictures, *other.pictures],
        atlases=[*one.atlases, *other.atlases],
    )


def _overview(several: Sequence[Part], say: Say) -> Section:
    """What is told apart, a line a part."""
    lines = [
        [
            word(part.of.title),
            number(len(part.of.runs), "d"),
            number(sum(run.counts for run in part.of.runs), "d"),
            word(", ".join(part.groups)),
        ]
        for part in several
    ]
    heads = [say("measurement"), say("runs"), say("finished"), say("variant")]
    measured = len({part.of.measured for part in several})
    notes = [say("measurements_why", n=measured)] if measured > 1 else []
    if names := [str(part.of.confirmation) for part in several if part.of.confirmation]:
        notes.append(say("confirmations_apart", folders=", ".join(dict.fromkeys(names))))
    return Section("measurements", say("measurements"), notes, tables=[Table("measurements", heads, lines)])


def _across(across: Sequence[Across], say: Say) -> Section | None:
    """The comparisons across image sizes, in the source's geometry; None where no two parts differ in these alone."""
    if not across:
        return None
    notes, warnings, tables = [say("across_why"), say("across_worth")], [], []
    for place, one in enumerate(across, start=1):
        if one.missing:
            names = first_names([run.name for run in one.missing])
            line = command(one.missing[0], LAST)
            warnings.append(say("across_missing", n=len(one.missing), runs=names, command=line, folder=LAST))
        if one.rows:
            table = variants_table(one.groups, one.rows, say)
            tables.append(replace(_without(table, say("best_mean")), name=f"across-{place}"))
    return Section("across", say("across"), notes, warnings, tables)


def _without(table: Table, head: str) -> Table:
    """Without a column: the best epoch has no scores in the source's geometry."""
    places = [place for place, name in enumerate(table.heads) if name != head]
    rows = [[row[place] for place in places] for row in table.rows]
    return Table(table.name, [table.heads[place] for place in places], rows)


def results(several: Sequence[Part]) -> str:
    """results.csv, with a column of the measurement."""
    lines = [
        {"variant": line["variant"], "measurement": part.of.title, **line}
        for part in several
        for line in read_csv(io.StringIO(page.results(part.rows, part.groups)))
    ]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    return csv_text([{name: line.get(name, "") for name in columns} for line in lines], columns)
