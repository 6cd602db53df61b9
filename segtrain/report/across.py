"""The parts of a report over several measurements, and the comparisons across them where they differ in size alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from segtrain.report.collect import Collected
from segtrain.report.measurement import GEOMETRY, SIZE, SPACING, Comparable
from segtrain.report.source_geometry import in_source_geometry
from segtrain.report.statistics import Row
from segtrain.report.variants import compared
from segtrain.report.verdicts import Difference, corrected

Groups = Mapping[str, Sequence[Collected]]


@dataclass(frozen=True)
class Part:
    """The runs of one measurement, or of a confirmation, those that count by variant, and their comparison."""

    of: Comparable
    groups: Groups
    rows: Sequence[Row]


@dataclass(frozen=True)
class Across:
    """Runs by variant and size, scored in the source's geometry, and their comparison; those that have no such scores.

    rows: empty where there are no two to be compared.
    """

    groups: Groups
    missing: Sequence[Collected]
    rows: Sequence[Row]


def across_sizes(parts: Sequence[Part]) -> list[Across]:
    """The comparisons of all parts that differ in size alone."""
    clusters: list[list[Part]] = []
    for part in parts:
        if part.of.counts and part.of.measurement:
            cluster = next((cluster for cluster in clusters if _differ_in_geometry(cluster, part)), None)
            if cluster is None:
                clusters.append([part])
            else:
                cluster.append(part)
    return [_across(cluster) for cluster in clusters if len(cluster) > 1]


def _differ_in_geometry(cluster: Sequence[Part], part: Part) -> bool:
    """Whether a part is of the cluster's data and rules, in other pixels than each of it."""
    new = part.of.measurement
    assert new is not None, "those without one are in no cluster"
    for one in cluster:
        mine = one.of.measurement
        assert mine is not None, "as above"
        same_data = not (mine.data and new.data) or mine.data == new.data
        same_pixels = all(mine.settings[key] == new.settings[key] for key in GEOMETRY)
        same_stage = (one.of.confirmation is None) == (part.of.confirmation is None)
        if mine.without_geometry() != new.without_geometry() or not same_data or same_pixels or not same_stage:
            return False
    return True


def _across(cluster: Sequence[Part]) -> Across:
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
    return Across(groups, missing, compared(groups, next(iter(groups))) if len(groups) > 1 else [])


def corrected_together(parts: Sequence[Part], across: Sequence[Across]) -> tuple[list[Part], list[Across]]:
    """With p and verdicts after Holm's correction over all of these.

    The comparison of a confirmation was chosen before, so it is corrected by itself, as in its own report.
    """
    together: list[Part | Across] = [*(part for part in parts if part.of.confirmation is None), *across]
    rows = {id(one): rows for one, rows in zip(together, _corrected([one.rows for one in together]), strict=True)}
    return (
        [replace(part, rows=rows.get(id(part), part.rows)) for part in parts],
        [replace(one, rows=rows[id(one)]) for one in across],
    )


def _corrected(tables: Sequence[Sequence[Row]]) -> list[list[Row]]:
    lines = [line for rows in tables for row in rows for line in row.lines]
    after = iter(corrected([line.difference for line in lines if line.difference]))
    return [[_with_next(row, after) for row in rows] for rows in tables]


def _with_next(line: Row, after: Iterator[Difference]) -> Row:
    """The line with the next of these differences, if it has one, and its parts with those that follow."""
    if line.difference:
        own = next(after)
        line = replace(line, difference=own, verdict=own.verdict)
    return replace(line, parts=[_with_next(part, after) for part in line.parts])
