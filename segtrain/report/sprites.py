"""The slices of a volume as tiles of small WebP pictures, one a layer: contrasts, outlines, difference, wrong lesions.

The page stacks the layers and moves them by tiles. Of several regions each has layers and a colour of its own.
Legend: r region, s slice, h height, w width, c channel.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.evaluation.lesion_marks import Wrong, mark_layer
from segtrain.evaluation.lesion_places import RegionLesions
from segtrain.evaluation.overlays import FALSE, GREEN, MISSED, RED, enlarge, outline
from segtrain.report.page_parts import webp

WHITE = (255, 255, 255)  # of agreement; missed voxels have the colour of missed lesions, hatched
OUTLINES_PX = 256  # tiles are enlarged to this side at least, since an outline is thinner than a voxel of 64 px data
WIDEST_TILE_PX = 512
WIDEST_WEBP_PX = 16_383
QUALITY = 80  # of the grey layer; the others are lossless
DASH_PX, HATCH_PX = 5, 3

RGBA = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Sprites:
    """The layers of one patient: data URLs of pictures with `columns` x `rows` tiles, filled row by row."""

    columns: int
    rows: int
    layers: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return sum(map(len, self.layers.values()))

    def without(self, names: Collection[str]) -> "Sprites":
        """The same without some layers."""
        return replace(self, layers={name: url for name, url in self.layers.items() if name not in names})

    def position(self, place: int) -> tuple[str, str]:
        """The CSS background position, x and y, that shows the tile of slice `place`."""
        row, column = divmod(place, self.columns)
        return _percent(column, self.columns), _percent(row, self.rows)


def _percent(place: int, places: int) -> str:
    return f"{100 * place / max(places - 1, 1):.4f}%"


def sprites(
    greys: Mapping[str, NDArray[np.floating]],
    predicted_rshw: NDArray[np.bool_],
    true_rshw: NDArray[np.bool_],
    colours: Mapping[int, Colour] = MappingProxyType({}),
    lesions: Sequence[RegionLesions] = (),
) -> Sprites:
    """The layers of a patient: contrasts by the names of their layers, outlines and differences, wrong lesions.

    `colours`: of several regions, by the numbers that follow the names of their layers. `lesions`: of each region, or
    of none. The layer of wrong lesions is there where there are any.
    """
    slices = len(true_rshw[0])
    columns = math.ceil(math.sqrt(slices))
    widest = min(WIDEST_TILE_PX, WIDEST_WEBP_PX // columns)
    pictures = {name: _grey(planes_shw, widest, columns) for name, planes_shw in greys.items()}
    numbers: Sequence[tuple[str, Colour | None]] = [(str(number), colour) for number, colour in colours.items()]
    numbers = numbers or [("", None)]
    for predicted_shw, true_shw, (number, colour) in zip(predicted_rshw, true_rshw, numbers, strict=True):
        predicted, true = (_drawable(mask, widest) for mask in (predicted_shw, true_shw))
        layers = {
            "truth": _outlined(true, colour or GREEN, dashed=False),
            "prediction": _outlined(predicted, colour or RED, dashed=True),
            "difference": difference(predicted, true, colour or FALSE, colour or MISSED),
        }
        pictures |= {f"{name}{number}": _webp(_tiles(layer, columns)) for name, layer in layers.items()}
    for one, (number, colour) in zip(lesions, numbers if lesions else (), strict=True):
        if one.wrong:
            marks = _marks(one, widest, (colour or MISSED, colour or FALSE))
            pictures[f"lesions{number}"] = _webp(_tiles(marks, columns))
    return Sprites(columns, math.ceil(slices / columns), pictures)


def _marks(one: RegionLesions, widest_px: int, colours: tuple[Colour, Colour]) -> RGBA:
    """The wrong lesions of a region, [s, h, w, 4]."""
    missed_shw, false_shw = _drawable(one.missed_shw, widest_px), _drawable(one.false_shw, widest_px)
    scale = missed_shw.shape[-1] / one.missed_shw.shape[-1]
    layers = []
    for place, (missed_hw, false_hw) in enumerate(zip(missed_shw, false_shw, strict=True)):
        at = one.at(place)
        layers.append(mark_layer([Wrong(missed_hw, false_hw, at.spots, at.more, scale, colours)], missed_hw.shape))
    return np.stack(layers)


def _grey(planes_shw: NDArray[np.floating], widest_px: int, columns: int) -> str:
    """A contrast; grey is scaled once for the whole volume, so that its slices can be compared."""
    low, high = np.percentile(planes_shw.astype(np.float32), (1, 99.5))
    grey = np.clip((planes_shw.astype(np.float32) - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return _webp(_tiles(_at_most(grey, widest_px)[..., None], columns)[..., 0], lossless=False)


def difference(
    predicted_shw: NDArray[np.bool_],
    true_shw: NDArray[np.bool_],
    only_predicted: Colour = FALSE,
    missed: Colour = MISSED,
) -> RGBA:
    """[s, h, w, 4]: false positives filled, missed hatched, true positives a faint white, else transparent."""
    y, x = np.ogrid[: true_shw.shape[1], : true_shw.shape[2]]
    hatched = (x + y) % (2 * HATCH_PX) < HATCH_PX
    layer = np.zeros((*true_shw.shape, 4), np.uint8)
    layer[predicted_shw & true_shw] = (*WHITE, 60)
    layer[predicted_shw & ~true_shw] = (*only_predicted, 210)
    layer[true_shw & ~predicted_shw & hatched] = (*missed, 255)
    layer[true_shw & ~predicted_shw & ~hatched] = (*missed, 90)
    return layer


def _outlined(mask_shw: NDArray[np.bool_], colour: Colour, dashed: bool) -> RGBA:
    """Outlines; dashed ones can be told from others without colour, and show the layers below."""
    y, x = np.ogrid[: mask_shw.shape[1], : mask_shw.shape[2]]
    edge = np.stack([outline(mask_hw) for mask_hw in mask_shw])
    if dashed:
        edge &= (x // DASH_PX + y // DASH_PX) % 2 == 0
    layer = np.zeros((*mask_shw.shape, 4), np.uint8)
    layer[edge] = (*colour, 255)
    return layer


def _drawable(mask_shw: NDArray[np.bool_], widest_px: int) -> NDArray[np.bool_]:
    factor = max(1, min(math.ceil(OUTLINES_PX / mask_shw.shape[-1]), widest_px // mask_shw.shape[-1]))
    enlarged = np.stack([enlarge(mask_hw, factor) for mask_hw in mask_shw])
    return np.asarray(_at_most(enlarged, widest_px), bool)


def _at_most(planes_shw: NDArray[np.generic], side_px: int) -> NDArray[np.generic]:
    """Planes reduced to a side of at most `side_px`, by the nearest pixel."""
    if planes_shw.shape[-1] <= side_px:
        return planes_shw
    nearest = ((np.arange(side_px) + 0.5) * planes_shw.shape[-1] / side_px).astype(int)
    return planes_shw[:, nearest[:, None], nearest]


def _tiles(planes_shwc: NDArray[np.generic], columns: int) -> NDArray[np.uint8]:
    slices, height, width, channels = planes_shwc.shape
    rows = math.ceil(slices / columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:slices] = planes_shwc
    grid = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def _webp(picture: NDArray[np.uint8], lossless: bool = True) -> str:
    return webp(Image.fromarray(picture), QUALITY, lossless)
