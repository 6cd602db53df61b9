"""Pictures of augmentation for docs/augmentation.md: each effect alone, before and after, and samples of `strong`.

Legend: b batch, h height, w width, c channel.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segtrain.config import LGG_CONTRASTS, Choice, name_of, options_of
from segtrain.config.reference import Reference
from segtrain.data.augment.batch import is_own, to_device
from segtrain.data.augment.draws import Draws
from segtrain.data.augment.mix import Mix
from segtrain.data.augment.own import OwnAugmentation
from segtrain.data.augment.strong import EFFECTS, strong_draws
from segtrain.data.augment.trial import tried
from segtrain.data.sources import FLAIR
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


def write_gallery(store: Store, choice: Choice, seed: int, folder: Path) -> None:
    """Write a PNG for each effect, for copy-paste and for mixup, `strong.png`, and one of an own augmentation.

    The effects have the options of `choice` where that is `strong`. Raises ConfigError: trials refuse an own one.
    """
    own = tried(choice, seed, len(LGG_CONTRASTS), store.size_px, short=True) if is_own(choice) else None
    recipe = own.require() if own else None
    folder.mkdir(parents=True, exist_ok=True)
    options = options_of(choice) if name_of(choice) == "strong" else {}
    slices = _slices(store)
    few, partners = slices[:PAIRS], slices[PAIRS : 2 * PAIRS]
    for name in EFFECTS:
        draws = effect_alone(name, seed, options)
        _write(folder / f"{name}.png", _pairs(few, draws, None, SHOWN.get(name, FLAIR)), columns=2)
    _write(folder / "copy_paste.png", _pairs(few, None, _mix(partners, paste=1.0, own_share=1.0), FLAIR), columns=2)
    _write(folder / "mixup.png", _pairs(few, None, _mix(partners, paste=0.0, own_share=0.5), FLAIR), columns=2)
    draws = strong_draws(seed, np.arange(SAMPLES), **options)
    image, mask = to_device(slices.image_bhwc, slices.mask_bhw, draws, CPU)
    samples = [("", _outlined(i[FLAIR], m[0])) for i, m in zip(image, mask, strict=True)]
    _write(folder / "strong.png", samples, columns=4)
    if recipe and own:
        log.info("%s", own.description)
        after = _after(slices, OwnAugmentation.of(recipe))
        _write(folder / f"{Reference.of(name_of(choice)).name}.png", _side_by_side(slices, *after, FLAIR), columns=4)
    log.info("wrote %d pictures of %s to %s", len(list(folder.glob("*.png"))), store.label, folder)


def _after(slices: Slices, own: OwnAugmentation) -> tuple[Tensor, Tensor]:
    """The slices after an augmentation of the user's own: float32 [b, c, h, w] and [b, 1, h, w]."""
    pairs = zip(slices.image_bhwc.numpy(), slices.mask_bhw.numpy(), strict=True)
    samples = [own.augment(image, mask, position) for position, (image, mask) in enumerate(pairs)]
    image, mask = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
    return to_device(image, mask, None, CPU)


def row(name: str) -> str:
    """The effect's line in the table of docs/augmentation.md."""
    return f"| {name} | {EFFECTS[name].chance:.0%} | {EFFECTS[name].range_text} | ![](augmentation/{name}.png) |"


def effect_alone(name: str, seed: int, options: Mapping[str, Any]) -> Draws:
    """The first draws of `PAIRS` samples in which the effect applies to each sample's shown contrast."""
    shown = SHOWN.get(name, FLAIR)
    for first in range(0, 1000 * PAIRS, PAIRS):
        draws = strong_draws(seed, np.arange(first, first + PAIRS), {name: 1.0}, **options)
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
    image, mask = (
        np.empty((SAMPLES, size, size, len(LGG_CONTRASTS)), np.float16),
        np.empty((SAMPLES, size, size), np.uint8),
    )
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
    after, after_mask = to_device(slices.image_bhwc, slices.mask_bhw, draws, CPU, mix)
    return _side_by_side(slices, after, after_mask, contrast)


def _side_by_side(slices: Slices, after: Tensor, after_mask: Tensor, contrast: int) -> list[tuple[str, Picture]]:
    """Before and after in one picture, so that they have the same grey scale."""
    image, mask = to_device(slices.image_bhwc, slices.mask_bhw, None, CPU)
    planes = torch.cat((image, after), dim=3)[:, contrast]
    masks = torch.cat((mask, after_mask), dim=3)[:, 0]
    return [(TITLES[contrast], _outlined(*pair)) for pair in zip(planes, masks, strict=True)]


def _outlined(plane_hw: Tensor, mask_hw: Tensor) -> Picture:
    """The image with the outline of the lesion; mixup makes masks between 0 and 1."""
    lesion: NDArray[np.bool_] = mask_hw.numpy() > 0
    return overlay(plane_hw.numpy(), np.zeros_like(lesion), lesion)


def _write(path: Path, pictures: list[tuple[str, Picture]], columns: int) -> None:
    Image.fromarray(sheet(pictures, columns)).quantize(COLOURS).save(path, optimize=True)
