"""Views at test time go and come back; probabilities are averaged; an ensemble is the mean of its members."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import ndimage

from segtrain.config import TtaName, from_tree, untrained_views
from segtrain.config.views import FLIPS_OF_VIEWS, TRAINED
from segtrain.data.augment.batch import draw
from segtrain.errors import ConfigError
from segtrain.evaluation.ensemble import ensemble
from segtrain.evaluation.tta import FLIPS, TURNS, VIEWS, View, mean_probability


def blob(height: int = 48, width: int = 64) -> torch.Tensor:
    """A smooth, lopsided hill [2, 1, h, w]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    hill = torch.exp(-((y - 20.0) ** 2 / 30 + (x - 36.0) ** 2 / 60))
    return torch.stack([hill, hill.roll(4, 1)]).unsqueeze(1)


def test_every_name_has_its_views() -> None:
    assert {*VIEWS, TRAINED} == set(get_args(TtaName))
    assert FLIPS_OF_VIEWS.keys() == VIEWS.keys()


@pytest.mark.parametrize(
    ("augment", "views"),
    [
        ("none", "none"),
        ("reference", "left_right"),
        ("strong", "flips"),
        ({"part": "reference", "flip_chance": 0}, "none"),
        ({"part": "strong", "flip_left_right_chance": 0}, "up_down"),
        ({"part": "strong", "flip_left_right_chance": 0.1, "flip_up_down_chance": 0}, "left_right"),
    ],
)
def test_trained_views_are_the_flips_that_augmentation_draws(augment: Any, views: TtaName) -> None:
    """Against the maps that it draws for a thousand samples; rotations of up to 30 degrees change no sign."""
    cfg = from_tree({"data": {"augment": augment}, "evaluate": {"tta": "trained"}}, "test")
    assert cfg.evaluate.tta == views
    assert untrained_views(cfg) is None
    draws = draw(cfg.data.augment, 7, np.arange(1000))
    maps = np.zeros((0, 2, 3)) if draws is None else draws.affines.numpy()
    flipped = {tuple(axis for axis, sign in ((2, row[1, 1]), (3, row[0, 0])) if sign < 0) for row in maps}
    assert {view.flip for view in VIEWS[views]} == flipped - {()}


def test_views_that_training_did_not_show_are_said() -> None:
    cfg = from_tree({"evaluate": {"tta": "flips"}}, "test")
    assert "flips slices up-down, which data.augment=reference did not show" in str(untrained_views(cfg))
    assert untrained_views(from_tree({"evaluate": {"tta": "left_right"}}, "test")) is None
    strong = {"evaluate": {"tta": "all"}, "data": {"augment": "strong"}}
    assert untrained_views(from_tree(strong, "test")) is None


def test_the_flips_of_an_own_augmentation_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def mine(image, mask, rng):\n    return image, mask\n")
    tree = {"data": {"augment": f"{tmp_path}/mine.py:mine"}, "evaluate": {"tta": "trained"}}
    with pytest.raises(ConfigError, match=r"the flips of data.augment=.*mine.py:mine are not known; set evaluate.tta"):
        from_tree(tree, "test")


@pytest.mark.parametrize("view", [*FLIPS, *TURNS, View(flip=(3,), angle_degrees=20, scale=1.2)], ids=str)
def test_a_view_comes_back(view: View) -> None:
    image = blob()
    seen = view.there(image)
    assert (seen - image).abs().max() > 0.05, "it is another view"
    assert (view.back(seen) - image).abs().max() < 0.03


def test_a_view_is_turned_and_enlarged_as_scipy_does() -> None:
    """On an image that is not square: degrees stay degrees."""
    image = blob()
    angle, scale = np.deg2rad(20.0), 1.2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = (np.array(image.shape[2:]) - 1) / 2
    expected = ndimage.affine_transform(image[0, 0].numpy(), turn, middle - turn @ middle, order=1, mode="nearest")
    seen = View(angle_degrees=20, scale=1.2).there(image)[0, 0].numpy()
    assert np.abs(seen - expected).max() < 1e-3


@pytest.mark.parametrize("tta", list(VIEWS))
def test_probabilities_are_averaged_over_views(tta: TtaName) -> None:
    """A network that adds a fixed ramp is seen from all sides; one that looks at each pixel alone, alike from all."""
    image = blob()
    ramp = torch.linspace(-1, 1, image.shape[3])

    def network(x: torch.Tensor) -> torch.Tensor:
        return 4 * x - 2 + ramp

    found = mean_probability(network, image, network(image), tta)
    if tta == "none":
        assert torch.equal(found, torch.sigmoid(network(image)))
    if tta == "flips":
        expected = (torch.sigmoid(4 * image - 2 + ramp) + torch.sigmoid(4 * image - 2 - ramp)) / 2
        assert torch.allclose(found, expected, atol=1e-6)
    alike = mean_probability(lambda x: 4 * x - 2, image, 4 * image - 2, tta)
    assert (alike - torch.sigmoid(4 * image - 2)).abs().max() < 0.03


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 20

    def one(x: torch.Tensor) -> torch.Tensor:
        return x

    def other(x: torch.Tensor) -> torch.Tensor:
        return -0.5 * x + 1

    mean = (torch.sigmoid(image) + torch.sigmoid(other(image))) / 2
    assert torch.allclose(torch.sigmoid(ensemble([one, other])(image)), mean, atol=1e-6)
    assert ensemble([one])(image) is image
