"""Call `segtrain predict` on one made-up patient in the shape of a test's choosing, and read what it left."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from segtrain.commands.predict import command
from segtrain.data.sources.phantom import phantom_patient
from segtrain.run import Run

Volume = NDArray[Any]
IMAGE, MASK = phantom_patient(0, 2, 64)
NEW_IMAGE, NEW_MASK = phantom_patient(1, 2, 64)  # of nobody whom a run of the tests was trained on
for array in (IMAGE, MASK):
    array.flags.writeable = False


def predict(run: Run, images: Path, out: Path, *more: str) -> Path:
    assert command([str(run.root), "--images", str(images), "--out", str(out), *more]) == 0
    return out


def write_patient(folder: Path, patient: str, image_shwc: Volume, mask_shw: Volume | None) -> None:
    """In the LGG layout."""
    (folder / patient).mkdir(parents=True)
    for k, image in enumerate(image_shwc, start=1):
        Image.fromarray(image).save(folder / patient / f"{patient}_{k}.tif")
        if mask_shw is not None:
            Image.fromarray(mask_shw[k - 1] * np.uint8(255)).save(folder / patient / f"{patient}_{k}_mask.tif")


def read(path: Path) -> Volume:
    return np.asarray(Image.open(path))


def pages(path: Path) -> Volume:
    with Image.open(path) as tiff:
        return np.stack([np.asarray(page) for page in ImageSequence.Iterator(tiff)])


def lgg_mask(out: Path) -> Volume:
    """Of patient P in the LGG layout, bool [s, h, w]."""
    return np.stack([read(out / "masks/P" / f"P_{k}_mask.tif") for k in range(1, len(MASK) + 1)]) > 0


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))
