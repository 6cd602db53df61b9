"""Options of `augment=strong` and `reference`: every chance and range, checked before training."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segtrain.config import Config
from segtrain.data.augment.batch import draw
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
        ({"part": "reference", "flip_chance": 2}, "data.augment.flip_chance=2: set it to a number from 0 to 1"),
    ],
)
def test_an_options_value_is_checked_before_training(tiny: Config, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        augmentation(replace(tiny, data=replace(tiny.data, augment=choice)), World())
    assert message in str(caught.value)
