"""Small patients in the published layout, and a config to prepare them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from segtrain.config import Config, load_config
from segtrain.data.prepare import ensure_store

# Of the fixture `shared`: makes what has a name once in a session of all workers; the folder.
Shared = Callable[[str, Callable[[Path], object]], Path]


def write_patient(folder: Path, seed: int, slices: int = 6) -> None:
    """A small patient in the published layout."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(1, slices + 1):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 8:20] = 255 if 2 <= number <= 4 else 0
        Image.fromarray(rng.integers(30, 256, (32, 32, 3), np.uint8)).save(folder / f"{folder.name}_{number}.tif")
        Image.fromarray(mask).save(folder / f"{folder.name}_{number}_mask.tif")


def config(root: Path, *overrides: str) -> Config:
    store = root.parent / "prepared"
    return load_config(
        None,
        [
            "data.source=lgg",
            f"data.root={root}",
            f"data.store={store}",
            "data.image_size=32",
            "data.workers=1",
            *overrides,
        ],
    )


def replace(path: Path, array: np.ndarray) -> None:
    path.unlink()
    Image.fromarray(array).save(path)


def write_16_bits(path: Path) -> None:
    tifffile.imwrite(path, np.asarray(Image.open(path)).astype(np.uint16) * 16, photometric="rgb")


def rename(old: Path, new: str) -> None:
    old.rename(old.with_name(new))


P, FIRST = "TCGA_XX_1", "TCGA_XX_1/TCGA_XX_1_1.tif"


def give_phantoms(folder: Path, shared: Shared) -> None:
    """The phantoms of the notebooks, prepared once, where a program that works in the folder looks for them."""
    settings = ["data.image_size=32", "data.phantom.patients=12"]

    def make(path: Path) -> None:
        ensure_store(load_config("phantom", [*settings, f"data.store={path}"]).data)

    (folder / "prepared").symlink_to(shared("phantoms-of-notebooks", make))
