"""`data.augment=strong`: the effects, their probabilities and ranges, drawn by position (L4).

Unless a comment says otherwise, probabilities and ranges are those of nnU-Net's released trainer (F. Isensee et al.,
Nature Methods 2021, supplement; `nnUNetTrainer`). docs/augmentation.md shows each effect.

Legend: b batch, k samples or contrasts of samples, s neighbouring slices, c channel, h height, w width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.data.augment import intensity
from segtrain.data.augment.draws import Drawn, Draws, Strong
from segtrain.data.augment.geometry import Affines, Reals, affine_maps, warp_in_air
from segtrain.data.augment.intensity import ORDERS
from segtrain.data.augment.noise import KEY_BITS
from segtrain.data.order import AUGMENT_STREAM, generator
from segtrain.data.sources import CONTRASTS, FLAIR

CHANNELS = len(CONTRASTS)  # of a slice

FLIP_CHANCE = 0.5
# nnU-Net: 0.2. Raised, since the reference protocol rotates and scales every sample.
SCALE_CHANCE, SCALE = 0.5, (0.7, 1.4)
# nnU-Net rotates 2-D images by any angle; heads lie straight in the scanner.
ROTATION_CHANCE, ANGLE_DEGREES = 0.5, (-30.0, 30.0)
# nnU-Net's first version, which still had it: 0.2. Free-form deformation, D. Rueckert et al., IEEE TMI 1999; the
# standard deviation is that of O. Ronneberger et al., MICCAI 2015: 10 px of 512. Points move by less than 0.48 of their
# distance, so that the image cannot fold: Y. Choi, S. Lee, Graphical Models 2000.
ELASTIC_CHANCE, ELASTIC_POINTS, ELASTIC_SHARE = 0.2, 6, 0.07  # of the image's side
BLUR_CHANCE, BLUR_SIGMA_PX = 0.2, (0.5, 1.0)
LOW_RESOLUTION_CHANCE, LOW_RESOLUTION_FACTOR = 0.25, (1.0, 2.0)
CONTRAST_SHARE = 0.5  # of a sample's contrasts, if blur or low resolution applies to the sample
# exp of a polynomial of order 3: the model of K. Van Leemput et al., IEEE TMI 1999, drawn as TorchIO does. Within a
# head the field's largest value is 1.5 times its least (median); with TorchIO's 0.5 it would be 2.7 times.
BIAS_CHANCE, BIAS_COEFFICIENT = 0.15, 0.2
BRIGHTNESS_CHANCE, BRIGHTNESS_FACTOR = 0.15, (0.75, 1.25)
CONTRAST_CHANCE, CONTRAST_FACTOR = 0.15, (0.75, 1.25)
GAMMA_CHANCE, GAMMA_POWER, GAMMA_INVERTED = 0.4, (0.7, 1.5), 0.25  # nnU-Net: 0.3, and 0.1 inverted
NOISE_CHANCE, NOISE_VARIANCE = 0.1, 0.1
# As in the data: of 110 patients, ten lack post-contrast, and six of these lack pre-contrast too.
MISSING_CHANCE, MISSING_BOTH = 0.1, 0.6


@dataclass(frozen=True)
class Effect:
    """A row of EFFECTS.

    chance: of applying to a sample; uniforms: the random numbers that it needs; range_text: its range, for people.
    values: from uniforms [k, uniforms] to parameters: [k, ...] for the whole sample, or [k, 3, ...] for each contrast,
    where a contrast whose first parameter is NaN stays unchanged. change: a function of `intensity`, if it has one.
    """

    chance: float
    uniforms: int
    values: Callable[[Reals], Reals]
    range_text: str
    change: Callable[[Tensor, Tensor], Tensor] | None = None


def _between(limits: tuple[float, float], u: Reals) -> Reals:
    return limits[0] + (limits[1] - limits[0]) * u


def _per_contrast(limits: tuple[float, float], share: float = 1.0) -> Callable[[Reals], Reals]:
    """[k, 3, 1]: a value for each contrast; the effect applies to a contrast with probability `share`."""

    def values(u: Reals) -> Reals:
        value, chance = u.reshape(-1, CHANNELS, 2).transpose(2, 0, 1)
        return np.where(chance < share, _between(limits, value), np.nan)[..., None]

    return values


def _scale(u: Reals) -> Reals:
    """Below 1 as often as above."""
    return np.where(u < 0.5, SCALE[0] + (1 - SCALE[0]) * 2 * u, 1 + (SCALE[1] - 1) * (2 * u - 1))


def _elastic(u: Reals) -> Reals:
    """[k, 2, n, n], in coordinates of -1..1, in which the side is 2."""
    return 2 * ELASTIC_SHARE * (2 * u - 1).reshape(-1, 2, ELASTIC_POINTS, ELASTIC_POINTS)


def _bias_field(u: Reals) -> Reals:
    """[k, 3, 4, 4]: coefficients of total order 1 to 3; order 0 would be brightness.

    One field for all contrasts: it is that of the coil, and a patient's contrasts are scanned with one coil.
    """
    order = np.add.outer(np.arange(ORDERS), np.arange(ORDERS))
    values = BIAS_COEFFICIENT * (2 * u.reshape(-1, 1, ORDERS, ORDERS) - 1) * ((order > 0) & (order < ORDERS))
    return np.repeat(values, CHANNELS, axis=1)


def _gamma(u: Reals) -> Reals:
    """[k, 3, 2]: each contrast's power; and 1 for inverted, common to the contrasts."""
    power = _between(GAMMA_POWER, u[:, :CHANNELS])
    return np.stack((power, np.broadcast_to(u[:, CHANNELS:] < GAMMA_INVERTED, power.shape)), axis=2)


def _noise(u: Reals) -> Reals:
    """[k, 3, 3]: the standard deviation, common to the contrasts, and the two halves of a key."""
    deviation = np.repeat(np.sqrt(NOISE_VARIANCE * u[:, :1, None]), CHANNELS, axis=1)
    return np.concatenate((deviation, np.floor(u[:, 1:] * 2**KEY_BITS).reshape(-1, CHANNELS, 2)), axis=2)


def _missing_contrast(u: Reals) -> Reals:
    """[k, 3, 1]: 1 for post-contrast, in some samples for pre-contrast too."""
    return np.stack((np.where(u < MISSING_BOTH, 1, np.nan), np.full_like(u, np.nan), np.ones_like(u)), axis=1)


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


# In the order of application: blur before noise, as in a scanner; the missing contrast last, so that the copy of FLAIR
# is exact, as in the data.
EFFECTS: dict[str, Effect] = {
    "flip_left_right": Effect(FLIP_CHANCE, 0, lambda u: u, "left-right"),
    "flip_up_down": Effect(FLIP_CHANCE, 0, lambda u: u, "front to back"),
    "scale": Effect(SCALE_CHANCE, 1, _scale, f"{_range(SCALE)}, as often below 1 as above"),
    "rotation": Effect(
        ROTATION_CHANCE, 1, lambda u: _between(ANGLE_DEGREES, u), f"{_range(ANGLE_DEGREES)} degrees"
    ),
    "elastic": Effect(
        ELASTIC_CHANCE, 2 * ELASTIC_POINTS**2, _elastic,
        f"{ELASTIC_POINTS} x {ELASTIC_POINTS} control points, each by up to {ELASTIC_SHARE:.0%} of the side in x and y",
    ),
    "blur": Effect(
        BLUR_CHANCE, 2 * CHANNELS, _per_contrast(BLUR_SIGMA_PX, CONTRAST_SHARE),
        f"sigma {_range(BLUR_SIGMA_PX)} px, of each contrast with a chance of {CONTRAST_SHARE:.0%}",
        intensity.blur,
    ),
    "low_resolution": Effect(
        LOW_RESOLUTION_CHANCE, 2 * CHANNELS, _per_contrast(LOW_RESOLUTION_FACTOR, CONTRAST_SHARE),
        f"voxels {_range(LOW_RESOLUTION_FACTOR)} times as wide, of each contrast with a chance of {CONTRAST_SHARE:.0%}",
        intensity.low_resolution,
    ),
    "bias_field": Effect(
        BIAS_CHANCE, ORDERS**2, _bias_field,
        f"exp of a polynomial of order {ORDERS - 1}, coefficients {_range((-BIAS_COEFFICIENT, BIAS_COEFFICIENT))}",
        intensity.bias_field,
    ),
    "brightness": Effect(
        BRIGHTNESS_CHANCE, 2 * CHANNELS, _per_contrast(BRIGHTNESS_FACTOR),
        f"times {_range(BRIGHTNESS_FACTOR)} above air, each contrast its own",
        intensity.brightness,
    ),
    "contrast": Effect(
        CONTRAST_CHANCE, 2 * CHANNELS, _per_contrast(CONTRAST_FACTOR),
        f"times {_range(CONTRAST_FACTOR)} about the mean, each contrast its own",
        intensity.contrast,
    ),
    "gamma": Effect(
        GAMMA_CHANCE, CHANNELS + 1, _gamma,
        f"power {_range(GAMMA_POWER)}, each contrast its own; {GAMMA_INVERTED:.0%} on the inverted image",
        intensity.gamma,
    ),
    "noise": Effect(
        NOISE_CHANCE, 1 + 2 * CHANNELS, _noise, f"Gaussian of variance 0 to {NOISE_VARIANCE:g}", intensity.noise
    ),
    "missing_contrast": Effect(
        MISSING_CHANCE, 1, _missing_contrast,
        f"FLAIR in place of post-contrast, in {MISSING_BOTH:.0%} of them of pre-contrast too",
    ),
}  # fmt: skip

CHANCES = {name: effect.chance for name, effect in EFFECTS.items()}
GEOMETRIC = ("flip_left_right", "flip_up_down", "scale", "rotation", "elastic")
INTENSITY = {name: effect.change for name, effect in EFFECTS.items() if effect.change is not None}
PER_CONTRAST = tuple(name for name in EFFECTS if name not in GEOMETRIC)

Picked = tuple[NDArray[np.int64], Reals]  # samples, and the parameters of each


def strong_draws(seed: int, positions: NDArray[np.int64], chances: Mapping[str, float] = CHANCES) -> Draws:
    """The draws of the samples at `positions`; an effect without an entry in `chances` never applies."""
    total = sum(1 + effect.uniforms for effect in EFFECTS.values())
    uniforms = np.stack([generator(seed, AUGMENT_STREAM, int(position)).random(total) for position in positions])
    picked: dict[str, Picked] = {}
    start = 0
    for name, effect in EFFECTS.items():
        place = np.flatnonzero(uniforms[:, start] < chances.get(name, 0.0))
        if len(place):
            picked[name] = place, effect.values(uniforms[place, start + 1 : start + 1 + effect.uniforms])
        start += 1 + effect.uniforms
    moved = [picked[name][0] for name in GEOMETRIC if name in picked]
    still = np.setdiff1d(np.arange(len(positions)), np.concatenate(moved) if moved else np.empty(0, np.int64))
    effects = {name: _drawn(name, *picked[name]) for name in picked if name in ("elastic", *PER_CONTRAST)}
    effects = {name: drawn for name, drawn in effects.items() if len(drawn.place)}
    return Draws(torch.from_numpy(_affines(len(positions), picked)), Strong(torch.from_numpy(still), effects))


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


def strengthen(image_bchw: Tensor, mask_b1hw: Tensor, affines: Tensor, strong: Strong) -> tuple[Tensor, Tensor]:
    """Image and mask after the effects; all on one device. Channels: each neighbouring slice's contrasts in turn."""
    effects = strong.effects
    image, mask = warp_in_air(image_bchw, mask_b1hw, affines, effects.get("elastic"))
    if len(strong.still):
        image.index_copy_(0, strong.still, image_bchw.index_select(0, strong.still))
        mask.index_copy_(0, strong.still, mask_b1hw.index_select(0, strong.still))
    planes = image.flatten(0, 1)
    for name, change in INTENSITY.items():
        if name in effects:
            index = _planes_of(effects[name], image.shape[1])
            x = planes.index_select(0, index.flatten()).unflatten(0, index.shape)
            planes.index_copy_(0, index.flatten(), change(x, effects[name].values).flatten(0, 1))
    if "missing_contrast" in effects:
        index = _planes_of(effects["missing_contrast"], image.shape[1]).flatten()
        flair = index - index % CHANNELS + FLAIR
        planes.index_copy_(0, index, planes.index_select(0, flair))
    return image, mask


def _planes_of(drawn: Drawn, channels: int) -> Tensor:
    """int64 [k, s]: the indices, in a batch [b * c, h, w], of the contrasts that an effect applies to."""
    assert drawn.contrast is not None
    first = drawn.place * channels + drawn.contrast
    return first[:, None] + torch.arange(0, channels, CHANNELS, device=first.device)
