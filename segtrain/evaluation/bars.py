"""Scores of patients as bars: one each, sorted, a red line at their mean, a green one at their median."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segtrain.evaluation.metrics import EMPTY_RULE, summarise
from segtrain.evaluation.overlays import Picture

LONGEST = 48  # letters of a patient's name
SCALE = 2  # drawn at twice the size, for sharp text
WIDTH, BAR, GAP, TOP, BOTTOM, RIGHT = (SCALE * px for px in (900, 16, 5, 64, 66, 64))
BLUE, GREY, RED, GREEN, INK, FAINT = (70, 120, 180), (185, 185, 185), (214, 40, 40), (24, 140, 60), "black", "#dddddd"


@dataclass(frozen=True)
class Bar:
    """`seen`: the patient was trained on; the bar is grey and not in the mean."""

    patient: str
    dsc: float
    seen: bool


def chart(bars: Sequence[Bar], title: str, rule: str = EMPTY_RULE) -> Picture:
    """uint8 [height, width, 3]; `rule` says what a patient without lesion scores."""
    font, small = (ImageFont.load_default(size=SCALE * px) for px in (13, 11))
    ordered = sorted(bars, key=lambda bar: (bar.dsc, bar.patient))
    bottom = TOP + len(ordered) * (BAR + GAP)
    canvas = Image.new("RGB", (WIDTH, bottom + BOTTOM), "white")
    draw = ImageDraw.Draw(canvas)
    names = [_short(bar.patient) for bar in ordered]
    left = round(max(draw.textlength(name, small) for name in names)) + 16 * SCALE

    def x(value: float) -> int:
        return round(left + value * (WIDTH - RIGHT - left))

    for tick in np.linspace(0, 1, 6):
        draw.line([(x(tick), TOP - GAP), (x(tick), bottom)], fill=FAINT, width=SCALE)
        draw.text((x(tick), bottom + 4 * SCALE), f"{tick:.1f}", INK, small, anchor="ma")
    for place, (bar, name) in enumerate(zip(ordered, names, strict=True)):
        y = TOP + place * (BAR + GAP)
        draw.rectangle([left, y, x(bar.dsc), y + BAR], fill=GREY if bar.seen else BLUE)
        draw.text((left - 6 * SCALE, y + BAR // 2), name, INK, small, anchor="rm")
        draw.text((x(1) + 8 * SCALE, y + BAR // 2), f"{bar.dsc:.3f}", INK, small, anchor="lm")
    draw.text((12 * SCALE, 8 * SCALE), title, INK, font)
    new = [bar.dsc for bar in bars if not bar.seen]  # in the table's order, on which the interval's last digit depends
    if new:
        found = summarise(new)
        for value, colour in ((found.mean, RED), (found.median, GREEN)):
            draw.line([(x(value), TOP - GAP), (x(value), bottom)], fill=colour, width=2 * SCALE)
        draw.text((12 * SCALE, 26 * SCALE), f"mean DSC {found}", INK, small)
    notes = ["red: mean", "green: median", *(["grey: trained on, not in them"] if len(new) < len(ordered) else [])]
    draw.text((12 * SCALE, 42 * SCALE), "   ".join(notes), INK, small)
    draw.text((x(0.5), bottom + 20 * SCALE), "DSC of the whole volume, as delivered", INK, small, anchor="ma")
    draw.text((12 * SCALE, bottom + 44 * SCALE), rule, INK, small)
    return np.asarray(canvas)


def _short(name: str) -> str:
    """A folder's name may be longer than the picture is wide; both its ends tell it apart."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}"
