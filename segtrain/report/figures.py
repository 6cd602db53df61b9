"""Figures as inline SVG: small, sharp in print, shown without a script. All text in them is escaped."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from segtrain.evaluation.bars import Bar, Mark, bar_chart
from segtrain.evaluation.svg import PALE, WIDTH, Figure, axis_x, line, svg, text
from segtrain.report.epochs import Point

# Okabe and Ito, "Color Universal Design", 2008, without the yellow, which is hard to see on white paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREYS = ("#cccccc", "#808080", "#000000")
DASHES = ("none", "7 3", "2 3")
RIGHT, LINE = 12, 20  # units of the view box: margin, from line to line of text


@dataclass(frozen=True)
class Series:
    """A line of a figure; `place` selects its colour and dashes."""

    label: str
    points: Sequence[Point]
    place: int
    thin: bool = False  # one of several runs behind their mean: no label


@dataclass(frozen=True)
class Interval:
    """A row of a forest plot."""

    label: str
    mean: float
    low: float
    high: float
    note: str
    place: int


@dataclass(frozen=True)
class Strip:
    """A row of a strip plot: a variant's DSC of every patient, and their mean."""

    label: str
    patients: Mapping[str, float]
    mean: float
    place: int


def colour(place: int) -> str:
    """The colour of the variant at this place."""
    return PALETTE[place % len(PALETTE)]


def dashes(place: int) -> str:
    """The dashes of the variant at this place: they tell lines apart where the palette's colours repeat."""
    return DASHES[(place // len(PALETTE) if place >= len(PALETTE) else place) % len(DASHES)]


def lines(title: str, series: Sequence[Series], x_label: str, unit: bool = False) -> Figure:
    """Curves over epochs; with `unit` the axis is 0 to 1."""
    points = [point for curve in series for point in curve.points]
    if not points:
        return Figure(title, Markup(""))
    top, bottom, left = 10, 250, 46
    first, last = min(point[0] for point in points), max(point[0] for point in points)
    x = _scale(first, last, left, WIDTH - RIGHT)
    low, high = (0.0, 1.0) if unit else _padded([point[1] for point in points])
    y = _scale(low, high, bottom, top)
    parts = list(_axis_y(y, low, high, left, WIDTH - RIGHT))
    parts += [text(x(tick), bottom + 16, f"{tick:g}", "middle") for tick in _ticks(first, last, whole=True)]
    parts.append(text((left + WIDTH) / 2, bottom + 34, x_label, "middle"))
    for curve in sorted(series, key=lambda curve: not curve.thin):  # thin lines lie behind the others
        parts += _curve(curve, x, y)
    height = bottom + 50
    labelled = [curve for curve in series if not curve.thin]
    for row, curve in enumerate(labelled):
        at = height + row * LINE
        parts.append(line(left, at - 4, left + 32, at - 4, colour(curve.place), 2.2, dashes(curve.place)))
        parts.append(text(left + 40, at, curve.label))
    return svg(title, height + len(labelled) * LINE - 8, parts)


def _curve(curve: Series, x: Callable[[float], float], y: Callable[[float], float]) -> Iterator[Markup]:
    width, opacity, dash = (1, 0.4, "none") if curve.thin else (2.2, 1, dashes(curve.place))
    path = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in curve.points)
    form = '<polyline points="{}" fill="none" stroke="{}" stroke-width="{}" opacity="{}" stroke-dasharray="{}"/>'
    yield Markup(form).format(path, colour(curve.place), width, opacity, dash)
    if len(curve.points) == 1:  # a polyline of one point is invisible
        yield Markup('<circle cx="{}" cy="{}" r="4" fill="{}"/>').format(*path.split(","), colour(curve.place))


def forest(title: str, rows: Sequence[Interval], x_label: str) -> Figure:
    """Differences to the baseline with their intervals, around the line of no difference."""
    ends = [value for row in rows for value in (row.low, row.high, row.mean, 0.0) if not math.isnan(value)]
    low, high = _padded(ends)
    left, step, top = 10, 46, 8
    x = _scale(low, high, left, WIDTH - RIGHT)
    bottom = top + step * len(rows)
    parts = [line(x(tick), top, x(tick), bottom, PALE) for tick in _ticks(low, high)]
    parts += [text(x(tick), bottom + 16, f"{tick:+g}" if tick else "0", "middle") for tick in _ticks(low, high)]
    parts.append(line(x(0), top, x(0), bottom, "#000", 1.5))
    parts.append(text(min(max(x(0), 130), WIDTH - 130), bottom + 34, x_label, "middle"))
    square = Markup('<rect x="{:.1f}" y="{}" width="9" height="9" fill="{}"/>')
    for number, row in enumerate(rows):
        at = top + step * number + 34
        parts.append(text(left, at - 17, f"{row.label}: {row.note}"))
        if not math.isnan(row.low):
            parts.append(line(x(row.low), at, x(row.high), at, colour(row.place), 3))
        parts.append(square.format(x(row.mean) - 4.5, at - 4.5, colour(row.place)))
    return svg(title, bottom + 42, parts)


def strip(title: str, variants: Sequence[Strip], x_label: str) -> Figure:
    """Every patient's DSC, a row per variant, with a bar at the mean; pointing at a circle shows the patient's name."""
    left, step, top = 10, 46, 8
    x = _scale(0, 1, left + 8, WIDTH - RIGHT - 8)
    bottom = top + step * len(variants)
    parts = list(axis_x(x, top, bottom, x_label))
    circle = Markup('<circle cx="{:.1f}" cy="{}" r="4.5" fill="{}" fill-opacity=".55"><title>{}</title></circle>')
    for row, variant in enumerate(variants):
        at = top + step * row + 32
        parts.append(text(left, at - 14, variant.label))
        for number, (patient, dsc) in enumerate(sorted(variant.patients.items())):
            height = at + (number % 3 - 1) * 5  # three heights, so that fewer circles overlap
            parts.append(circle.format(x(dsc), height, colour(variant.place), f"{patient} {dsc:.3f}"))
        parts.append(line(x(variant.mean), at - 11, x(variant.mean), at + 11, "#000", 2.5))
    return svg(title, bottom + 42, parts)


def bars(title: str, patients: Mapping[str, float], mean: tuple[str, float], median: tuple[str, float]) -> Figure:
    """A bar a patient, with lines at the mean and the median, given as label and value."""
    marks = [Mark(*mean, colour(1)), Mark(*median, colour(2), "5 3")]
    return bar_chart(title, [Bar(patient, dsc) for patient, dsc in patients.items()], marks)


def profile(counts: Sequence[tuple[int, int, int, int]], by_region: bool = False) -> Markup:
    """A bar per slice with its voxels: correct grey, false positive orange, missed blue; of several regions all grey.

    `counts`: a slice's number, true positives, false positives, false negatives.
    """
    fills = GREYS if by_region else ("#8a8a8a", PALETTE[4], PALETTE[0])  # the regions have these colours
    most = max(sum(of_slice[1:]) for of_slice in counts) or 1
    parts = []
    for place, of_slice in enumerate(counts):
        top = 30.0
        for value, fill in zip(of_slice[1:], fills, strict=True):
            height = 30 * value / most
            top -= height
            if value:
                form = '<rect x="{}" y="{:.2f}" width="9" height="{:.2f}" fill="{}"/>'
                parts.append(Markup(form).format(10 * place, top, height, fill))
    opening = Markup('<svg class="profile" viewBox="0 0 {} 30" preserveAspectRatio="none" aria-hidden="true">')
    return opening.format(10 * len(counts)) + Markup("").join(parts) + Markup("</svg>")


def _axis_y(y: Callable[[float], float], low: float, high: float, left: float, right: float) -> Iterator[Markup]:
    for tick in _ticks(low, high):
        yield line(left, y(tick), right, y(tick), PALE)
        yield text(left - 6, y(tick) + 4, f"{tick:g}", "end")


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round values from `low` to `high`."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 7)
    step = max(1.0, step) if whole else step
    return [round(k * step, 10) + 0.0 for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
