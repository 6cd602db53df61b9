"""Transforms of libraries, as they stand: recognised, seeded by position, and refused where they would harm."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segtrain.data.augment.own import OwnAugmentation
from segtrain.data.augment.phantoms import plain
from segtrain.data.augment.trial import Tried, tried
from segtrain.errors import ConfigError

PARTS = Path(__file__).resolve().parent / "parts" / "augment"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
SIZE = 64


def try_part(package: str, name: str, **options: Any) -> Tried:
    choice = {"part": f"{PARTS / f'with_{package}.py'}:{name}", **options}
    return tried(choice if options else choice["part"], 42, 3, SIZE, short=True)


def failure(trials: Tried) -> str:
    return " ".join(check.message for check in trials.checks if check.verdict == "fails")


def need(package: str) -> None:
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
        pytest.skip(f"{package} cannot be imported: {error}")


FORMS = {
    "monai": "{img, seg} tensors CHW",
    "batchgeneratorsv2": "(image=, segmentation=) tensors CHW, mask int16",
    "torchio": "Subject tensors CHW",
    "torchvision": "(image, mask) tv_tensors",
    "kornia": "(image, mask) by data_keys tensors CHW",
}


@pytest.mark.law("L4")
@pytest.mark.parametrize("package", FORMS)
def test_a_librarys_transform_is_recognised_and_seeded(package: str) -> None:
    if package != "kornia":  # its convention is that of a class of our own
        need(package)
    name = {"batchgeneratorsv2": "batchgenerators"}.get(package, package)
    trials = try_part(name, "Sequential" if package == "kornia" else "both")
    assert not failure(trials)
    assert f": {FORMS[package]}; mask moved with the image; seeded; " in trials.description
    own = [OwnAugmentation.of(trials.require()) for _ in range(2)]
    sample = plain((SIZE, SIZE), 3)
    for position in (7, 8):
        (image, mask), (again, mask_again) = (one.augment(*sample, position) for one in own)
        assert np.array_equal(image, again)
        assert np.array_equal(mask, mask_again)


@pytest.mark.law("L4")
@pytest.mark.parametrize(("name", "options"), [("geometric", {}), ("flip", {"chance": 0.3}), ("Inside", {})])
def test_albumentations_is_seeded_by_position(name: str, options: dict[str, Any]) -> None:
    """By itself it draws from the system's entropy, inside a class of the user's too."""
    need("albumentations")
    trials = try_part("albumentations", name, **options)
    assert not failure(trials)
    assert "mask moved with the image; seeded; " in trials.description


def test_albumentations_clips_z_scores_and_the_remedy_works() -> None:
    need("albumentations")
    assert "clips z-scores" in failure(try_part("albumentations", "bright"))
    assert "set range: unit" in failure(try_part("albumentations", "bright"))
    assert not failure(try_part("albumentations", "bright", range="unit"))


def test_normalising_and_misspelt_options_of_albumentations_are_refused() -> None:
    need("albumentations")
    assert "leave out what normalises them" in failure(try_part("albumentations", "normalised"))
    with pytest.raises(ConfigError, match="probability"):
        try_part("albumentations", "misspelt")


def test_a_transform_of_monai_needs_the_masks_key_and_nearest() -> None:
    message = failure(try_part("monai", "image_alone"))
    assert "the mask does not move with the image" in message
    assert "keys: [image, mask], with mode: [bilinear, nearest]" in message
    assert "move the mask by nearest voxel" in failure(try_part("monai", "soft_mask"))


def test_a_transform_is_named_by_import_path_with_its_options() -> None:
    choice = {"part": "monai.transforms:RandFlipd", "keys": ["image", "mask"], "prob": 0.5}
    trials = tried(choice, 42, 3, SIZE, short=True)
    assert not failure(trials)
    assert trials.description.startswith(
        "monai.transforms:RandFlipd(keys=['image', 'mask'], prob=0.5): {image, mask} tensors CHW; mask moved"
    )
    with pytest.raises(ConfigError, match=r"cannot be made \(TypeError: .*keys"):
        tried({"part": "monai.transforms:RandFlipd", "prob": 0.5}, 42, 3, SIZE)


def test_torchvision_on_plain_tensors_is_given_its_own() -> None:
    need("torchvision")
    assert "(image, mask) tv_tensors" in try_part("torchvision", "plain").description
