"""Options of `augment=strong` and `reference`: every chance and range, checked before training."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segtrain.config import Config
from segtrain.data.augment.batch import augment, draw
from segtrain.data.augment.effects import LARGEST, MOST_ELASTIC, RANGES
from segtrain.data.augment.strong import EFFECTS
from segtrain.errors import ConfigError
from segtrain.runtime.world import World
from segtrain.training.build import augmentation


@pytest.mark.law("L4")
def test_built_in_augmentations_have_options() -> None:
    positions = np.arange(200)
    plain, still = (draw({"part": "strong", **options}, 0, positions) for options in ({}, {"scale_chance": 0.0}))
    assert plain is not None
    assert still is not None
    assert torch.equal(plain.affines, draw("strong", 0, positions).affines)  # type: ignore[union-attr]
    assert not torch.equal(plain.affines, still.affines)
    narrow = draw({"part": "reference", "rotation_degrees": 0, "scale": 0}, 0, positions)
    assert narrow is not None
    assert torch.equal(narrow.affines.abs(), torch.eye(2, 3).expand(200, 2, 3))


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"part": "strong", "noise_chance": 1.5}, "data.augment.noise_chance=1.5: a chance belongs here"),
        ({"part": "strong", "scale": [1.1, 1.4]}, "1 must lie between the two"),
        ({"part": "strong", "gamma_power": [1.5, 0.7]}, "set [0.7, 1.5]"),
        ({"part": "strong", "elastic_share": 0.5}, "a larger one folds the image; set 0.16 or less"),
        ({"part": "strong", "blur_sigma_px": [-1, 0]}, "blur_sigma_px=[-1, 0]: set the smaller number to 0 or more"),
        ({"part": "strong", "blur_sigma_px": [0.5, float("inf")]}, "set the larger number to 100 or less"),
        ({"part": "strong", "scale": [1e-40, 1.4]}, "set the smaller number to 0.01 or more"),
        ({"part": "strong", "gamma_power": [0.7, float("nan")]}, "set the larger number to 100 or less"),
        ({"part": "strong", "rotation_degrees": [float("-inf"), 0]}, "set the smaller number to -360 or more"),
        ({"part": "strong", "bias_field_coefficient": 30}, "set it to a number from 0 to 2"),
        ({"part": "strong", "noise_variance": float("nan")}, "set it to a number from 0 to 100"),
        ({"part": "reference", "flip_chance": 2}, "data.augment.flip_chance=2: set it to a number from 0 to 1"),
    ],
)
def test_an_options_value_is_checked_before_training(tiny: Config, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        augmentation(replace(tiny, data=replace(tiny.data, augment=choice)), World())
    assert message in str(caught.value)


EDGES: dict[str, list[Any]] = {
    **{name: [[0.0, 0.0], [100.0, 100.0]] for name in ("brightness_factor", "contrast_factor")},
    **{name: [[low, max(low, 1.0)], [min(high, 1.0), high]] for name, (low, high) in RANGES.items()},
    **{name: [most] for name, most in LARGEST.items()},
    "elastic_share": [MOST_ELASTIC],
    "blur_sigma_px": [[0.0, 0.0], [0.0, 1.0], [100.0, 100.0]],
}


@pytest.mark.law("L12")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in EDGES.items() for value in values])
def test_images_are_numbers_at_the_ends_of_what_an_option_may_be(name: str, value: Any) -> None:
    """With all other effects, of heads in air, which is a constant."""
    generator = np.random.default_rng(0)
    image_bchw = np.full((16, 3, 32, 32), -0.5, np.float32)
    image_bchw[:, :, 8:24, 8:24] = generator.normal(1, 1, (16, 3, 16, 16))
    chances = {f"{effect}_chance": 1.0 for effect in EFFECTS if effect != "missing_contrast"}
    drawn = draw({"part": "strong", "contrast_share": 1.0, **chances, name: value}, 0, np.arange(16))
    assert drawn is not None
    image, _ = augment(torch.from_numpy(image_bchw), torch.zeros(16, 1, 32, 32), drawn)
    assert torch.isfinite(image).all()
