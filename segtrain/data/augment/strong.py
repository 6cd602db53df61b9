"""`data.augment=strong`: the effects, their probabilities and ranges, drawn by position (L4).

Unless a comment says otherwise, probabilities and ranges are those of nnU-Net's released trainer (F. Isensee et al.,
Nature Methods 2021, supplement; `nnUNetTrainer`). docs/augmentation.md shows each effect.

Legend: b batch, k samples or contrasts of samples, s neighbouring slices, c channel, p plane of a mask, h height,
w width.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.data.augment.draws import Contrasts, Drawn, Draws, Strong
from segtrain.data.augment.effects import Effect, effects_of
from segtrain.data.augment.geometry import Affines, Reals, affine_maps, warp_in_air
from segtrain.data.order import AUGMENT_STREAM, generator


def strong_draws(
    seed: int,
    positions: NDArray[np.int64],
    chances: Mapping[str, float] | None = None,
    contrasts: Contrasts = Contrasts(),  # noqa: B008  frozen
    *,
    flip_left_right_chance: float = 0.5,
    flip_up_down_chance: float = 0.5,
    # nnU-Net: 0.2. Raised, since the reference protocol rotates and scales every sample.
    scale_chance: float = 0.5,
    scale: tuple[float, float] = (0.7, 1.4),
    # nnU-Net rotates 2-D images by any angle; heads lie straight in the scanner.
    rotation_chance: float = 0.5,
    rotation_degrees: tuple[float, float] = (-30.0, 30.0),
    # nnU-Net's first version, which still had it: 0.2. Free-form deformation, D. Rueckert et al., IEEE TMI 1999; the
    # standard deviation is that of O. Ronneberger et al., MICCAI 2015: 10 px of 512.
    elastic_chance: float = 0.2,
    elastic_share: float = 0.07,  # of the image's side
    blur_chance: float = 0.2,
    blur_sigma_px: tuple[float, float] = (0.5, 1.0),
    low_resolution_chance: float = 0.25,
    low_resolution_factor: tuple[float, float] = (1.0, 2.0),
    contrast_share: float = 0.5,  # of a sample's contrasts, if blur or low resolution applies to the sample
    # exp of a polynomial of order 3: the model of K. Van Leemput et al., IEEE TMI 1999, drawn as TorchIO does. Within a
    # head the field's largest value is 1.5 times its least (median); with TorchIO's 0.5 it would be 2.7 times.
    bias_field_chance: float = 0.15,
    bias_field_coefficient: float = 0.2,
    brightness_chance: float = 0.15,
    brightness_factor: tuple[float, float] = (0.75, 1.25),
    contrast_chance: float = 0.15,
    contrast_factor: tuple[float, float] = (0.75, 1.25),
    gamma_chance: float = 0.4,  # nnU-Net: 0.3
    gamma_power: tuple[float, float] = (0.7, 1.5),
    gamma_inverted: float = 0.25,  # nnU-Net: 0.1
    noise_chance: float = 0.1,
    noise_variance: float = 0.1,
    # As in the LGG data: of 110 patients, ten lack post-contrast, and six of these lack pre-contrast too. With other
    # contrasts, one of a sample is replaced as data.missing says; without that none is missing.
    missing_contrast_chance: float = 0.1,
    missing_both: float = 0.6,
) -> Draws:
    """The draws of the samples at `positions`.

    `chances`: of the effects by name, in place of those of the options; an effect without an entry never applies.
    """
    options = {name: value for name, value in locals().items() if name in DEFAULTS}
    usual = options == DEFAULTS and contrasts == Contrasts()
    return _draws(seed, positions, chances, EFFECTS if usual else effects_of(options, contrasts), contrasts)


DEFAULTS: Mapping[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(strong_draws).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}
EFFECTS = effects_of(DEFAULTS, Contrasts())
GEOMETRIC = ("flip_left_right", "flip_up_down", "scale", "rotation", "elastic")
INTENSITY = {name: effect.change for name, effect in EFFECTS.items() if effect.change is not None}
PER_CONTRAST = tuple(name for name in EFFECTS if name not in GEOMETRIC)

Picked = tuple[NDArray[np.int64], Reals]  # samples, and the parameters of each


def _draws(
    seed: int,
    positions: NDArray[np.int64],
    chances: Mapping[str, float] | None,
    effects: Mapping[str, Effect],
    contrasts: Contrasts,
) -> Draws:
    if chances is None:
        chances = {name: effect.chance for name, effect in effects.items()}
    total = sum(1 + effect.uniforms for effect in effects.values())
    uniforms = np.stack([generator(seed, AUGMENT_STREAM, int(position)).random(total) for position in positions])
    picked: dict[str, Picked] = {}
    start = 0
    for name, effect in effects.items():
        place = np.flatnonzero(uniforms[:, start] < chances.get(name, 0.0))
        if len(place):
            picked[name] = place, effect.values(uniforms[place, start + 1 : start + 1 + effect.uniforms])
        start += 1 + effect.uniforms
    moved = [picked[name][0] for name in GEOMETRIC if name in picked]
    still = np.setdiff1d(np.arange(len(positions)), np.concatenate(moved) if moved else np.empty(0, np.int64))
    drawn = {name: _drawn(name, *picked[name]) for name in picked if name in ("elastic", *PER_CONTRAST)}
    drawn = {name: one for name, one in drawn.items() if len(one.place)}
    strong = Strong(torch.from_numpy(still), drawn, contrasts)
    return Draws(torch.from_numpy(_affines(len(positions), picked)), strong)


def _drawn(name: str, place: NDArray[np.int64], values: Reals) -> Drawn:
    if name == "elastic":
        return Drawn(torch.from_numpy(place), None, torch.from_numpy(values.astype(np.float32)))
    sample, contrast = np.nonzero(~np.isnan(values.reshape(*values.shape[:2], -1)[..., 0]))
    values = values[sample, contrast].astype(np.float32)
    return Drawn(torch.from_numpy(place[sample]), torch.from_numpy(contrast), torch.from_numpy(values))


def _affines(batch: int, picked: Mapping[str, Picked]) -> Affines:
    scale, flip_x, flip_y = (np.ones(batch) for _ in range(3))
    angle = np.zeros(batch)
    if "flip_left_right" in picked:
        flip_x[picked["flip_left_right"][0]] = -1
    if "flip_up_down" in picked:
        flip_y[picked["flip_up_down"][0]] = -1
    if "scale" in picked:
        scale[picked["scale"][0]] = picked["scale"][1][:, 0]
    if "rotation" in picked:
        angle[picked["rotation"][0]] = np.deg2rad(picked["rotation"][1][:, 0])
    return affine_maps(scale, angle, flip_x, flip_y)


def strengthen(image_bchw: Tensor, mask_bphw: Tensor, affines: Tensor, strong: Strong) -> tuple[Tensor, Tensor]:
    """Image and mask after the effects; all on one device. Channels: each neighbouring slice's contrasts in turn."""
    effects, contrasts = strong.effects, strong.contrasts
    image, mask = warp_in_air(image_bchw, mask_bphw, affines, effects.get("elastic"))
    if len(strong.still):
        image.index_copy_(0, strong.still, image_bchw.index_select(0, strong.still))
        mask.index_copy_(0, strong.still, mask_bphw.index_select(0, strong.still))
    planes = image.flatten(0, 1)
    for name, change in INTENSITY.items():
        if name in effects:
            index = _planes_of(effects[name], image.shape[1], contrasts.count)
            x = planes.index_select(0, index.flatten()).unflatten(0, index.shape)
            planes.index_copy_(0, index.flatten(), change(x, effects[name].values).flatten(0, 1))
    if "missing_contrast" in effects:
        index = _planes_of(effects["missing_contrast"], image.shape[1], contrasts.count).flatten()
        if contrasts.stand_in is None:
            planes.index_fill_(0, index, 0.0)
        else:
            stand_in = index - index % contrasts.count + contrasts.stand_in
            planes.index_copy_(0, index, planes.index_select(0, stand_in))
    return image, mask


def _planes_of(drawn: Drawn, channels: int, contrasts: int) -> Tensor:
    """int64 [k, s]: the indices, in a batch [b * c, h, w], of the contrasts that an effect applies to."""
    assert drawn.contrast is not None
    first = drawn.place * channels + drawn.contrast
    return first[:, None] + torch.arange(0, channels, contrasts, device=first.device)
