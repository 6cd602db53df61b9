"""`augment=strong`: each effect on intensities against a plain computation, and the noise's statistics."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre
from scipy import ndimage, stats
from test_augment_strong import SIZE, Plane, alone, batch, drawn_of

from segtrain.data.augment import intensity
from segtrain.data.augment.batch import augment
from segtrain.data.augment.noise import standard_normal
from segtrain.data.augment.strong import INTENSITY


def gaussian(plane: Plane, values: Plane) -> Plane:
    blurred: Plane = ndimage.gaussian_filter(plane, values[0], mode="nearest", radius=4)
    return blurred


def coarse(plane: Plane, values: Plane) -> Plane:
    """Nearest on a grid that is coarser by the factor, then Keys' cubic (a = -3/4), along one axis and the other."""
    size, factor = len(plane), values[0]

    def kernel(d: float) -> float:
        d = abs(d)
        return 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)

    matrix = np.zeros((size, size))
    for i in range(size):
        place = (i + 0.5) / factor - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            source = round((max(tap, 0) + 0.5) * factor - 0.5)
            matrix[i, min(source, size - 1)] += kernel(place - tap)
    found: Plane = matrix @ plane @ matrix.T
    return found


def bent(plane: Plane, values: Plane) -> Plane:
    t = np.linspace(-1, 1, SIZE)
    field: Plane = np.exp(legendre.leggrid2d(t, t, values))
    found: Plane = (plane - plane.min()) * field + plane.min()
    return found


def brighter(plane: Plane, values: Plane) -> Plane:
    found: Plane = (plane - plane.min()) * values[0] + plane.min()
    return found


def contrasted(plane: Plane, values: Plane) -> Plane:
    found: Plane = np.clip((plane - plane.mean()) * values[0] + plane.mean(), plane.min(), plane.max())
    return found


def curved(plane: Plane, values: Plane) -> Plane:
    power, inverted = values
    unit = (plane - plane.min()) / (plane.max() - plane.min())
    unit = 1 - (1 - unit) ** power if inverted else unit**power
    found: Plane = (unit - unit.mean()) / unit.std() * plane.std() + plane.mean()
    return found


PLAIN: dict[str, Callable[[Plane, Plane], Plane]] = {
    "blur": gaussian, "low_resolution": coarse, "bias_field": bent, "brightness": brighter, "contrast": contrasted,
    "gamma": curved,
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_an_effect_is_its_plain_computation(name: str) -> None:
    image, mask = batch(12)
    draws = alone(name, 12)
    found, _ = augment(image, mask, draws)
    expected = image.double().numpy().copy()
    drawn = drawn_of(draws, name)
    assert drawn.contrast is not None
    for place, channel, values in zip(drawn.place, drawn.contrast, drawn.values.double().numpy(), strict=True):
        expected[place, channel] = PLAIN[name](expected[place, channel], values)
    assert np.abs(found.numpy() - expected).max() < 2e-3
    assert (found != image).any()
    if name == "gamma":
        assert set(drawn.values[:, 1].tolist()) == {0.0, 1.0}


def test_every_intensity_effect_but_noise_has_a_plain_computation() -> None:
    assert set(PLAIN) | {"noise"} == set(INTENSITY)


def test_noise_is_normal_and_independent() -> None:
    values = standard_normal(torch.arange(8), 100_000).double().numpy()
    assert np.abs(values.mean(1)).max() < 4 / np.sqrt(100_000)
    assert np.abs(values.std(1) - 1).max() < 4 / np.sqrt(200_000)
    assert min(stats.kstest(row, "norm").pvalue for row in values) > 1e-3
    assert stats.kurtosis(values.ravel()) == pytest.approx(0, abs=0.03)
    limit = 5 / np.sqrt(100_000)
    assert np.abs(np.corrcoef(values) - np.eye(8)).max() < limit  # keys beside one another
    for lag in (1, 2, 48, 256, 50_000):  # the last: the two values of one hash
        assert np.abs((values[:, lag:] * values[:, :-lag]).mean(1)).max() < 1.5 * limit
    squares = values**2 - 1
    assert np.abs((squares[:, 50_000:] * squares[:, :50_000]).mean(1)).max() < 4 * limit


def test_noise_has_the_variance_that_was_drawn_and_differs_between_contrasts() -> None:
    image, mask = batch(6, size=96)
    draws = alone("noise", 6)
    added = (augment(image, mask, draws)[0] - image).flatten(2).double()
    deviation = drawn_of(draws, "noise").values[:, 0].view(6, 3).double()
    assert (added.std(2) / deviation - 1).abs().max() < 0.05
    assert np.abs(np.corrcoef(added.flatten(0, 1).numpy()) - np.eye(18)).max() < 0.06


def test_statistics_are_those_of_torch() -> None:
    x = batch(6)[0].unflatten(1, (3, 1)).flatten(0, 1)
    deviation, mean = torch.std_mean(x, (1, 2, 3), correction=0)
    found_mean, found_deviation = intensity._statistics(x)
    assert torch.allclose(found_mean.flatten(), mean, atol=1e-5)
    assert torch.allclose(found_deviation.flatten(), deviation, atol=1e-4)
