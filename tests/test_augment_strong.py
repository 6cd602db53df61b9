"""`augment=strong`: chances, ranges, geometry, and what all effects must keep."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import interpolate, ndimage
from torch import Tensor

from segtrain.data.augment import strong
from segtrain.data.augment.batch import augment
from segtrain.data.augment.draws import Drawn, Draws, Strong
from segtrain.data.augment.geometry import spline, warp_in_air
from segtrain.data.augment.strong import DEFAULTS, EFFECTS, GEOMETRIC, strong_draws

SIZE = 48
MANY = np.arange(4000)
Plane = NDArray[np.float64]


def batch(samples: int, slices: int = 1, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Smooth blobs in air of -0.7, another one in each sample and contrast, and the mask of what is bright."""
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.standard_normal((samples, 3 * slices, size, size)), (0, 0, 3, 3))
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    head = np.hypot(y, x) < 0.7
    image = np.where(head, 1 + 4 * smooth, -0.7).astype(np.float32)
    return torch.from_numpy(image), torch.from_numpy((image[:, 1:2] > 1.2).astype(np.float32))


def alone(name: str, samples: int, seed: int = 3) -> Draws:
    return strong_draws(seed, np.arange(samples), {name: 1.0})


def drawn_of(draws: Draws, name: str) -> Drawn:
    assert draws.strong is not None
    return draws.strong.effects[name]


@pytest.mark.law("L4")
@pytest.mark.parametrize("slices", [1, 3])
def test_a_batch_of_8_is_two_batches_of_4(slices: int) -> None:
    image, mask = batch(8, slices)
    for seed in range(8):
        whole = augment(image, mask, strong_draws(seed, np.arange(8)))
        parts = [augment(image[p], mask[p], strong_draws(seed, np.arange(8)[p])) for p in (slice(4), slice(4, 8))]
        for found, expected in zip(map(torch.cat, zip(*parts, strict=True)), whole, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.law("L4")
def test_draws_depend_on_seed_and_position_alone() -> None:
    def flat(draws: Draws) -> NDArray[np.float32]:
        return draws.affines.numpy().reshape(len(draws.affines), -1)

    whole = flat(strong_draws(7, MANY))
    assert np.array_equal(flat(strong_draws(7, MANY[1234:1240])), whole[1234:1240])
    assert np.array_equal(flat(strong_draws(7, MANY[::-1])), whole[::-1])
    assert (flat(strong_draws(8, MANY)) != whole).any(axis=1).mean() > 0.9


def test_nothing_drawn_changes_nothing() -> None:
    image, mask = batch(4)
    found, found_mask = augment(image, mask, strong_draws(0, np.arange(4), {}))
    assert torch.equal(found, image)
    assert torch.equal(found_mask, mask)


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_leaves_other_samples_and_other_effects_alone(name: str) -> None:
    """Forced in half of the samples, it changes these alone; forced beside others, it has the same parameters."""
    image, mask = batch(24)
    found, found_mask = augment(image, mask, strong_draws(1, np.arange(24), {name: 0.5}))
    changed = (found != image).flatten(1).any(1) | (found_mask != mask).flatten(1).any(1)
    assert 4 <= int(changed.sum()) <= 20
    assert not name.startswith(("flip", "scale", "rotation", "elastic")) or bool((found_mask != mask).any())
    if name in strong.PER_CONTRAST:
        assert torch.equal(found_mask, mask)
        everything = strong_draws(1, np.arange(24), dict.fromkeys(EFFECTS, 1.0))
        assert torch.equal(drawn_of(everything, name).values, drawn_of(alone(name, 24, seed=1), name).values)


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_is_as_likely_as_it_says(name: str) -> None:
    affines = strong_draws(0, MANY, {name: EFFECTS[name].chance}).affines
    if name in GEOMETRIC and name != "elastic":
        share = float((affines != torch.eye(2, 3)).flatten(1).any(1).double().mean())
    else:
        draws = drawn_of(strong_draws(0, MANY, {name: EFFECTS[name].chance}), name)
        share = len(draws.place.unique()) / len(MANY)
    chance = EFFECTS[name].chance
    if name in ("blur", "low_resolution"):  # of none of the three contrasts
        chance *= 1 - (1 - DEFAULTS["contrast_share"]) ** 3
    assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / len(MANY))


def extent(name: str, column: int = 0) -> tuple[float, float]:
    values = drawn_of(alone(name, 4000), name).values.flatten(1)[:, column]
    return float(values.min()), float(values.max())


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("blur", DEFAULTS["blur_sigma_px"]),
        ("low_resolution", DEFAULTS["low_resolution_factor"]),
        ("brightness", DEFAULTS["brightness_factor"]),
        ("contrast", DEFAULTS["contrast_factor"]),
        ("gamma", DEFAULTS["gamma_power"]),
        ("noise", (0.0, DEFAULTS["noise_variance"] ** 0.5)),
        ("elastic", (-2 * DEFAULTS["elastic_share"], 2 * DEFAULTS["elastic_share"])),
    ],
)
def test_parameters_fill_their_range(name: str, limits: tuple[float, float]) -> None:
    slack = 0.03 * (limits[1] - limits[0])
    low, high = extent(name)
    assert limits[0] - 1e-6 <= low <= limits[0] + slack
    assert limits[1] - slack <= high <= limits[1] + 1e-6


def test_scale_and_rotation_fill_their_range() -> None:
    matrix = alone("scale", 4000).affines[:, :, :2].double()
    scale = 1 / torch.linalg.det(matrix).sqrt()
    assert 0.7 <= scale.min() < 0.71
    assert 1.39 < scale.max() <= 1.4001
    assert 0.46 < (scale < 1).double().mean() < 0.54
    matrix = alone("rotation", 4000).affines[:, :, :2].double()
    angle = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert -30.001 < angle.min() < -29.5
    assert 29.5 < angle.max() < 30.001


# ---- geometry


@pytest.mark.parametrize(("name", "axis"), [("flip_left_right", 3), ("flip_up_down", 2)])
def test_a_flip_is_a_flip(name: str, axis: int) -> None:
    image, mask = batch(3)
    found, found_mask = augment(image, mask, alone(name, 3))
    assert (found - image.flip(axis)).abs().max() < 1e-4
    assert torch.equal(found_mask, mask.flip(axis))


def test_what_comes_from_outside_is_air() -> None:
    """Scale and rotation against SciPy, with the least value of each sample and channel around it."""
    image, mask = batch(6)
    image = image + torch.arange(18.0).view(6, 3, 1, 1)
    draws = strong_draws(2, np.arange(6), {"scale": 1.0, "rotation": 1.0})
    found, _ = augment(image, mask, draws)
    centre = (SIZE - 1) / 2
    for sample, affine in enumerate(draws.affines.double().numpy()):
        (a, b), (c, d) = affine[:, :2]
        matrix = np.array([[d, c], [b, a]])
        offset = centre - matrix @ [centre, centre]
        for plane, warped in zip(image[sample].numpy(), found[sample].numpy(), strict=True):
            expected = ndimage.affine_transform(plane, matrix, offset, order=1, mode="grid-constant", cval=plane.min())
            assert np.abs(warped - expected).max() < 1e-3
            assert warped.min() > plane.min() - 1e-4


def test_elastic_is_a_free_form_deformation() -> None:
    image, mask = batch(2)
    draws = alone("elastic", 2)
    found, _ = augment(image, mask, draws)
    points = drawn_of(draws, "elastic").values.double().numpy()
    n, basis = points.shape[-1], interpolate.BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    place = (np.arange(SIZE) + 0.5) / SIZE * (n - 3) + 1
    weight = np.nan_to_num(np.array([[basis(p - j) for j in range(n)] for p in place]))
    assert np.allclose(weight.sum(1), 1)
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    for sample in range(2):
        move_x, move_y = (weight @ points[sample, axis] @ weight.T * SIZE / 2 for axis in (0, 1))
        for plane, warped in zip(image[sample].numpy(), found[sample].numpy(), strict=True):
            expected = ndimage.map_coordinates(
                plane, [y + move_y, x + move_x], order=1, mode="grid-constant", cval=plane.min()
            )
            assert np.abs(warped - expected).max() < 1e-3


def test_elastic_never_folds_and_moves_by_what_its_source_says() -> None:
    points = drawn_of(alone("elastic", 300), "elastic").values
    weight = spline(64, points.shape[-1], torch.device("cpu"))
    moves = weight @ points @ weight.T * 32  # pixels of 64
    ys, xs = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    to_x, to_y = moves[:, 0] + xs, moves[:, 1] + ys
    determinant = (
        to_x.diff(dim=2)[:, 1:] * to_y.diff(dim=1)[:, :, 1:] - to_x.diff(dim=1)[:, :, 1:] * to_y.diff(dim=2)[:, 1:]
    )
    assert determinant.min() > 0.2
    assert 0.7 * 10 / 512 < float(moves.std()) / 64 < 1.3 * 10 / 512


def test_the_mask_moves_with_the_image_and_stays_a_mask() -> None:
    y, x = np.mgrid[:96, :96]
    rng = np.random.default_rng(0)
    centres = rng.uniform(38, 58, (64, 2))
    blob = np.array([np.hypot(y - cy, x - cx) < 9 for cy, cx in centres], np.float32)[:, None]
    image = torch.from_numpy(np.repeat(3 * blob - 1, 3, axis=1))
    draws = strong_draws(4, np.arange(64), dict.fromkeys(GEOMETRIC, 1.0))
    found, found_mask = augment(image, torch.from_numpy(blob), draws)
    assert set(np.unique(found_mask)) == {0, 1}
    for plane, mask in zip(found[:, 1].numpy() + 1, found_mask[:, 0].numpy(), strict=True):
        there = np.array(ndimage.center_of_mass(mask))
        assert np.abs(np.array(ndimage.center_of_mass(plane)) - there).max() < 0.3
        assert abs(plane.sum() / 3 / mask.sum() - 1) < 0.1


def test_a_missing_contrast_is_an_exact_copy_of_flair() -> None:
    image, mask = batch(2000, size=16)
    chances: dict[str, float] = {"missing_contrast": 1.0, "noise": 1.0, "gamma": 1.0}
    found, _ = augment(image, mask, strong_draws(0, np.arange(2000), chances))
    pre, post = (torch.eq(found[:, c], found[:, 1]).flatten(1).all(1) for c in (0, 2))
    assert post.all()
    assert abs(float(pre.double().mean()) - DEFAULTS["missing_both"]) < 0.05


def test_neighbouring_slices_share_what_is_drawn() -> None:
    """Equal slices stay equal, but for noise."""
    image, mask = batch(8)
    stacked = image.repeat(1, 3, 1, 1)
    chances: dict[str, float] = {name: 1.0 for name in EFFECTS if name != "noise"}
    found, _ = augment(stacked, mask, strong_draws(0, np.arange(8), chances))
    single, _ = augment(image, mask, strong_draws(0, np.arange(8), chances))
    for part in found.unflatten(1, (3, 3)).unbind(1):
        assert (part - single).abs().max() < 1e-4


def test_constant_images_stay_finite() -> None:
    image, mask = torch.full((16, 3, 32, 32), 5.0), torch.zeros(16, 1, 32, 32)
    found, found_mask = augment(image, mask, strong_draws(0, np.arange(16), dict.fromkeys(EFFECTS, 1.0)))
    assert found.isfinite().all()
    assert (found - 5).abs().max() < 2  # noise
    assert not found_mask.any()


def test_the_inputs_are_not_written_to() -> None:
    image, mask = batch(8)
    before = image.clone(), mask.clone()
    augment(image, mask, strong_draws(0, np.arange(8), dict.fromkeys(EFFECTS, 1.0)))
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


def test_draws_move_with_all_that_they_hold() -> None:
    moved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        moved.append(tensor)
        return tensor.clone()

    draws = strong_draws(0, np.arange(64))
    again = draws.moved(note)
    assert again.strong is not None
    assert isinstance(again.strong, Strong)
    assert len(moved) == 2 + sum(3 if d.contrast is not None else 2 for d in again.strong.effects.values())
    image, mask = batch(64)
    assert torch.equal(augment(image, mask, again)[0], augment(image, mask, draws)[0])


def test_the_warp_without_elastic_takes_the_air_of_any_memory_layout() -> None:
    image, mask = batch(3)
    affines = alone("rotation", 3).affines
    usual, _ = warp_in_air(image, mask, affines, None)
    other, _ = warp_in_air(image.contiguous(memory_format=torch.channels_last), mask, affines, None)
    assert (usual - other).abs().max() < 1e-5
