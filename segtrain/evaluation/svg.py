"""Figures as inline SVG: small, sharp in print, readable without a script. Text in them is escaped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from segtrain.evaluation.lettering import FONT_UNITS, printable
from segtrain.evaluation.overlays import Picture

WIDTH = 480  # units of the view box; a phone shows them at about 3/4 of a pixel
PALE = "#ddd"
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # SVG's words and Pillow's
LENGTHS = ("x", "y", "x1", "y1", "x2", "y2", "width", "height", "stroke-width")


@dataclass(frozen=True)
class Figure:
    """A drawing and its title."""

    title: str
    svg: Markup


def svg(title: str, height: float, parts: Sequence[Markup], width: float = WIDTH) -> Figure:
    """A figure of these elements."""
    opening = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}" '
        'font-family="system-ui, sans-serif" font-size="{}"><title>{}</title>'
    )
    drawing = (
        Markup(opening).format(width, height, title, FONT_UNITS, title) + Markup("").join(parts) + Markup("</svg>")
    )
    return Figure(title, drawing)


def stacked(figures: Sequence[Figure]) -> Figure:
    """The figures, one below the other."""
    if len(figures) == 1:
        return figures[0]
    parts, top = [], 0.0
    for figure in figures:
        width, height = ElementTree.fromstring(figure.svg).attrib["viewBox"].split()[2:]
        place = Markup('<svg y="{}" width="{}" height="{}" ').format(top, width, height)
        parts.append(place + Markup(figure.svg.removeprefix("<svg ")))
        top += float(height)
    return svg("; ".join(figure.title for figure in figures), top, parts)


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1, dash: str = "none") -> Markup:
    """A line."""
    form = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="{}" stroke-dasharray="{}"/>'
    return Markup(form).format(x1, y1, x2, y2, stroke, width, dash)


def text(x: float, y: float, words: str, anchor: str = "start") -> Markup:
    """Text, whose baseline is at y."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, printable(words))


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From values to units: `low` lies at `start`, and `high`, if it is another, at `end`."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def axis_x(x: Callable[[float], float], top: float, bottom: float, label: str) -> Iterator[Markup]:
    """Ticks from 0 to 1."""
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        yield line(x(tick), top, x(tick), bottom, PALE)
        yield text(x(tick), bottom + 16, f"{tick:g}", "middle")
    yield text((x(0) + x(1)) / 2, bottom + 34, label, "middle")


def pixels(figure: Figure, scale: int = 2) -> Picture:
    """uint8 [height, width, 3]: the lines (solid), boxes and text of a figure."""
    root = ElementTree.fromstring(figure.svg)
    size = [round(scale * float(side)) for side in root.attrib["viewBox"].split()[2:]]
    canvas = Image.new("RGB", (size[0], size[1]), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=scale * FONT_UNITS)
    for element in root.iter():
        kind, values = element.tag.rpartition("}")[2], element.attrib
        of = {key: scale * float(value) for key, value in values.items() if key in LENGTHS}
        if kind == "line":
            draw.line((of["x1"], of["y1"], of["x2"], of["y2"]), values["stroke"], round(of["stroke-width"]))
        elif kind == "rect":
            draw.rectangle((of["x"], of["y"], of["x"] + of["width"], of["y"] + of["height"]), values["fill"])
        elif kind == "text":
            draw.text((of["x"], of["y"]), element.text or "", "black", font, anchor=ANCHORS[values["text-anchor"]])
    return np.asarray(canvas)
