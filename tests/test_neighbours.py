"""2.5D: a slice with those above and below it as channels, the same in training and in evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from segtrain.config import Config, EvaluateConfig
from segtrain.data.feed import Feed
from segtrain.data.neighbours import with_neighbours
from segtrain.data.order import make_order
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.evaluation.evaluate import evaluate
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import make_loss
from segtrain.runtime.world import CPU, World


@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_channels_go_from_below_to_above_and_edges_repeat(neighbours: int) -> None:
    slices = 6
    volume = np.arange(slices * 2 * 2 * 3).reshape(slices, 2, 2, 3).astype(np.float16)
    found = with_neighbours(volume, neighbours)
    assert found.shape == (slices, 2, 2, 3 * (2 * neighbours + 1))
    for z in range(slices):
        for place, offset in enumerate(range(-neighbours, neighbours + 1)):
            expected = volume[min(max(z + offset, 0), slices - 1)]
            assert np.array_equal(found[z, ..., 3 * place : 3 * place + 3], expected)


def test_without_neighbours_the_volume_itself_comes_out() -> None:
    volume = np.zeros((2, 4, 4, 3), np.float16)
    assert with_neighbours(volume, 0) is volume


@pytest.mark.parametrize("neighbours", [0, 1, 3])
def test_training_sees_the_channels_that_evaluation_sees(tiny: Config, tiny_store: Store, neighbours: int) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    cfg = replace(tiny.data, augment="none", neighbours=neighbours)
    feed = Feed(tiny_store, split.train, order, cfg, 0, 1, pin=False)
    plan, edges = order.plan(0), 0
    for step in range(order.steps_per_epoch):
        batch = feed.gather(step)
        for place, (index, number) in enumerate(zip(plan.patient[step], plan.slice[step], strict=True)):
            image, mask = tiny_store.volume(split.train[index])
            assert np.array_equal(batch.image_bhwc[place].numpy(), with_neighbours(image, neighbours)[number])
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
        predictor = Predictor(middle, cfg, CPU, neighbours=n)
        result = evaluate(predictor, make_loss("dice"), tiny_store, patients, World())
        assert result is not None
        return [(s.regions, s.loss_sums, None if s.picture is None else s.picture.tobytes()) for s in result.scores]

    assert score(neighbours) == score(0)


def test_a_batch_of_neighbours_is_one_tensor(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    cfg = replace(tiny.data, neighbours=1)
    feed = Feed(tiny_store, split.train, make_order(tiny, tiny_store, split), cfg, 0, 2, pin=False)
    batch = feed.gather(3)
    assert batch.image_bhwc.shape == (2, 32, 32, 9)
    assert batch.image_bhwc.dtype == torch.float16
