"""A report over runs of several measurements or with a confirmation: a part for each, and all across image sizes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from segtrain.report import content, page
from segtrain.report.atlas import Atlas
from segtrain.report.collect import Collected
from segtrain.report.content import Section
from segtrain.report.measurement import GEOMETRY, SIZE, SPACING, Comparable, comparables
from segtrain.report.scored import LAST, command
from segtrain.report.source_geometry import in_source_geometry
from segtrain.report.statistics import Row
from segtrain.report.tables import Table, number, variants_table, word
from segtrain.report.texts import Say
from segtrain.report.variants import by_variant, compared
from segtrain.runtime.cells import csv_text, read_csv

Groups = Mapping[str, Sequence[Collected]]
ONCE = ("method", "atlas", "pictures")  # sections that a page has once, at its end
NAMED = 3  # runs that a warning names


@dataclass(frozen=True)
class Part:
    """The runs of one measurement, or of a confirmation, those that count by variant, and their comparison."""

    of: Comparable
    groups: Groups
    rows: Sequence[Row]


def parts(runs: Sequence[Collected], baseline: str | None) -> list[Part]:
    """The runs by measurement. Raises RunError: the named baseline has no run that counts, or runs are doubled."""
    if baseline is not None:
        by_variant(runs, baseline)  # refuses a baseline that is nowhere
    measured = []
    for one in comparables(runs):
        has_it = any(run.counts and run.variant == baseline for run in one.runs)
        first, groups = by_variant(one.runs, baseline if has_it else None)
        measured.append(Part(one, groups, compared(groups, first) if groups else []))
    return measured


def sections(several: Sequence[Part], say: Say, atlases: Sequence[Atlas] = ()) -> list[Section]:
    """The whole report: what is told apart, then part by part, then what the page has once."""
    result = [_overview(several, say)]
    if section := _across(several, say):
        result.append(section)
    ends: dict[str, Section] = {}
    for place, part in enumerate(several, start=1):
        names = {run.name for run in part.of.runs}
        own = [atlas for atlas in atlases if atlas.run in names]
        for section in content.sections(part.of.runs, part.groups, part.rows, say, own):
            if section.name not in ONCE:
                result.append(_numbered(section, part.of.title, place))
            elif section.name in ends:
                ends[section.name] = _joined(ends[section.name], section)
            else:
                ends[section.name] = section
    return [*result, *(ends[name] for name in ONCE if name in ends)]


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


def _across(several: Sequence[Part], say: Say) -> Section | None:
    """The comparison across image sizes, in the source's geometry; None where no two parts differ in these alone."""
    clusters: list[list[Part]] = []
    for part in several:
        if part.of.counts and part.of.measurement:
            cluster = next((cluster for cluster in clusters if _differ_in_geometry(cluster, part)), None)
            if cluster is None:
                clusters.append([part])
            else:
                cluster.append(part)
    clusters = [cluster for cluster in clusters if len(cluster) > 1]
    if not clusters:
        return None
    notes, warnings, tables = [say("across_why"), say("across_worth")], [], []
    for place, cluster in enumerate(clusters, start=1):
        groups, missing = _groups_across(cluster)
        if missing:
            names = ", ".join(run.name for run in missing[:NAMED]) + (" ..." if len(missing) > NAMED else "")
            line = command(missing[0], LAST)
            warnings.append(say("across_missing", n=len(missing), runs=names, command=line, folder=LAST))
        if len(groups) > 1:
            table = variants_table(groups, compared(groups, next(iter(groups))), say)
            tables.append(replace(_without(table, say("best_mean")), name=f"across-{place}"))
    return Section("across", say("across"), notes, warnings, tables)


def _differ_in_geometry(cluster: Sequence[Part], part: Part) -> bool:
    """Whether a part is of the cluster's data and rules, in other pixels than each of it."""
    new = part.of.measurement
    assert new is not None, "those without one are in no cluster"
    for one in cluster:
        mine = one.of.measurement
        assert mine is not None, "as above"
        same_data = not (mine.data and new.data) or mine.data == new.data
        same_pixels = all(mine.settings[key] == new.settings[key] for key in GEOMETRY)
        both = (one.of.confirmation is None) == (part.of.confirmation is None)
        if mine.without_geometry() != new.without_geometry() or not same_data or same_pixels or not both:
            return False
    return True


def _groups_across(cluster: Sequence[Part]) -> tuple[dict[str, list[Collected]], list[Collected]]:
    """The runs by variant and size, with scores in the source's geometry, and those that have none yet."""
    groups: dict[str, list[Collected]] = {}
    missing = []
    for part in cluster:
        assert part.of.measurement is not None, "those without one are in no cluster"
        settings = part.of.measurement.settings
        size = f"{settings[SIZE]} px" + ("" if settings[SPACING] == "None" else f" of {settings[SPACING]} mm")
        for variant, runs in part.groups.items():
            for run in runs:
                if scored := in_source_geometry(run):
                    name = f"{variant} ({size})"
                    groups.setdefault(name, []).append(replace(scored, variant=name))
                else:
                    missing.append(run)
    return groups, missing


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
