"""Label errors planted among real patients in the LGG layout: shifted, missing, extra and swapped masks.

Legend: s slice, h height, w width.
"""

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.data.sources.lgg import LggSource

Mask = NDArray[np.bool_]
PATIENTS = 40
FEWEST_VOXELS = 3000  # of a lesion whose mask gets an error; at 256 x 256 the median patient has 19,000


@dataclass(frozen=True)
class Error:
    """What was done to a patient's mask."""

    kind: str
    detail: str


def plant(source: Path, out: Path, seed: int = 21) -> Mapping[str, Error]:
    """Forty patients drawn from `source`, written to `out` with ten errors; the error of each patient who has one.

    Images are links to those of the source. The draw is seeded: the same patients and errors each time.
    """
    rng = random.Random(seed)
    lgg = LggSource(source)
    patients = sorted(rng.sample(lgg.patients(), PATIENTS))
    masks = {patient: read_mask(lgg, patient) for patient in patients}
    fit = [patient for patient in patients if masks[patient].sum() >= FEWEST_VOXELS]
    rng.shuffle(fit)
    changed, errors = dict(masks), {}
    first = fit.pop()
    while not (partners := [patient for patient in fit if len(masks[patient]) == len(masks[first])]):
        first = fit.pop()
    second = partners[0]
    fit.remove(second)
    for one, other in ((first, second), (second, first)):
        changed[one], errors[one] = masks[other], Error("swapped", f"with {other}")
    for kind, detail in PLANS:
        patient = fit.pop()
        changed[patient] = CHANGES[kind](masks[patient], detail, rng)
        errors[patient] = Error(kind, detail)
    for patient in patients:
        _write(lgg, patient, changed[patient], out / patient)
    return errors


def read_mask(source: LggSource, patient: str) -> Mask:
    return np.stack([np.asarray(Image.open(path)) > 0 for path in source.files(patient).masks])


def shifted(mask_shw: Mask, detail: str, rng: random.Random) -> Mask:
    """Moved by 20 pixels in plane in any direction, or by 2 slices."""
    if detail == "2 slices":
        return moved(mask_shw, (rng.choice((-2, 2)), 0, 0))
    angle = rng.uniform(0, 2 * np.pi)
    return moved(mask_shw, (0, round(20 * np.sin(angle)), round(20 * np.cos(angle))))


def moved(mask_shw: Mask, by: tuple[int, int, int]) -> Mask:
    """The mask moved by whole voxels; what leaves the volume is lost."""
    out = np.zeros_like(mask_shw)
    there = tuple(slice(max(0, step), size + min(0, step)) for step, size in zip(by, mask_shw.shape, strict=True))
    here = tuple(slice(max(0, -step), size - max(0, step)) for step, size in zip(by, mask_shw.shape, strict=True))
    out[there] = mask_shw[here]
    return out


def missing(mask_shw: Mask, detail: str, rng: random.Random) -> Mask:
    """Without the lesion in the upper half, or the upper two thirds, of its slices."""
    slices = np.flatnonzero(mask_shw.any(axis=(1, 2)))
    first_missing = len(slices) // (3 if detail == "two thirds of the slices" else 2)
    out = mask_shw.copy()
    out[slices[first_missing:]] = False
    return out


def extra(mask_shw: Mask, detail: str, rng: random.Random) -> Mask:
    """With a second lesion: the mirror image of the first, on the other side of the head."""
    return mask_shw | mask_shw[:, :, ::-1]


PLANS = (
    ("shifted", "20 px in plane"),
    ("shifted", "20 px in plane"),
    ("shifted", "2 slices"),
    ("missing", "two thirds of the slices"),
    ("missing", "half of the slices"),
    ("extra", "mirrored lesion"),
    ("extra", "mirrored lesion"),
    ("extra", "mirrored lesion"),
)
CHANGES = {"shifted": shifted, "missing": missing, "extra": extra}


def _write(source: LggSource, patient: str, mask_shw: Mask, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = source.files(patient)
    for image, mask, mask_hw in zip(files.images, files.masks, mask_shw, strict=True):
        (folder / image.name).symlink_to(image.resolve())
        Image.fromarray(mask_hw.astype(np.uint8) * 255).save(folder / mask.name)
