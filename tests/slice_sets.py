"""Small data sets of slices, in every layout that data.source=slices reads."""

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import Config, load_config

SIZE_PX = 32
SLICES = 6


def pixels(seed: int, channels: int = 3) -> NDArray[np.uint8]:
    """[h, w, c] of a slice."""
    return np.random.default_rng(seed).integers(30, 256, (SIZE_PX, SIZE_PX, channels), np.uint8)


def mask(number: int, white: int = 255) -> NDArray[np.uint8]:
    """[h, w] with a square in slices 2 to 4."""
    mask_hw = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask_hw[8:20, 8:20] = white if 2 <= number <= 4 else 0
    return mask_hw


def save(path: Path, array: NDArray[np.generic]) -> None:
    """An image file of the array, into a folder that this makes; 16 bits of colours as TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.dtype == np.uint16 and array.shape[2:] == (3,):
        tifffile.imwrite(path, array, photometric="rgb")
    else:
        Image.fromarray(array.squeeze()).save(path)


def write_twins(root: Path, names: list[str], ending: str = "", white: int = 255, channels: int = 3) -> None:
    """Twin folders `images` and `masks`; a name may begin with a patient's folder, and ends in a slice's number."""
    for seed, name in enumerate(names):
        number = 1 + seed % SLICES
        save(root / "images" / f"{name}.png", pixels(seed, channels))
        save(root / "masks" / f"{name}{ending}.png", mask(number, white))


def numbered(patients: list[str], sep: str = "_") -> list[str]:
    return [f"{patient}{sep}{number}" for patient in patients for number in range(1, SLICES + 1)]


def config(root: Path, *overrides: str) -> Config:
    return load_config(
        None,
        [
            "data.source=slices",
            f"data.root={root}",
            f"data.store={root.parent / 'prepared'}",
            "data.image_size=32",
            "data.workers=1",
            "data.validation_patients=1",
            *overrides,
        ],
    )
