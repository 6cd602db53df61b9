"""Heat maps: values over a slice, with the prediction's outline.

Legend: h height, w width, c channel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.evaluation.overlays import Colour, Legend, Picture, enlarge, in_grey

# From low to high; light and dark tell them apart without colour too.
ANCHORS = np.array([(70, 10, 120), (190, 50, 85), (245, 130, 20), (252, 250, 150)], np.float64)
OUTLINE = (90, 230, 255)
MOST_OPAQUE = 0.9
OPAQUE_FROM = 0.3  # of the scale; what is lower is seen through


def heat_map(plane_hw: NDArray[Any], value_hw: NDArray[np.float32], predicted_hw: NDArray[np.bool_]) -> Picture:
    """uint8 [height, width, 3], enlarged as overlays are: values of 0..1 over the slice in grey."""
    picture_hwc, factor = in_grey(plane_hw)
    heat_hw = np.asarray(enlarge(np.clip(value_hw, 0, 1), factor), np.float64)
    opacity_hw1 = MOST_OPAQUE * np.minimum(heat_hw / OPAQUE_FROM, 1)[..., None]
    blended = (1 - opacity_hw1) * picture_hwc + opacity_hw1 * _colours(heat_hw)
    drawing: Picture = np.rint(blended).astype(np.uint8)
    filled = enlarge(predicted_hw, factor).astype(bool)
    drawing[filled & ~ndimage.binary_erosion(filled)] = OUTLINE
    return drawing


def scale(what: str, most: float, unit: str = "") -> Legend:
    """The legend: the colours of four values up to `most`, and the prediction's outline."""
    steps = (0.25, 0.5, 0.75, 1.0)
    colours = [tuple(int(part) for part in np.rint(_colours(np.array(step)))) for step in steps]
    entries: list[tuple[str, Colour | None]] = [(f"{what}:", None)]
    for step, (red, green, blue) in zip(steps, colours, strict=True):
        entries.append((f"{step * most:g}{unit and ' ' + unit}", (red, green, blue)))
    return [*entries, ("prediction's outline", OUTLINE)]


def _colours(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 3] in 0..255 of values in 0..1."""
    places = np.linspace(0, 1, len(ANCHORS))
    return np.stack([np.interp(value, places, ANCHORS[:, channel]) for channel in range(3)], axis=-1)
