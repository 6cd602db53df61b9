"""Pictures of augmentation for docs/augmentation.md: each effect alone, before and after, and samples of `strong`.

Legend: b batch, r region, p plane of a mask, h height, w width, c channel.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segtrain.config import DataConfig, MaskLayout, name_of, options_of
from segtrain.config.reference import Reference
from segtrain.data.augment.batch import is_own, to_device
from segtrain.data.augment.draws import Contrasts, Draws
from segtrain.data.augment.mix import Mix
from segtrain.data.augment.own import OwnAugmentation
from segtrain.data.augment.strong import EFFECTS, strong_draws
from segtrain.data.augment.trial import tried
from segtrain.data.store import Store
from segtrain.evaluation.overlays import Picture, overlay, sheet, shown_contrast

log = logging.getLogger(__name__)

PAIRS = 2  # in the picture of an effect
SAMPLES = 12  # in the sheet of samples
COLOURS = 48  # of a PNG's palette
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Slices:
    """image_bhwc: float16 [b, h, w, c], mask_bhw: uint8 bits of regions [b, h, w]."""

    image_bhwc: Tensor
    mask_bhw: Tensor
    contrasts: tuple[str, ...]
    layout: MaskLayout

    def __getitem__(self, part: slice) -> "Slices":
        return replace(self, image_bhwc=self.image_bhwc[part], mask_bhw=self.mask_bhw[part])

    def after(self, draws: Draws | None, mix: Mix | None = None) -> tuple[Tensor, Tensor]:
        """Images [b, c, h, w] and masks [b, p, h, w] after an augmentation."""
        return to_device(self.image_bhwc, self.mask_bhw, draws, CPU, mix, self.layout)


def write_gallery(store: Store, cfg: DataConfig, seed: int, folder: Path) -> None:
    """Write a PNG for each effect, for copy-paste and for mixup, `strong.png`, and one of an own augmentation.

    The effects have the options of `data.augment` where that is `strong`. Raises ConfigError: trials refuse an own one.
    """
    choice, contrasts = cfg.augment, Contrasts(store.contrasts, cfg.missing)
    own = tried(choice, seed, contrasts.count, store.size_px, store.layout, short=True) if is_own(choice) else None
    recipe = own.require() if own else None
    folder.mkdir(parents=True, exist_ok=True)
    options = options_of(choice) if name_of(choice) == "strong" else {}
    slices, shown = _slices(store), shown_contrast(store.contrasts)
    few, partners = slices[:PAIRS], slices[PAIRS : 2 * PAIRS]
    for name in EFFECTS:
        if name != "missing_contrast" or contrasts.may_miss:
            draws, contrast = effect_alone(name, seed, options, contrasts), _visible_in(name, contrasts)
            _write(folder / f"{name}.png", _pairs(few, draws, None, contrast), columns=2)
    _write(folder / "copy_paste.png", _pairs(few, None, _mix(partners, paste=1.0, own_share=1.0), shown), columns=2)
    _write(folder / "mixup.png", _pairs(few, None, _mix(partners, paste=0.0, own_share=0.5), shown), columns=2)
    image, mask = slices.after(strong_draws(seed, np.arange(SAMPLES), contrasts=contrasts, **options))
    samples = [("", _outlined(i[shown], m)) for i, m in zip(image, mask[:, : len(store.layout.regions)], strict=True)]
    _write(folder / "strong.png", samples, columns=4)
    if recipe and own:
        log.info("%s", own.description)
        after = _after(slices, OwnAugmentation.of(recipe))
        _write(folder / f"{Reference.of(name_of(choice)).name}.png", _side_by_side(slices, *after, shown), columns=4)
    log.info("wrote %d pictures of %s to %s", len(list(folder.glob("*.png"))), store.label, folder)


def _after(slices: Slices, own: OwnAugmentation) -> tuple[Tensor, Tensor]:
    """The slices after an augmentation of the user's own: float32 [b, c, h, w] and [b, p, h, w]."""
    pairs = zip(slices.image_bhwc.numpy(), slices.mask_bhw.numpy(), strict=True)
    samples = [own.augment(image, mask, position) for position, (image, mask) in enumerate(pairs)]
    image, mask = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
    return replace(slices, image_bhwc=image, mask_bhw=mask).after(None)


def _visible_in(effect: str, contrasts: Contrasts) -> int:
    """The contrast in which an effect is seen."""
    return contrasts.may_miss[-1] if effect == "missing_contrast" else shown_contrast(contrasts.names)


def row(name: str) -> str:
    """The effect's line in the table of docs/augmentation.md."""
    return f"| {name} | {EFFECTS[name].chance:.0%} | {EFFECTS[name].range_text} | ![](augmentation/{name}.png) |"


def effect_alone(name: str, seed: int, options: Mapping[str, Any], contrasts: Contrasts) -> Draws:
    """The first draws of `PAIRS` samples in which the effect applies to each sample's shown contrast."""
    shown = _visible_in(name, contrasts)
    for first in range(0, 1000 * PAIRS, PAIRS):
        draws = strong_draws(seed, np.arange(first, first + PAIRS), {name: 1.0}, contrasts, **options)
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
    image = np.empty((SAMPLES, size, size, len(store.contrasts)), np.float16)
    mask = np.empty((SAMPLES, size, size), np.uint8)
    for number in range(SAMPLES):
        turn, place = divmod(number, len(patients))
        patient = patients[place]
        areas = np.array(store.patients[patient].areas)
        by_area = np.argsort(-areas, kind="stable")
        one = slice(number, number + 1)
        store.read(patient, int(by_area[min(turn, len(areas) - 1)]), image[one], mask[one])
    return Slices(torch.from_numpy(image), torch.from_numpy(mask), store.contrasts, store.layout)


def _mix(partners: Slices, paste: float, own_share: float) -> Mix:
    each = torch.ones(PAIRS)
    return Mix(torch.arange(PAIRS), partners.image_bhwc, partners.mask_bhw, paste * each, own_share * each)


def _pairs(slices: Slices, draws: Draws | None, mix: Mix | None, contrast: int) -> list[tuple[str, Picture]]:
    return _side_by_side(slices, *slices.after(draws, mix), contrast)


def _side_by_side(slices: Slices, after: Tensor, after_mask: Tensor, contrast: int) -> list[tuple[str, Picture]]:
    """Before and after in one picture, so that they have the same grey scale."""
    image, mask = slices.after(None)
    planes = torch.cat((image, after), dim=3)[:, contrast]
    masks = torch.cat((mask, after_mask), dim=3)[:, : len(slices.layout.regions)]
    title = f"{slices.contrasts[contrast]} before, after"
    return [(title, _outlined(*pair)) for pair in zip(planes, masks, strict=True)]


def _outlined(plane_hw: Tensor, mask_rhw: Tensor) -> Picture:
    """The image with the outline of the lesion, of any region; mixup makes masks between 0 and 1."""
    lesion: NDArray[np.bool_] = np.any(mask_rhw.numpy() > 0, axis=0)
    return overlay(plane_hw.numpy(), np.zeros_like(lesion), lesion)


def _write(path: Path, pictures: list[tuple[str, Picture]], columns: int) -> None:
    Image.fromarray(sheet(pictures, columns)).quantize(COLOURS).save(path, optimize=True)
