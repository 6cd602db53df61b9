"""Missed and false lesions marked in a picture: a thick outline, an arrow and a name, and a key to these.

Missed: blue dashes, M and a number. False: orange, unbroken, F and a number. The number is that of the table of
lesions. Of several regions the outlines have the region's colour. Outlines stay within their lesion.

Legend: r region, s slice, h height, w width, c channel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from segtrain.evaluation.lesion_places import RegionLesions, Spot
from segtrain.evaluation.overlays import FALSE, MISSED, REGION_COLOURS, Colour, Picture, drawn, enlarge, enlargement

THICK_PX, DASH_PX = 4, 6
WHITE, BLACK = (255, 255, 255, 255), (0, 0, 0, 255)
# Where an arrow may come from: from below last, where the key is.
DIRECTIONS = [(y, x) for y, x in product((-1, 0, 1), (1, -1, 0)) if y or x]
LEGEND = (("M missed", MISSED), ("F false", FALSE))

RGBA = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Wrong:
    """The missed and the false lesions of one region in a slice, as large as they are drawn.

    scale: drawn pixels of a voxel; spots: of these lesions, in voxels.
    """

    missed_hw: Mask
    false_hw: Mask
    spots: Sequence[Spot]
    more: int
    scale: float
    colours: tuple[Colour, Colour] = (MISSED, FALSE)


def picture_of(
    plane_hw: NDArray[np.generic],
    predicted_rhw: Mask,
    true_rhw: Mask | None,
    lesions: Sequence[RegionLesions],
    place: int,
) -> Picture:
    """`overlays.drawn` with the wrong lesions of that slice marked, uint8 [height, width, 3].

    Of several regions, false lesions are marked in the prediction, missed ones in the truth. Without a truth there are
    no `lesions`.
    """
    picture = drawn(plane_hw, predicted_rhw, true_rhw)
    several = len(lesions) > 1
    factor = enlargement(plane_hw.shape)
    panes = np.split(picture, 2, axis=1) if several else [picture]
    for pane, results in zip(panes, (("false",), ("missed",)) if several else (("missed", "false"),), strict=False):
        wrong = [_wrong(one, place, factor, number, results, several) for number, one in enumerate(lesions)]
        layer = mark_layer(wrong, pane.shape[:2], key=not several)
        share = layer[..., 3:] / 255
        pane[:] = np.round(layer[..., :3] * share + pane * (1 - share))
    return np.concatenate(panes, axis=1)


def _wrong(one: RegionLesions, place: int, factor: int, number: int, results: Sequence[str], several: bool) -> Wrong:
    at, nothing = one.at(place), np.zeros(one.missed_shw.shape[1:], bool)
    missed_hw, false_hw = (
        enlarge(volume_shw[place] if result in results else nothing, factor).astype(bool)
        for result, volume_shw in (("missed", one.missed_shw), ("false", one.false_shw))
    )
    spots = [spot for spot in at.spots if spot.result in results]
    colour = REGION_COLOURS[number % len(REGION_COLOURS)]
    colours = (colour, colour) if several else (MISSED, FALSE)
    return Wrong(missed_hw, false_hw, spots, at.more if len(spots) == len(at.spots) else 0, factor, colours)


def mark_layer(wrong: Sequence[Wrong], shape: tuple[int, ...], key: bool = False) -> RGBA:
    """uint8 [height, width, 4], transparent but for the marks of these regions."""
    layer = np.zeros((*shape[:2], 4), np.uint8)
    busy = np.zeros(shape[:2], bool)
    for one in wrong:
        _paint(layer, one.false_hw, one.colours[1], dashed=False)
        _paint(layer, one.missed_hw, one.colours[0], dashed=True)
        busy |= one.missed_hw | one.false_hw
    if not busy.any():
        return layer
    canvas = Image.fromarray(layer)
    size = max(11, shape[0] // 22)
    pen = _Pen(ImageDraw.Draw(canvas), ImageFont.load_default(size), size, busy)
    for one in wrong:
        for spot in one.spots:
            pen.point_at(spot, one.scale)
    if more := sum(one.more for one in wrong):
        pen.write(4, size // 2 + 4, f"+{more} more", "lm")
    if key:
        pen.explain()
    return np.asarray(canvas).copy()


def _paint(layer: RGBA, mask_hw: Mask, colour: Colour, dashed: bool) -> None:
    """The outline of the mask, within it; between dashes it is black, on any picture."""
    if not mask_hw.any():
        return
    box = ndimage.find_objects(mask_hw.astype(np.uint8))[0]
    inside, part = mask_hw[box], layer[box]
    edge = inside & ~ndimage.binary_erosion(inside, iterations=THICK_PX)
    part[edge] = (*colour, 255)
    if dashed:
        y, x = np.indices(edge.shape)
        part[edge & ((x // DASH_PX + y // DASH_PX) % 2 == 1)] = BLACK


@dataclass(frozen=True)
class _Pen:
    """Draws arrows and names where little is covered; `busy` are the lesions, and what was drawn."""

    draw: ImageDraw.ImageDraw
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    size: int
    busy: Mask

    def point_at(self, spot: Spot, scale: float) -> None:
        """An arrow to the lesion, and its name at the arrow's tail."""
        wide, high = self.draw.textlength(spot.name, self.font) / 2 + 3, self.size / 2 + 2
        middle_y, middle_x = scale * (spot.top + spot.bottom) / 2, scale * (spot.left + spot.right) / 2
        half_y, half_x = scale * (spot.bottom - spot.top) / 2, scale * (spot.right - spot.left) / 2
        choices = []
        for down, right in DIRECTIONS:
            norm = math.hypot(down, right)
            tip = middle_y + down * (half_y / norm + 2), middle_x + right * (half_x / norm + 2)
            tail = tip[0] + down / norm * self.size, tip[1] + right / norm * self.size
            name = tail[0] + down * (high - 1), tail[1] + right * (wide - 1)
            box = (name[0] - high, name[1] - wide, name[0] + high, name[1] + wide)
            choices.append((self._covered(box, (tip, tail)), tip, tail, name, box))
        _, tip, tail, name, box = min(choices, key=lambda choice: choice[0])
        self._arrow(tip, tail)
        self.write(name[1], name[0], spot.name, "mm")
        self.busy[_inside(box)] = True

    def _covered(self, box: tuple[float, ...], arrow: Sequence[tuple[float, float]]) -> float:
        """How much of lesions and of earlier names a name and its arrow would cover, and of themselves be outside."""
        height, width = self.busy.shape
        top, left, bottom, right = box
        outside = max(0, -top) + max(0, -left) + max(0, bottom - height) + max(0, right - width)
        ys, xs = (np.linspace(arrow[0][axis], arrow[1][axis], 8).astype(int) for axis in (0, 1))
        within = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        on_arrow = int(self.busy[ys[within], xs[within]].sum())
        return float(outside * self.size * 4 + self.busy[_inside(box)].sum() + self.size * on_arrow)

    def _arrow(self, tip: tuple[float, float], tail: tuple[float, float]) -> None:
        angle = math.atan2(tail[0] - tip[0], tail[1] - tip[1])
        length = self.size * 0.7
        head = [(tip[1], tip[0])]
        head += [(tip[1] + length * math.cos(angle + a), tip[0] + length * math.sin(angle + a)) for a in (0.45, -0.45)]
        shaft = (tail[1], tail[0], tip[1] + 0.6 * (tail[1] - tip[1]), tip[0] + 0.6 * (tail[0] - tip[0]))
        width = max(2, self.size // 6)
        self.draw.line(shaft, BLACK, width + 3)
        self.draw.polygon(head, WHITE, BLACK, width=1)
        self.draw.line(shaft, WHITE, width)

    def write(self, x: float, y: float, words: str, anchor: str) -> None:
        """White, with black around it."""
        self.draw.text((x, y), words, WHITE, self.font, anchor, stroke_width=2, stroke_fill=BLACK)

    def explain(self) -> None:
        """What the letters and outlines mean: at the bottom, or at the top where that covers less."""
        high, wide = self.size + 8, 14 * self.size
        below = int(self.busy[-high:, :wide].sum()) <= int(self.busy[:high, :wide].sum())
        x, y = 4.0, (self.busy.shape[0] - high / 2 if below else high * 1.5)
        for words, colour in LEGEND:
            self.draw.rectangle((x, y - 5, x + 10, y + 5), (*colour, 255), BLACK)
            self.write(x + 14, y, words, "lm")
            x += self.draw.textlength(words, self.font) + 26


def _inside(box: tuple[float, ...]) -> tuple[slice, slice]:
    top, left, bottom, right = (max(0, round(side)) for side in box)
    return slice(top, bottom), slice(left, right)
