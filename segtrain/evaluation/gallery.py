"""Pictures of augmentation for docs/augmentation.md: each effect alone, before and after, and samples of `strong`.

Legend: b batch, h height, w width, c channel.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segtrain.data.augment.batch import to_device
from segtrain.data.augment.draws import Draws
from segtrain.data.augment.mix import Mix
from segtrain.data.augment.strong import EFFECTS, strong_draws
from segtrain.data.sources import CONTRASTS, FLAIR
from segtrain.data.store import Store
from segtrain.evaluation.overlays import Picture, overlay, sheet

log = logging.getLogger(__name__)

PAIRS = 2  # in the picture of an effect
SAMPLES = 12  # in the sheet of samples
COLOURS = 48  # of a PNG's palette
POST = 2
SHOWN: dict[str, int] = {"missing_contrast": POST}  # the contrast in which an effect is visible, if not FLAIR
TITLES = {FLAIR: "FLAIR before, after", POST: "post-contrast before, after"}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Slices:
    """image_bhwc: float16 [b, h, w, 3], mask_bhw: uint8 [b, h, w]."""

    image_bhwc: Tensor
    mask_bhw: Tensor

    def __getitem__(self, part: slice) -> "Slices":
        return Slices(self.image_bhwc[part], self.mask_bhw[part])


def write_gallery(store: Store, seed: int, folder: Path) -> None:
    """Write a PNG for each effect, for copy-paste and for mixup, and `strong.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = _slices(store)
    few, partners = slices[:PAIRS], slices[PAIRS : 2 * PAIRS]
    for name in EFFECTS:
        _write(folder / f"{name}.png", _pairs(few, effect_alone(name, seed), None, SHOWN.get(name, FLAIR)), columns=2)
    _write(folder / "copy_paste.png", _pairs(few, None, _mix(partners, paste=1.0, own_share=1.0), FLAIR), columns=2)
    _write(folder / "mixup.png", _pairs(few, None, _mix(partners, paste=0.0, own_share=0.5), FLAIR), columns=2)
    draws = strong_draws(seed, np.arange(SAMPLES))
    image, mask = to_device(slices.image_bhwc, slices.mask_bhw, draws, CPU)
    samples = [("", _outlined(i[FLAIR], m[0])) for i, m in zip(image, mask, strict=True)]
    _write(folder / "strong.png", samples, columns=4)
    log.info("wrote %d pictures of %s to %s", len(EFFECTS) + 3, store.label, folder)


def row(name: str) -> str:
    """The effect's line in the table of docs/augmentation.md."""
    return f"| {name} | {EFFECTS[name].chance:.0%} | {EFFECTS[name].range_text} | ![](augmentation/{name}.png) |"


def effect_alone(name: str, seed: int) -> Draws:
    """The first draws of `PAIRS` samples in which the effect applies to each sample's shown contrast."""
    shown = SHOWN.get(name, FLAIR)
    for first in range(0, 1000 * PAIRS, PAIRS):
        draws = strong_draws(seed, np.arange(first, first + PAIRS), {name: 1.0})
        assert draws.strong is not None
        drawn = draws.strong.effects.get(name)
        if name in ("blur", "low_resolution") and drawn is None:
            continue  # drawn for no contrast
        if drawn is None or drawn.contrast is None or int((drawn.contrast == shown).sum()) == PAIRS:
            return draws
    raise AssertionError(f"{name} is never drawn for {PAIRS} samples in a row")


def _slices(store: Store) -> Slices:
    """The slice with the most lesion of each of the first patients; with few patients, their next slices too."""
    patients = sorted(store.patients)
    size = store.size_px
    image, mask = np.empty((SAMPLES, size, size, len(CONTRASTS)), np.float16), np.empty((SAMPLES, size, size), np.uint8)
    for number in range(SAMPLES):
        turn, place = divmod(number, len(patients))
        patient = patients[place]
        areas = np.array(store.patients[patient].areas)
        by_area = np.argsort(-areas, kind="stable")
        one = slice(number, number + 1)
        store.read(patient, int(by_area[min(turn, len(areas) - 1)]), image[one], mask[one])
    return Slices(torch.from_numpy(image), torch.from_numpy(mask))


def _mix(partners: Slices, paste: float, own_share: float) -> Mix:
    each = torch.ones(PAIRS)
    return Mix(torch.arange(PAIRS), partners.image_bhwc, partners.mask_bhw, paste * each, own_share * each)


def _pairs(slices: Slices, draws: Draws | None, mix: Mix | None, contrast: int) -> list[tuple[str, Picture]]:
    """Before and after side by side in one picture, so that they have the same grey scale."""
    image, mask = to_device(slices.image_bhwc, slices.mask_bhw, None, CPU)
    after, after_mask = to_device(slices.image_bhwc, slices.mask_bhw, draws, CPU, mix)
    planes = torch.cat((image, after), dim=3)[:, contrast]
    masks = torch.cat((mask, after_mask), dim=3)[:, 0]
    return [(TITLES[contrast], _outlined(*pair)) for pair in zip(planes, masks, strict=True)]


def _outlined(plane_hw: Tensor, mask_hw: Tensor) -> Picture:
    """The image with the outline of the lesion; mixup makes masks between 0 and 1."""
    lesion: NDArray[np.bool_] = mask_hw.numpy() > 0
    return overlay(plane_hw.numpy(), np.zeros_like(lesion), lesion)


def _write(path: Path, pictures: list[tuple[str, Picture]], columns: int) -> None:
    Image.fromarray(sheet(pictures, columns)).quantize(COLOURS).save(path, optimize=True)
