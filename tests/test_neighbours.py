"""2.5D: a slice with those above and below it as channels, the same in training and in evaluation."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segtrain.config import Config, EvaluateConfig, load_config
from segtrain.config.comparison import fingerprint, first_difference
from segtrain.data.feed import Feed
from segtrain.data.neighbours import Neighbours, log_distances, with_neighbours
from segtrain.data.order import make_order, plan_order
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import ConfigError, DataError
from segtrain.evaluation.ensemble import SHARED
from segtrain.evaluation.evaluate import evaluate
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import make_loss
from segtrain.runtime.world import CPU, World


@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_channels_go_from_below_to_above_and_edges_repeat(neighbours: int) -> None:
    slices = 6
    volume = np.arange(slices * 2 * 2 * 3).reshape(slices, 2, 2, 3).astype(np.float16)
    found = with_neighbours(volume, Neighbours(neighbours).offsets())
    assert found.shape == (slices, 2, 2, 3 * (2 * neighbours + 1))
    for z in range(slices):
        for place, offset in enumerate(range(-neighbours, neighbours + 1)):
            expected = volume[min(max(z + offset, 0), slices - 1)]
            assert np.array_equal(found[z, ..., 3 * place : 3 * place + 3], expected)


def test_without_neighbours_the_volume_itself_comes_out() -> None:
    volume = np.zeros((2, 4, 4, 3), np.float16)
    assert with_neighbours(volume, Neighbours().offsets()) is volume


@pytest.mark.parametrize("neighbours", [0, 1, 3])
def test_training_sees_the_channels_that_evaluation_sees(tiny: Config, tiny_store: Store, neighbours: int) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    cfg = replace(tiny.data, augment="none", neighbours=neighbours)
    feed = Feed(tiny_store, split.train, order, cfg, 0, 1)
    plan, edges = order.plan(0), 0
    for step in range(order.steps_per_epoch):
        batch = feed.gather(step)
        for place, (index, number) in enumerate(zip(plan.patient[step], plan.slice[step], strict=True)):
            image, mask = tiny_store.volume(split.train[index])
            expected = with_neighbours(image, Neighbours(neighbours).offsets())[number]
            assert np.array_equal(batch.image_bhwc[place].numpy(), expected)
            assert np.array_equal(batch.mask_bhw[place].numpy(), mask[number])
            edges += number in (0, len(mask) - 1)
    assert edges, "no slice at an edge was drawn"


@pytest.mark.parametrize("neighbours", [1, 2])
def test_the_evaluator_gives_the_network_its_channels(tiny: Config, tiny_store: Store, neighbours: int) -> None:
    """A network that looks at the middle FLAIR alone scores the same, and its picture is the same."""
    patients = sorted(tiny_store.patients)[:2]

    def score(n: int) -> list[object]:
        def middle(image: Tensor) -> Tensor:
            assert image.shape[1] == 3 * (2 * n + 1)
            return image[:, 3 * n + 1 : 3 * n + 2] - 1

        cfg = EvaluateConfig(pictures=1, batch=7)
        predictor = Predictor(middle, cfg, CPU, neighbours=Neighbours(n))
        result = evaluate(predictor, make_loss("dice"), tiny_store, patients, World())
        assert result is not None
        return [(s.regions, s.loss_sums, None if s.picture is None else s.picture.tobytes()) for s in result.scores]

    assert score(neighbours) == score(0)


def test_a_batch_of_neighbours_is_one_tensor(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    cfg = replace(tiny.data, neighbours=1)
    feed = Feed(tiny_store, split.train, make_order(tiny, tiny_store, split), cfg, 0, 2)
    batch = feed.gather(3)
    assert batch.image_bhwc.shape == (2, 32, 32, 9)
    assert batch.image_bhwc.dtype == torch.float16


def at(offsets: Any, mm: float) -> list[float]:
    """The distances of the channels in mm."""
    return [offset * mm for offset in offsets.tolist()]


@settings(max_examples=50, deadline=None)
@given(each_side=st.integers(1, 4), coarse=st.sampled_from([2, 4, 5, 6]), times=st.integers(1, 3))
def test_channels_lie_at_the_same_distances_in_mm_whatever_the_spacing(each_side: int, coarse: int, times: int) -> None:
    """Slices 1 mm apart, and every fifth (or so) of them: the same slices become channels."""
    neighbours = Neighbours(each_side, mm=coarse * times)
    fine_shwc = np.arange(coarse * 40, dtype=np.float16)[:, None, None, None]
    fine = with_neighbours(fine_shwc, neighbours.offsets((1.0, 0.9, 0.9)))
    thick = with_neighbours(fine_shwc[::coarse], neighbours.offsets((float(coarse), 0.9, 0.9)))
    reach = each_side * times
    assert np.array_equal(fine[::coarse][reach:-reach], thick[reach:-reach]), "at the ends, the last slices differ"


@pytest.mark.parametrize("each_side", [0, 1, 2, 4])
@pytest.mark.parametrize("mm", [1.0, 5.0, 0.7000000476837158])
def test_slices_as_far_apart_as_asked_for_are_the_next_ones(each_side: int, mm: float) -> None:
    assert np.array_equal(Neighbours(each_side, mm).offsets((mm, 1, 1)), Neighbours(each_side).offsets(None))
    assert Neighbours(each_side).offsets((3.0, 1, 1)).tolist() == list(range(-each_side, each_side + 1))


@pytest.mark.parametrize(
    ("slice_mm", "expected"),
    [
        (1.0, [-10, -5, 0, 5, 10]),
        (0.9999999, [-10, -5, 0, 5, 10]),
        (3.0, [-9, -6, 0, 6, 9]),  # 10 mm lie between 9 and 12
        (2.0, [-10, -4, 0, 4, 10]),  # halfway from 4 to 6 mm: the one nearer to the middle
        (1.9999999, [-10, -4, 0, 4, 10]),
        (2.0000001, [-10, -4, 0, 4, 10]),
        (12.0, [-12, 0, 0, 0, 12]),
        (30.0, [0, 0, 0, 0, 0]),
    ],
)
def test_the_nearest_slice_by_hand(slice_mm: float, expected: list[float]) -> None:
    assert at(Neighbours(2, mm=5.0).offsets((slice_mm, 1.0, 1.0)), slice_mm) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def apart(tiny: Config) -> Config:
    """Slices 2 mm apart, and neighbours at 5 mm, so two slices away."""
    phantom = replace(tiny.data.phantom, spacing_mm=(2.0, 1.0, 1.0))
    return replace(tiny, data=replace(tiny.data, augment="none", neighbours=2, neighbours_mm=5.0, phantom=phantom))


def test_training_and_evaluation_see_the_slices_at_that_distance(apart: Config) -> None:
    """5 and 10 mm are 2 and 5 slices: several reads give what the whole volume has."""
    store = ensure_store(apart.data)
    split, order = plan_order(apart, store, 1)
    plan = order.plan(0)
    feed = Feed(store, split.train, order, apart.data, 0, 1)
    edges = 0
    for step in range(order.steps_per_epoch):
        batch = feed.gather(step)
        for place, (index, number) in enumerate(zip(plan.patient[step], plan.slice[step], strict=True)):
            image, mask = store.volume(split.train[index])
            around = np.clip(number + np.array([-5, -2, 0, 2, 5]), 0, len(mask) - 1)
            expected = np.concatenate([image[other] for other in around], axis=-1)
            assert np.array_equal(batch.image_bhwc[place].numpy(), expected)
            assert np.array_equal(batch.mask_bhw[place].numpy(), mask[number])
            edges += number < 5
    assert edges, "no slice near an edge was drawn"

    def seen(image: Tensor) -> Tensor:
        windows.append(image.numpy())
        return image[:, :1]

    windows: list[Any] = []
    patient = split.validation[0]
    image, mask = store.volume(patient)
    predictor = Predictor(seen, EvaluateConfig(), CPU, Neighbours.of(apart.data))
    predictor.probability(image, mask, spacing_mm=store.patients[patient].spacing_mm)
    assert np.array_equal(
        np.concatenate(windows)[4], np.concatenate([image[n] for n in (0, 2, 4, 6, 9)], axis=-1).transpose(2, 0, 1)
    )


@pytest.mark.law("L2")
@pytest.mark.law("L3")
def test_neither_order_nor_world_size_change_with_the_distance(apart: Config) -> None:
    store = ensure_store(apart.data)
    split, order = plan_order(apart, store, 2)
    _, plain = plan_order(replace(apart, data=replace(apart.data, neighbours_mm=None)), store, 2)
    assert np.array_equal(order.plan(1).slice, plain.plan(1).slice)
    feeds = [Feed(store, split.train, order, apart.data, *place) for place in ((0, 1), (0, 2), (1, 2))]
    whole, *halves = (feed.gather(5) for feed in feeds)
    assert torch.equal(whole.image_bhwc, torch.cat([half.image_bhwc for half in halves]))


@pytest.mark.law("L12")
def test_a_distance_needs_the_spacing(tiny: Config, tiny_store: Store, apart: Config) -> None:
    """The store of `tiny` does not have it: neither training nor evaluation nor prediction guesses."""
    cfg = replace(tiny, data=replace(tiny.data, neighbours=1, neighbours_mm=5.0))
    patient = sorted(tiny_store.patients)[0]
    with pytest.raises(DataError, match=rf"patient {patient}: the distance of its slices is not known, so data.neigh"):
        plan_order(cfg, tiny_store, 1)
    predictor = Predictor(lambda image: image[:, :1], EvaluateConfig(), CPU, Neighbours.of(cfg.data))
    for spacing_mm in (None, (0.0, 1.0, 1.0), (math.nan, 1.0, 1.0)):
        with pytest.raises(DataError, match=r"leave data\.neighbours_mm out"):
            predictor.probability(*tiny_store.volume(patient), spacing_mm=spacing_mm)
    with pytest.raises(ConfigError, match=r"data.neighbours_mm=5.0 .* set data.neighbours=1"):
        load_config(None, ["data.neighbours_mm=5"])


@pytest.mark.parametrize(("mm", "words"), [(5.0, "2 to 2 slices away"), (0.5, "its own first neighbour")])
def test_the_log_says_how_far_neighbours_are(
    apart: Config, mm: float, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        log_distances(replace(apart.data, neighbours_mm=mm), ensure_store(apart.data))
    assert words in caplog.text


def test_a_distance_makes_another_run_and_leaves_the_store(apart: Config) -> None:
    plain = replace(apart, data=replace(apart.data, neighbours_mm=None))
    assert first_difference(apart, plain) == ("data.neighbours_mm", 5.0, None)
    assert ensure_store(plain.data).path == ensure_store(apart.data).path
    assert fingerprint(plain) != fingerprint(apart)
    assert "data.neighbours_mm" in SHARED
