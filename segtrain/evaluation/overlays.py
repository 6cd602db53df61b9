"""Overlays: a slice with the predicted outline in red and the true one in green, and sheets of them.

Legend: h height, w width, c channel.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

RED, GREEN, YELLOW = (255, 60, 60), (60, 220, 60), (255, 220, 60)
SIDE_PX = 256  # the least side of a picture on a sheet
MARGIN_PX = 18

Picture = NDArray[np.uint8]


def overlay(plane_hw: NDArray[np.floating], predicted_hw: NDArray[np.bool_], true_hw: NDArray[np.bool_]) -> Picture:
    """uint8 [height, width, 3], enlarged to SIDE_PX or more: prediction red, truth green, yellow where they agree."""
    factor = max(1, math.ceil(SIDE_PX / plane_hw.shape[0]))
    low, high = np.percentile(plane_hw, (1, 99.5))
    grey = np.clip((plane_hw.astype(np.float32) - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = np.repeat(enlarge(grey, factor)[..., None], 3, axis=2)
    red, green = (outline(enlarge(mask, factor)) for mask in (predicted_hw, true_hw))
    picture[green], picture[red], picture[red & green] = GREEN, RED, YELLOW
    return picture


def sheet(pictures: Sequence[tuple[str, Picture]], columns: int = 3) -> Picture:
    """Pictures of one size in rows, each below its title, uint8 [height, width, 3]."""
    height, width = pictures[0][1].shape[:2]
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    canvas = Image.new("RGB", (columns * width, rows * (height + MARGIN_PX)), "black")
    draw = ImageDraw.Draw(canvas)
    for place, (title, picture) in enumerate(pictures):
        x, y = place % columns * width, place // columns * (height + MARGIN_PX)
        draw.text((x + 4, y + 3), title, fill="white")
        canvas.paste(Image.fromarray(picture), (x, y + MARGIN_PX))
    return np.asarray(canvas)


def enlarge(plane: NDArray[np.generic], factor: int) -> NDArray[np.generic]:
    """Each pixel [h, w] repeated `factor` x `factor` times."""
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)


def outline(mask: NDArray[np.generic]) -> NDArray[np.bool_]:
    """The pixels of a mask [h, w] within two pixels of its edge."""
    filled = mask.astype(bool)
    edge: NDArray[np.bool_] = filled & ~ndimage.binary_erosion(filled, iterations=2)
    return edge
