"""Views at test time go and come back; probabilities are averaged; an ensemble is the mean of its members."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy import ndimage

from segtrain.config import TtaName
from segtrain.evaluation.ensemble import ensemble
from segtrain.evaluation.tta import FLIPS, TURNS, VIEWS, View, mean_probability


def blob(height: int = 48, width: int = 64) -> torch.Tensor:
    """A smooth, lopsided hill [2, 1, h, w]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    hill = torch.exp(-((y - 20.0) ** 2 / 30 + (x - 36.0) ** 2 / 60))
    return torch.stack([hill, hill.roll(4, 1)]).unsqueeze(1)


def test_every_name_has_its_views() -> None:
    assert set(VIEWS) == set(get_args(TtaName))


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


@pytest.mark.parametrize("tta", get_args(TtaName))
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
