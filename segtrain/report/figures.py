"""Figures as inline SVG: small, sharp in print, shown without a script. All text in them is escaped."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from segtrain.evaluation.bars import Bar, Mark, bar_chart
from segtrain.evaluation.lettering import shortened, width, wrapped
from segtrain.evaluation.svg import PALE, WIDTH, Figure, line, scale, svg, text
from segtrain.report.epochs import Point

# Okabe and Ito, "Color Universal Design", 2008, without the yellow, which is hard to see on white paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREYS = ("#cccccc", "#808080", "#000000")
DASHES = ("none", "7 3", "2 3")
LEFT, RIGHT, LINE = 10, 12, 20  # units of the view box: margins, from line to line of text
LABEL_LINE, BAND, GAP = 17, 26, 8  # of rows with labels: a line of text, what is drawn below it, from row to row
BACKGROUND = "#f3f6f9"  # of what is drawn; labels stand on white, between these bands
UNIT_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


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

    @property
    def number(self) -> str:
        """The difference and its interval."""
        interval = "" if math.isnan(self.low) else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.mean:+.4f}{interval}"


@dataclass(frozen=True)
class Strip:
    """A row of a strip plot: a variant's DSC of every patient, and their mean."""

    label: str
    patients: Mapping[str, float]
    mean: float
    place: int
    low: float = math.nan  # the interval of the mean
    high: float = math.nan


@dataclass(frozen=True)
class Lines:
    """Curves over epochs; with `unit` the axis is 0 to 1."""

    series: Sequence[Series]
    x_label: str
    unit: bool = False


@dataclass(frozen=True)
class Forest:
    """Differences to the baseline; `worse` and `better`: what the two sides of zero mean."""

    rows: Sequence[Interval]
    worse: str
    better: str


@dataclass(frozen=True)
class Strips:
    """A row of points per variant, on an axis from 0 to 1."""

    variants: Sequence[Strip]
    x_label: str


@dataclass(frozen=True)
class Bars:
    """A bar a patient; mean and median as label and value."""

    patients: Mapping[str, float]
    mean: tuple[str, float]
    median: tuple[str, float]


@dataclass(frozen=True)
class Drawing(Figure):
    """A figure, and what it shows, so that it can be drawn for print too."""

    plot: Lines | Forest | Strips | Bars


def colour(place: int) -> str:
    """The colour of the variant at this place."""
    return PALETTE[place % len(PALETTE)]


def dashes(place: int) -> str:
    """The dashes of the variant at this place: they tell lines apart where the palette's colours repeat."""
    return DASHES[(place // len(PALETTE) if place >= len(PALETTE) else place) % len(DASHES)]


def lines(title: str, series: Sequence[Series], x_label: str, unit: bool = False) -> Drawing:
    """Curves over epochs."""
    plot = Lines(series, x_label, unit)
    points = [point for curve in series for point in curve.points]
    if not points:
        return Drawing(title, Markup(""), plot)
    top, bottom, left = 10, 250, 46
    first, last = min(point[0] for point in points), max(point[0] for point in points)
    x = scale(first, last, left, WIDTH - RIGHT)
    low, high = (0.0, 1.0) if unit else _padded([point[1] for point in points])
    y = scale(low, high, bottom, top)
    parts = list(_axis_y(y, low, high, left, WIDTH - RIGHT))
    parts += [text(x(tick), bottom + 16, f"{tick:g}", "middle") for tick in ticks(first, last, whole=True)]
    parts.append(text((left + WIDTH) / 2, bottom + 34, x_label, "middle"))
    for curve in sorted(series, key=lambda curve: not curve.thin):  # thin lines lie behind the others
        parts += _curve(curve, x, y)
    at = bottom + 50
    for curve in series:
        if curve.thin:
            continue
        parts.append(line(left, at - 4, left + 32, at - 4, colour(curve.place), 2.2, dashes(curve.place)))
        for words in wrapped(curve.label, WIDTH - RIGHT - left - 40):
            parts.append(text(left + 40, at, words))
            at += LINE
    return Drawing(title, svg(title, at - 8, parts).svg, plot)


def _curve(curve: Series, x: Callable[[float], float], y: Callable[[float], float]) -> Iterator[Markup]:
    width, opacity, dash = (1, 0.4, "none") if curve.thin else (2.2, 1, dashes(curve.place))
    path = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in curve.points)
    form = '<polyline points="{}" fill="none" stroke="{}" stroke-width="{}" opacity="{}" stroke-dasharray="{}"/>'
    yield Markup(form).format(path, colour(curve.place), width, opacity, dash)
    if len(curve.points) == 1:  # a polyline of one point is invisible
        yield Markup('<circle cx="{}" cy="{}" r="4" fill="{}"/>').format(*path.split(","), colour(curve.place))


def forest(title: str, rows: Sequence[Interval], worse: str, better: str) -> Drawing:
    """Differences to the baseline with their intervals, around the line of no difference.

    Every row has its label above a band of its own, so that neither the axis nor the line of zero goes through text.
    """
    ends = [value for row in rows for value in (row.low, row.high, row.mean, 0.0) if not math.isnan(value)]
    low, high = _padded(ends)
    x = scale(low, high, LEFT + 14, WIDTH - RIGHT - 14)
    grid = ticks(low, high)
    parts: list[Markup] = []
    at = 0.0
    square = Markup('<rect x="{:.1f}" y="{:.1f}" width="9" height="9" fill="{}"/>')
    for row in rows:
        at = _band(parts, at, _label_lines(row), x, grid)
        middle = at - BAND / 2
        parts.append(line(x(0), at - BAND, x(0), at, "#000", 1.5))
        if not math.isnan(row.low):
            parts.append(line(x(row.low), middle, x(row.high), middle, colour(row.place), 3))
        parts.append(square.format(x(row.mean) - 4.5, middle - 4.5, colour(row.place)))
    parts += [text(x(tick), at + 16, words, "middle") for tick, words in zip(grid, tick_texts(grid), strict=True)]
    half = (WIDTH - LEFT - RIGHT) / 2 - 8
    parts.append(text(LEFT, at + 36, shortened(worse, half)))
    parts.append(text(WIDTH - RIGHT, at + 36, shortened(better, half), "end"))
    return Drawing(title, svg(title, at + 46, parts).svg, Forest(rows, worse, better))


def _label_lines(row: Interval) -> list[tuple[str, str]]:
    """The lines of a row's label, left and right: the name and the verdict; the number where there is room for it."""
    room = WIDTH - LEFT - RIGHT
    lines = [(words, "") for words in wrapped(f"{row.label}: {row.note}", room)]
    if width(lines[-1][0]) + width(row.number) + 6 <= room:
        lines[-1] = (lines[-1][0], row.number)
    else:
        lines.append(("", row.number))
    return lines


def strip(title: str, variants: Sequence[Strip], x_label: str) -> Drawing:
    """Every patient's DSC, a row per variant, with a bar at the mean; pointing at a circle shows the patient's name."""
    x = scale(0, 1, LEFT + 8, WIDTH - RIGHT - 8)
    parts: list[Markup] = []
    at = 0.0
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5" fill="{}" fill-opacity=".55"><title>{}</title></circle>')
    for variant in variants:
        lines = [(words, "") for words in wrapped(variant.label, WIDTH - LEFT - RIGHT)]
        at = _band(parts, at, lines, x, UNIT_TICKS)
        middle = at - BAND / 2
        for number, (patient, dsc) in enumerate(sorted(variant.patients.items())):
            height = middle + (number % 3 - 1) * 5  # three heights, so that fewer circles overlap
            parts.append(circle.format(x(dsc), height, colour(variant.place), f"{patient} {dsc:.3f}"))
        if not math.isnan(variant.low):
            parts.append(line(x(variant.low), middle, x(variant.high), middle, "#000", 2))
        parts.append(line(x(variant.mean), middle - 11, x(variant.mean), middle + 11, "#000", 2.5))
    parts += [text(x(tick), at + 16, f"{tick:g}", "middle") for tick in UNIT_TICKS]
    parts.append(text(x(0.5), at + 34, x_label, "middle"))
    return Drawing(title, svg(title, at + 42, parts).svg, Strips(variants, x_label))


def _band(
    parts: list[Markup],
    at: float,
    lines: Sequence[tuple[str, str]],
    x: Callable[[float], float],
    grid: Sequence[float],
) -> float:
    """Add the lines of a row's label, and below them the band that it is drawn on; returns the band's lower end."""
    at += GAP
    for left, right in lines:
        at += LABEL_LINE
        if left:
            parts.append(text(LEFT, at - 4, left))
        if right:
            parts.append(text(WIDTH - RIGHT, at - 4, right, "end"))
    box = Markup('<rect x="{}" y="{:.1f}" width="{}" height="{}" fill="{}"/>')
    parts.append(box.format(LEFT, at, WIDTH - LEFT - RIGHT, BAND, BACKGROUND))
    parts += [line(x(tick), at, x(tick), at + BAND, PALE) for tick in grid]
    return at + BAND


def bars(title: str, patients: Mapping[str, float], mean: tuple[str, float], median: tuple[str, float]) -> Drawing:
    """A bar a patient, with lines at the mean and the median, given as label and value."""
    marks = [Mark(*mean, colour(1)), Mark(*median, colour(2), "5 3")]
    drawn = bar_chart(title, [Bar(patient, dsc) for patient, dsc in patients.items()], marks)
    return Drawing(title, drawn.svg, Bars(patients, mean, median))


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
    for tick in ticks(low, high):
        yield line(left, y(tick), right, y(tick), PALE)
        yield text(left - 6, y(tick) + 4, f"{tick:g}", "end")


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def tick_texts(values: Sequence[float]) -> list[str]:
    """Differences beside an axis, with their signs."""
    return [f"{value:+g}" if value else "0" for value in values]


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round values from `low` to `high`."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 7)
    step = max(1.0, step) if whole else step
    return [round(k * step, 10) + 0.0 for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
