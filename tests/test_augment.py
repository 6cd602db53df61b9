"""L4: a sample's augmentation depends on its position; the warp is the one that SciPy would do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.config import Config
from segtrain.data.augment.batch import to_device
from segtrain.data.augment.geometry import reference_draws, warp
from segtrain.data.feed import Feed
from segtrain.data.order import make_order
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import DataError

POSITIONS = np.arange(5000)


def reference_affines(seed: int, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    affines: NDArray[np.float32] = reference_draws(seed, positions).affines.numpy()
    return affines


@pytest.mark.law("L4")
def test_a_position_is_augmented_alike_wherever_it_is_drawn() -> None:
    whole = reference_affines(7, POSITIONS)
    assert np.array_equal(reference_affines(7, POSITIONS[1234:1240]), whole[1234:1240])
    assert np.array_equal(reference_affines(7, POSITIONS[::-1]), whole[::-1])
    assert len(np.unique(whole.reshape(len(whole), -1), axis=0)) == len(whole)
    assert (reference_affines(8, POSITIONS) != whole).any(axis=(1, 2)).all()


def test_the_parameters_fill_the_reference_ranges() -> None:
    matrices = reference_affines(0, POSITIONS)[:, :, :2].astype(np.float64)
    determinant = np.linalg.det(matrices)
    scale = 1 / np.sqrt(np.abs(determinant))
    angle = np.degrees(np.arctan2(-matrices[:, 0, 1], matrices[:, 1, 1]))
    for values, centre, reach in ((scale, 1, 0.05), (angle, 0, 15.0)):
        assert np.abs(values - centre).max() <= reach * 1.0001
        assert values.max() > centre + 0.98 * reach
        assert values.min() < centre - 0.98 * reach
        assert abs(values.mean() - centre) < 0.03 * reach
    assert 0.46 < (determinant < 0).mean() < 0.54


@pytest.mark.parametrize("position", range(6))
def test_the_warp_is_scipys_affine(position: int) -> None:
    """Scale about the centre, then rotate, then flip, interpolated once, zeros outside."""
    rng = np.random.default_rng(position)
    size = 33
    image = ndimage.gaussian_filter(rng.standard_normal((size, size)), 2).astype(np.float32)
    mask = (image > image.mean()).astype(np.float32)
    affines = reference_affines(5, np.array([position]))
    image_b, mask_b = (torch.from_numpy(array)[None, None] for array in (image, mask))
    warped, warped_mask = warp(image_b, mask_b, torch.from_numpy(affines))
    (a, b), (c, d) = affines[0, :, :2].astype(np.float64)  # x, y order in torch, y, x in SciPy
    matrix = np.array([[d, c], [b, a]])
    centre = (size - 1) / 2
    offset = centre - matrix @ [centre, centre]
    expected = ndimage.affine_transform(image, matrix, offset, order=1, mode="grid-constant")
    expected_mask = ndimage.affine_transform(mask, matrix, offset, order=0, mode="grid-constant")
    assert np.abs(warped[0, 0].numpy() - expected).max() < 1e-4
    assert (warped_mask[0, 0].numpy() != expected_mask).mean() < 0.01
    assert set(np.unique(warped_mask)) <= {0, 1}


def test_the_reference_gives_the_numbers_that_it_always_gave() -> None:
    """Runs go on, and scores are compared, over versions."""
    expected = [[0.991181, -0.1798282], [0.1798282, 0.991181]], [[-0.9748371, -0.2316867], [-0.2316867, 0.9748371]]
    assert np.allclose(reference_affines(42, np.array([0, 123456]))[:, :, :2], expected, atol=1e-6)


MIXED: dict[str, Any] = {"augment": "strong", "copy_paste": 0.5, "mixup": 0.5, "neighbours": 1}


@pytest.mark.law("L4")
@pytest.mark.law("L2")
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("changed", [{}, {"augment": "strong"}, MIXED], ids=["reference", "strong", "mixed"])
def test_a_sample_looks_the_same_on_whatever_rank_and_after_whatever_start(
    tiny: Config, tiny_store: Store, world_size: int, changed: dict[str, Any]
) -> None:
    split = make_split(tiny.data, tiny_store)

    def batches(rank: int, size: int, first_step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        order = make_order(tiny, tiny_store, split)
        with Feed(tiny_store, split.train, order, replace(tiny.data, **changed), rank, size) as feed:
            found = list(feed.batches(first_step, order.steps_per_epoch + 2))  # over an epoch's end
        return [to_device(b.image_bhwc, b.mask_bhw, b.draws, torch.device("cpu"), b.mix) for b in found]

    alone = batches(0, 1, 0)
    parts = [batches(rank, world_size, 3) for rank in range(world_size)]
    for step, (image, mask) in enumerate(alone[3:]):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), image)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), mask)


@pytest.mark.law("L3")
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_no_patient_when_samples_are_mixed(
    tiny: Config, tiny_store: Store, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    read: list[set[str]] = [set() for _ in range(world_size)]
    original = Store.read
    for rank, mine in enumerate(read):

        def noting(store: Store, patient: str, *rest: Any, mine: set[str] = mine) -> None:
            mine.add(patient)
            original(store, patient, *rest)

        monkeypatch.setattr(Store, "read", noting)
        feed = Feed(tiny_store, split.train, order, replace(tiny.data, **MIXED), rank, world_size)
        batches = [feed.gather(step) for step in range(order.steps_per_epoch)]
        assert any(batch.mix is not None for batch in batches)
    assert sum(map(len, read)) == len(set().union(*read))


def test_without_augmentation_the_stored_slices_come_out(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    with Feed(tiny_store, split.train, order, replace(tiny.data, augment="none"), 0, 1) as feed:
        batch = next(feed.batches(0, 1))
    plan = order.plan(0)
    assert order.patients_at(0) == set(plan.patient[0].tolist())
    for place, (index, number) in enumerate(zip(plan.patient[0], plan.slice[0], strict=True)):
        image, mask = tiny_store.volume(split.train[index])
        assert np.array_equal(batch.image_bhwc[place].numpy(), image[number])
        assert np.array_equal(batch.mask_bhw[place].numpy(), mask[number])
    assert batch.draws is None


def test_an_error_of_the_gathering_thread_reaches_the_loop(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    missing = ("missing",) * len(split.train)
    with (
        Feed(tiny_store, missing, order, replace(tiny.data, augment="none"), 0, 1) as feed,
        pytest.raises(DataError, match=r"missing\.npy: is missing; rename .* and it is built again"),
    ):
        list(feed.batches(0, 2))
