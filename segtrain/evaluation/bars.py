"""Patients' DSC as bars, with lines at mean and median: as SVG in reports, in pixels beside predictions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from segtrain.data.people import groups_of, values_by_person
from segtrain.evaluation.lettering import width as letters_width
from segtrain.evaluation.metrics import EMPTY_RULE, Summary, summarise
from segtrain.evaluation.overlays import REGION_COLOURS, Picture
from segtrain.evaluation.svg import WIDTH, Figure, axis_x, line, pixels, svg, text

LINE = 20  # units from bar to bar
MARGIN, LETTER, LONGEST = 12, 8, 26  # of a patient's name: beside it, a letter's mean width, letters
BLUE, GREY, RED, GREEN = "#56B4E9", "#b9b9b9", "#d62828", "#188c3c"


@dataclass(frozen=True)
class Bar:
    """`seen`: the patient was trained on; the bar is grey. `region`: of several."""

    patient: str
    dsc: float
    seen: bool = False
    region: str = ""


def bars_of(rows: Iterable[Mapping[str, Any]]) -> list[Bar]:
    """Of the rows of a table of scores, by patient and region; one without a DSC has none."""
    return [
        Bar(row["patient"], row["dsc"], row["trained_on"] == "yes", row.get("region", ""))
        for row in rows
        if row["dsc"] is not None
    ]


def means_of(bars: Iterable[Bar], people: Mapping[str, str]) -> dict[str, Summary]:
    """Each region's mean over people, without what was trained on; none of a region in which nobody is left."""
    unseen: dict[str, dict[str, float]] = {}
    for bar in bars:
        if not bar.seen:
            unseen.setdefault(bar.region, {})[bar.patient] = bar.dsc
    return {region: summarise(values_by_person(values, people)) for region, values in unseen.items()}


def mean_over(means: Mapping[str, Summary]) -> float:
    """The mean over these regions."""
    return sum(summary.mean for summary in means.values()) / len(means)


@dataclass(frozen=True)
class Mark:
    """A line through all bars, and its label below them."""

    label: str
    value: float
    colour: str
    dash: str = "none"


def bar_chart(
    title: str,
    bars: Sequence[Bar],
    marks: Sequence[Mark],
    notes: Sequence[str] = (),
    width: float = WIDTH,
    colour: str = BLUE,
) -> Figure:
    """A bar for each patient, worst first; notes are lines of text below."""
    names = [_short(bar.patient) for bar in bars]
    # Capitals may be wider than a letter is on average.
    left = MARGIN + max(LETTER * max(map(len, names)), *map(letters_width, names))
    right = width - 46
    top = 6
    bottom = top + LINE * len(bars)

    def x(value: float) -> float:
        return left + value * (right - left)

    parts = list(axis_x(x, top, bottom, "DSC"))
    for place, bar in enumerate(sorted(bars, key=lambda bar: (bar.dsc, bar.patient))):
        y = top + LINE * place
        box = Markup('<rect x="{}" y="{}" width="{:.1f}" height="14" fill="{}"/>')
        parts += [
            text(left - 6, y + 14, _short(bar.patient), "end"),
            box.format(left, y + 3, x(bar.dsc) - left, GREY if bar.seen else colour),
            text(right + 6, y + 14, f"{bar.dsc:.3f}"),
        ]
    y = bottom + 56
    for mark in marks:
        parts += [
            line(x(mark.value), top, x(mark.value), bottom, mark.colour, 2, mark.dash),
            line(left, y - 4, left + 30, y - 4, mark.colour, 2, mark.dash),
            text(left + 38, y, mark.label),
        ]
        y += LINE
    for note in notes:
        parts.append(text(MARGIN, y, note))
        y += LINE
    return svg(title, y - 12, parts, width)


def chart(bars: Sequence[Bar], title: str, rule: str = EMPTY_RULE, people: Mapping[str, str] | None = None) -> Picture:
    """uint8 [height, width, 3]: the bars, of several regions below each other.

    Mean and median are over people, and without the patients that were trained on. `rule` says what a patient without
    lesion scores.
    """
    people = people or {}
    regions = list(dict.fromkeys(bar.region for bar in bars))
    means = means_of(bars, people)
    notes = [f"{title}: DSC of the whole volume, as delivered", rule]
    if any(bar.seen for bar in bars):
        notes.insert(1, "grey: trained on, not in mean and median")
    if several := _of_several(bars, people):
        notes.insert(1, several)
    if len(regions) == 1:
        return pixels(_bars_of(bars, means.get(regions[0]), "", BLUE, notes))
    if len(means) == len(regions):
        parts = ", ".join(f"{region} {means[region].mean:.4f}" for region in regions)
        notes.insert(0, f"mean over regions {mean_over(means):.4f} ({parts})")
    figures = [
        _bars_of(
            [bar for bar in bars if bar.region == region],
            means.get(region),
            region,
            "#{:02x}{:02x}{:02x}".format(*REGION_COLOURS[number]),
            notes if region == regions[-1] else (),
        )
        for number, region in enumerate(regions)
    ]
    return np.concatenate([pixels(figure) for figure in figures])


def _bars_of(bars: Sequence[Bar], summary: Summary | None, region: str, colour: str, notes: Sequence[str]) -> Figure:
    """The bars of one region, with lines at their mean and median."""
    marks = []
    if summary:
        name = f"{region}: " if region else ""
        marks = [Mark(f"{name}mean {summary}", summary.mean, RED), Mark("median", summary.median, GREEN)]
    return bar_chart(region, bars, marks, notes, width=900, colour=colour)


def _of_several(bars: Sequence[Bar], people: Mapping[str, str]) -> str:
    """How many people the patients are, where some are scans of one person."""
    patients = {bar.patient for bar in bars if not bar.seen}
    persons = len(groups_of(patients, people))
    people_text = f"{persons} people, who count once each" if persons > 1 else "1 person, who counts once"
    return f"{len(patients)} patients of {people_text}" if persons < len(patients) else ""


def _short(name: str) -> str:
    """A name that fits; both ends of a long one tell it from others."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"
