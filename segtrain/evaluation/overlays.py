"""Overlays: a slice with the outlines of prediction and truth, and sheets of them.

One region: prediction red, truth green, in one picture. Several: a colour a region, prediction left, truth right.

Legend: r region, h height, w width, c channel.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from segtrain.config import canonical

RED, GREEN, YELLOW = (255, 60, 60), (60, 220, 60), (255, 220, 60)
# Of whole lesions. Okabe and Ito, "Color Universal Design", 2008: distinct with any colour vision.
MISSED, FALSE = (86, 180, 233), (230, 159, 0)
# Of regions, in their order: C. Wong, "Points of view: Color blindness", Nature Methods 8, 2011, the bright ones first.
REGION_COLOURS = (
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (240, 228, 66),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
)
SIDE_PX = 256  # the least side of a picture on a sheet
MARGIN_PX, LINE_PX, SWATCH_PX = 18, 13, 10

Colour = tuple[int, int, int]
Legend = Sequence[tuple[str, Colour | None]]  # words, and the colour of the square before them
Picture = NDArray[np.uint8]


def shown_contrast(contrasts: Sequence[str]) -> int:
    """The place of the contrast that pictures show: FLAIR, where most lesions are seen best, else the first."""
    names = [canonical(contrast) for contrast in contrasts]
    return names.index("flair") if "flair" in names else 0


def legend_of(regions: Sequence[str], has_truth: bool = True) -> Legend:
    """The line above a sheet."""
    if len(regions) == 1:
        colours = [("truth", GREEN), ("prediction", RED), ("both", YELLOW)]
        wrong = [("M: missed lesion", MISSED), ("F: false lesion", FALSE)]
        return [*colours, *wrong] if has_truth else colours[1:2]
    if not has_truth:
        return [("prediction:", None), *zip(regions, REGION_COLOURS, strict=False)]
    letters = "F: false lesion, M: missed lesion"
    return [("prediction left, truth right:", None), *zip(regions, REGION_COLOURS, strict=False), (letters, None)]


def drawn(plane_hw: NDArray[Any], predicted_rhw: NDArray[np.bool_], true_rhw: NDArray[np.bool_] | None) -> Picture:
    """uint8 [height, width, 3]: one region as `overlay`; of several the prediction left and the truth right, if any."""
    if len(predicted_rhw) == 1:
        return overlay(plane_hw, predicted_rhw[0], np.zeros_like(predicted_rhw[0]) if true_rhw is None else true_rhw[0])
    grey, factor = in_grey(plane_hw)
    panes = (predicted_rhw,) if true_rhw is None else (predicted_rhw, true_rhw)
    return np.concatenate([_outlined(grey, masks_rhw, factor) for masks_rhw in panes], axis=1)


def _outlined(grey_hwc: Picture, masks_rhw: NDArray[np.bool_], factor: int) -> Picture:
    """The picture with the regions' outlines, the smallest region on top."""
    picture = grey_hwc.copy()
    by_size = np.argsort(-masks_rhw.sum(axis=(1, 2)), kind="stable")
    for number in by_size:
        picture[outline(enlarge(masks_rhw[number], factor))] = REGION_COLOURS[number]
    return picture


def overlay(plane_hw: NDArray[Any], predicted_hw: NDArray[np.bool_], true_hw: NDArray[np.bool_]) -> Picture:
    """uint8 [height, width, 3], enlarged to SIDE_PX or more: prediction red, truth green, yellow where they agree."""
    picture, factor = in_grey(plane_hw)
    red, green = (outline(enlarge(mask, factor)) for mask in (predicted_hw, true_hw))
    picture[green], picture[red], picture[red & green] = GREEN, RED, YELLOW
    return picture


def in_grey(plane_hw: NDArray[Any]) -> tuple[Picture, int]:
    """The slice in grey, uint8 [height, width, 3], enlarged to SIDE_PX or more, and how many times."""
    factor = enlargement(plane_hw.shape)
    plane_hw = plane_hw.astype(np.float32)
    low, high = np.percentile(plane_hw, (1, 99.5))
    span = high - low if high > low else 1e-6
    grey = np.clip((plane_hw - low) / span * 255, 0, 255).astype(np.uint8)
    return np.repeat(enlarge(grey, factor)[..., None], 3, axis=2), factor


def sheet(pictures: Sequence[tuple[str, Picture]], columns: int = 3, legend: Legend | None = None) -> Picture:
    """Pictures of one size in rows, uint8 [height, width, 3], each below its title, which may have several lines.

    The legend is above all, in as many lines as it needs.
    """
    height, width = pictures[0][1].shape[:2]
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    titles = [_fitting(title, width) for title, _ in pictures]
    above = MARGIN_PX + LINE_PX * (max(len(lines) for lines in titles) - 1)
    places, top = _places(legend or (), columns * width)
    canvas = Image.new("RGB", (columns * width, top + rows * (height + above)), "black")
    draw = ImageDraw.Draw(canvas)
    for (x, y), (words, colour) in zip(places, legend or (), strict=True):
        if colour:
            _swatch(draw, x, y + 4, colour)
        draw.text((x + (SWATCH_PX + 4 if colour else 0), y + 3), words, "white", _font())
    for place, (lines, (_, picture)) in enumerate(zip(titles, pictures, strict=True)):
        left, y = place % columns * width, top + place // columns * (height + above)
        for number, line in enumerate(lines):
            draw.text((left + 4, y + 3 + number * LINE_PX), line, "white", _font())
        canvas.paste(Image.fromarray(picture), (left, y + above))
    return np.asarray(canvas)


def _swatch(draw: ImageDraw.ImageDraw, x: int, y: int, colour: Colour) -> None:
    """A square of the colour; that of missed lesions is dashed, as their outlines are."""
    draw.rectangle((x, y, x + SWATCH_PX - 1, y + SWATCH_PX - 1), fill=colour)
    if colour == MISSED:
        draw.line((x, y + SWATCH_PX / 2, x + SWATCH_PX, y + SWATCH_PX / 2), "black", 3)


def _places(legend: Legend, width: int) -> tuple[list[tuple[int, int]], int]:
    """Where the parts of a legend go, and how high it is."""
    places: list[tuple[int, int]] = []
    x, y = 4, 0
    for words, colour in legend:
        length = (SWATCH_PX + 4 if colour else 0) + _length(words) + 14
        if x > 4 and x + length > width:
            x, y = 4, y + MARGIN_PX
        places.append((x, y))
        x += length
    return places, y + MARGIN_PX if legend else 0


def _fitting(title: str, width: int) -> list[str]:
    """The lines of a title, each shortened to the width."""
    lines = []
    for line in title.split("\n"):
        fitting = line
        while len(fitting) > 1 and _length(fitting) > width - 8:
            fitting = f"{fitting.removesuffix('…')[:-1]}…"
        lines.append(fitting)
    return lines


def _length(words: str) -> int:
    return math.ceil(_font().getlength(words))


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default()


def enlargement(shape: Sequence[int]) -> int:
    """How many times a slice [h, w] is enlarged in pictures."""
    return max(1, math.ceil(SIDE_PX / shape[0]))


def enlarge(plane: NDArray[np.generic], factor: int) -> NDArray[np.generic]:
    """Each pixel [h, w] repeated `factor` x `factor` times."""
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)


def outline(mask: NDArray[np.generic]) -> NDArray[np.bool_]:
    """The pixels of a mask [h, w] within two pixels of its edge."""
    filled = mask.astype(bool)
    edge: NDArray[np.bool_] = filled & ~ndimage.binary_erosion(filled, iterations=2)
    return edge
