"""The effects of `data.augment=strong`: what each draws from uniform random numbers, with the options of a config.

Legend: k samples, c contrasts, s neighbouring slices, n control points along a side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from segtrain.data.augment import intensity
from segtrain.data.augment.draws import Contrasts
from segtrain.data.augment.geometry import Reals
from segtrain.data.augment.intensity import ORDERS
from segtrain.data.augment.noise import KEY_BITS
from segtrain.errors import ConfigError

ELASTIC_POINTS = 6  # along a side; an option would change how many random numbers a sample draws
# A point may move by less than 0.48 of the distance between points, so that the image cannot fold: Y. Choi, S. Lee,
# Graphical Models 2000.
MOST_ELASTIC = 0.48 / (ELASTIC_POINTS - 3)

# Between these the effects are numbers: float32 has no more than exp(88).
LARGEST = {"bias_field_coefficient": 2.0, "noise_variance": 100.0}
RANGES = {
    "scale": (0.01, 100.0),
    "rotation_degrees": (-360.0, 360.0),
    "blur_sigma_px": (0.0, 100.0),
    "low_resolution_factor": (1.0, 100.0),
    "gamma_power": (0.1, 100.0),
}
Limits = tuple[float, float]
Options = Mapping[str, Any]  # of `strong_draws`, by name


@dataclass(frozen=True)
class Effect:
    """One effect of `strong`.

    chance: of applying to a sample; uniforms: the random numbers that it needs; range_text: its range, for people.
    values: from uniforms [k, uniforms] to parameters: [k, ...] for the whole sample, or [k, c, ...] for each contrast,
    where a contrast whose first parameter is NaN stays unchanged. change: a function of `intensity`, if it has one.
    """

    chance: float
    uniforms: int
    values: Callable[[Reals], Reals]
    range_text: str
    change: Callable[[Tensor, Tensor], Tensor] | None = None


def _between(limits: Limits, u: Reals) -> Reals:
    return limits[0] + (limits[1] - limits[0]) * u


def _per_contrast(limits: Limits, share: float = 1.0) -> Callable[[Reals], Reals]:
    """[k, c, 1]: a value for each contrast; the effect applies to a contrast with probability `share`."""

    def values(u: Reals) -> Reals:
        value, chance = u.reshape(len(u), -1, 2).transpose(2, 0, 1)
        return np.where(chance < share, _between(limits, value), np.nan)[..., None]

    return values


def _scale(limits: Limits, u: Reals) -> Reals:
    """Below 1 as often as above."""
    return np.where(u < 0.5, limits[0] + (1 - limits[0]) * 2 * u, 1 + (limits[1] - 1) * (2 * u - 1))


def _elastic(share: float, u: Reals) -> Reals:
    """[k, 2, n, n], in coordinates of -1..1, in which the side is 2."""
    return 2 * share * (2 * u - 1).reshape(-1, 2, ELASTIC_POINTS, ELASTIC_POINTS)


def _bias_field(coefficient: float, contrasts: int, u: Reals) -> Reals:
    """[k, c, 4, 4]: coefficients of total order 1 to 3; order 0 would be brightness.

    One field for all contrasts: it is that of the coil, and a patient's contrasts are scanned with one coil.
    """
    order = np.add.outer(np.arange(ORDERS), np.arange(ORDERS))
    values = coefficient * (2 * u.reshape(-1, 1, ORDERS, ORDERS) - 1) * ((order > 0) & (order < ORDERS))
    return np.repeat(values, contrasts, axis=1)


def _gamma(limits: Limits, inverted: float, u: Reals) -> Reals:
    """[k, c, 2]: each contrast's power; and 1 for inverted, common to the contrasts."""
    power = _between(limits, u[:, :-1])
    return np.stack((power, np.broadcast_to(u[:, -1:] < inverted, power.shape)), axis=2)


def _noise(variance: float, u: Reals) -> Reals:
    """[k, c, 3]: the standard deviation, common to the contrasts, and the two halves of a key."""
    key = np.floor(u[:, 1:] * 2**KEY_BITS).reshape(len(u), -1, 2)
    deviation = np.repeat(np.sqrt(variance * u[:, :1, None]), key.shape[1], axis=1)
    return np.concatenate((deviation, key), axis=2)


def _missing_contrast(both: float, contrasts: Contrasts, u: Reals) -> Reals:
    """[k, c, 1]: 1 for a missing contrast: of LGG's post-contrast, in some samples pre-contrast too; else any one."""
    if contrasts.are_lgg:
        return np.stack((np.where(u < both, 1, np.nan), np.full_like(u, np.nan), np.ones_like(u)), axis=1)
    may_miss = np.array(contrasts.may_miss)
    values = np.full((len(u), contrasts.count, 1), np.nan)
    values[np.arange(len(u)), may_miss[(u[:, 0] * len(may_miss)).astype(np.int64)]] = 1
    return values


def _missing_text(both: float, contrasts: Contrasts) -> str:
    if contrasts.are_lgg:
        return f"FLAIR in place of post-contrast, in {both:.0%} of them of pre-contrast too"
    stand_in = "zeros" if contrasts.stand_in is None else contrasts.names[contrasts.stand_in]
    return f"{stand_in} in place of another contrast"


def _range(limits: Limits) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _geometric_effects(o: Options) -> dict[str, Effect]:
    share = o["elastic_share"]
    return {
        "flip_left_right": Effect(o["flip_left_right_chance"], 0, lambda u: u, "left-right"),
        "flip_up_down": Effect(o["flip_up_down_chance"], 0, lambda u: u, "front to back"),
        "scale": Effect(
            o["scale_chance"], 1, partial(_scale, o["scale"]), f"{_range(o['scale'])}, as often below 1 as above"
        ),
        "rotation": Effect(
            o["rotation_chance"], 1, partial(_between, o["rotation_degrees"]),
            f"{_range(o['rotation_degrees'])} degrees",
        ),
        "elastic": Effect(
            o["elastic_chance"], 2 * ELASTIC_POINTS**2, partial(_elastic, share),
            f"{ELASTIC_POINTS} x {ELASTIC_POINTS} control points, each by up to {share:.0%} of the side in x and y",
        ),
    }  # fmt: skip


def _scanner_effects(o: Options, contrasts: int) -> dict[str, Effect]:
    share, coefficient = o["contrast_share"], o["bias_field_coefficient"]
    each = f"of each contrast with a chance of {share:.0%}"
    return {
        "blur": Effect(
            o["blur_chance"], 2 * contrasts, _per_contrast(o["blur_sigma_px"], share),
            f"sigma {_range(o['blur_sigma_px'])} px, {each}",
            intensity.blur,
        ),
        "low_resolution": Effect(
            o["low_resolution_chance"], 2 * contrasts, _per_contrast(o["low_resolution_factor"], share),
            f"voxels {_range(o['low_resolution_factor'])} times as wide, {each}",
            intensity.low_resolution,
        ),
        "bias_field": Effect(
            o["bias_field_chance"], ORDERS**2, partial(_bias_field, coefficient, contrasts),
            f"exp of a polynomial of order {ORDERS - 1}, coefficients {_range((-coefficient, coefficient))}",
            intensity.bias_field,
        ),
    }  # fmt: skip


def _value_effects(o: Options, contrasts: int) -> dict[str, Effect]:
    return {
        "brightness": Effect(
            o["brightness_chance"], 2 * contrasts, _per_contrast(o["brightness_factor"]),
            f"times {_range(o['brightness_factor'])} above air, each contrast its own",
            intensity.brightness,
        ),
        "contrast": Effect(
            o["contrast_chance"], 2 * contrasts, _per_contrast(o["contrast_factor"]),
            f"times {_range(o['contrast_factor'])} about the mean, each contrast its own",
            intensity.contrast,
        ),
        "gamma": Effect(
            o["gamma_chance"], contrasts + 1, partial(_gamma, o["gamma_power"], o["gamma_inverted"]),
            f"power {_range(o['gamma_power'])}, each contrast its own; {o['gamma_inverted']:.0%} on the inverted image",
            intensity.gamma,
        ),
        "noise": Effect(
            o["noise_chance"], 1 + 2 * contrasts, partial(_noise, o["noise_variance"]),
            f"Gaussian of variance 0 to {o['noise_variance']:g}",
            intensity.noise,
        ),
    }  # fmt: skip


def _missing_effects(o: Options, contrasts: Contrasts) -> dict[str, Effect]:
    """None where no patient may lack a contrast."""
    if not contrasts.may_miss:
        return {}
    both = o["missing_both"]
    values = partial(_missing_contrast, both, contrasts)
    return {"missing_contrast": Effect(o["missing_contrast_chance"], 1, values, _missing_text(both, contrasts))}


def effects_of(options: Options, contrasts: Contrasts) -> dict[str, Effect]:
    """The effects in the order of application, with all of the options.

    Blur comes before noise, as in a scanner; the missing contrast comes last, so that the copy of FLAIR is exact, as in
    the data. Raises ConfigError: a value that an option cannot have.
    """
    for name, value in options.items():
        if problem := _problem(name, value):
            raise ConfigError(f"data.augment.{name}={value}: {problem}")
    return {
        **_geometric_effects(options),
        **_scanner_effects(options, contrasts.count),
        **_value_effects(options, contrasts.count),
        **_missing_effects(options, contrasts),
    }


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with an option's value, with the remedy."""
    if name.endswith("_chance") or name in ("contrast_share", "gamma_inverted", "missing_both"):
        return None if 0 <= value <= 1 else "a chance belongs here; set it to a number from 0 to 1"
    if name == "elastic_share":
        return None if 0 <= value <= MOST_ELASTIC else f"a larger one folds the image; set {MOST_ELASTIC:g} or less"
    if name in LARGEST:
        most = LARGEST[name]
        return None if 0 <= value <= most else f"set it to a number from 0 to {most:g}"
    low, high = value
    if low > high:
        return f"the smaller number comes first; set [{high}, {low}]"
    if name == "scale" and not 0 < low <= 1 <= high:
        return "1 must lie between the two, for example [0.9, 1.1]"
    least, most = RANGES.get(name, (0.0, 100.0))
    if not low >= least:
        return f"set the smaller number to {least:g} or more"
    return None if high <= most else f"set the larger number to {most:g} or less"
