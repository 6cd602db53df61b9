"""Patients' DSC as bars, with lines at mean and median: as SVG in reports, in pixels beside predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from segtrain.evaluation.metrics import EMPTY_RULE, summarise
from segtrain.evaluation.overlays import Picture
from segtrain.evaluation.svg import WIDTH, Figure, axis_x, line, pixels, svg, text

LINE = 20  # units from bar to bar
MARGIN, LETTER, LONGEST = 12, 8, 26  # of a patient's name: beside it, a letter's width at most, letters
BLUE, GREY, RED, GREEN = "#56B4E9", "#b9b9b9", "#d62828", "#188c3c"


@dataclass(frozen=True)
class Bar:
    """`seen`: the patient was trained on; the bar is grey."""

    patient: str
    dsc: float
    seen: bool = False


@dataclass(frozen=True)
class Mark:
    """A line through all bars, and its label below them."""

    label: str
    value: float
    colour: str
    dash: str = "none"


def bar_chart(
    title: str, bars: Sequence[Bar], marks: Sequence[Mark], notes: Sequence[str] = (), width: float = WIDTH
) -> Figure:
    """A bar for each patient, worst first; notes are lines of text below."""
    left = MARGIN + LETTER * max(len(_short(bar.patient)) for bar in bars)
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
            box.format(left, y + 3, x(bar.dsc) - left, GREY if bar.seen else BLUE),
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


def chart(bars: Sequence[Bar], title: str, rule: str = EMPTY_RULE) -> Picture:
    """uint8 [height, width, 3]; mean and median are those of patients that were not trained on.

    `rule` says what a patient without lesion scores.
    """
    unseen = [bar.dsc for bar in bars if not bar.seen]  # in the table's order: it decides the interval's last digit
    marks = []
    if unseen:
        summary = summarise(unseen)
        marks = [Mark(f"mean {summary}", summary.mean, RED), Mark("median", summary.median, GREEN)]
    notes = [f"{title}: DSC of the whole volume, as delivered", rule]
    if len(unseen) < len(bars):
        notes.insert(1, "grey: trained on, not in mean and median")
    return pixels(bar_chart(title, bars, marks, notes, width=900))


def _short(name: str) -> str:
    """A name that fits; both ends of a long one tell it from others."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"
