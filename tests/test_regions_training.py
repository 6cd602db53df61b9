"""Steps on three regions, four contrasts and ignored voxels: any world size, any engine, resumed bitwise."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import furthest
from ranks import run_ranks
from region_runs import REGIONS, config, train, write_store

from segtrain.config import Config, DeepSpeedConfig, TrainConfig
from segtrain.data.augment.batch import to_device
from segtrain.data.feed import Feed
from segtrain.data.order import plan_order
from segtrain.data.store import Store
from segtrain.engines.engine import Engine
from segtrain.errors import ConfigError
from segtrain.runtime.world import World
from segtrain.training.build import build

STEPS = 4
PARTS = Path(__file__).resolve().parent / "parts"
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("regions") / "store")


@pytest.fixture(scope="module")
def alone(store: Store) -> tuple[list[float], dict[str, np.ndarray]]:
    losses, (model, *_) = train(World(), store.path, config(store), None, range(STEPS))
    return losses, model


@pytest.mark.law("L5")
@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_train_the_same_regions(
    world_size: int, micro_batch: int | None, store: Store, alone: tuple[list[float], dict[str, np.ndarray]]
) -> None:
    cfg = config(store, train=TrainConfig(global_batch=8, epochs=2, micro_batch=micro_batch))
    answers = run_ranks(world_size, train, store.path, cfg, None, range(STEPS))
    for losses, _ in answers:
        assert losses == pytest.approx(alone[0], abs=1e-5)
    assert furthest(answers[0][1][0], alone[1]) < 1e-4


@needs_deepspeed
@pytest.mark.law("L9")
def test_deepspeed_trains_the_same_regions(store: Store, alone: tuple[list[float], dict[str, np.ndarray]]) -> None:
    cfg = config(store, engine="deepspeed", deepspeed=DeepSpeedConfig(zero=2))
    losses, (model, *_) = run_ranks(2, train, store.path, cfg, None, range(STEPS))[0]
    assert losses == pytest.approx(alone[0], abs=1e-5)
    assert furthest(model, alone[1]) < 1e-4


@pytest.mark.law("L6")
@pytest.mark.parametrize("world_size", [1, 2])
def test_regions_are_resumed_bitwise(store: Store, world_size: int) -> None:
    whole = run_ranks(world_size, train, store.path, config(store), None, range(STEPS))[0]
    first = run_ranks(world_size, train, store.path, config(store), None, range(2))[0]
    second = run_ranks(world_size, train, store.path, config(store), first[1], range(2, STEPS))[0]
    assert first[0] + second[0] == whole[0]
    for one, other in zip(second[1][:2], whole[1][:2], strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_all_regions_are_learnt(tmp_path: Path) -> None:
    """In the store each region is bright in a contrast of its own."""
    store = write_store(tmp_path / "store")
    cfg = config(store, data=store.resolved(replace(config(store).data, augment="none", copy_paste=0, mixup=0)))
    losses, _ = train(World(), store.path, replace(cfg, train=TrainConfig(global_batch=8, epochs=8)), None, range(40))
    assert losses[-1] < 0.7 * losses[0]


def engine_and_batch(cfg: Config, store: Store) -> tuple[Engine, torch.Tensor, torch.Tensor]:
    split, order = plan_order(cfg, store, 1)
    feed = Feed(store, split.train, order, cfg.data, 0, 1)
    batch = feed.gather(0)
    _, engine = build(cfg, World(), begun=False)
    device = torch.device("cpu")
    return engine, *to_device(batch.image_bhwc, batch.mask_bhw, batch.draws, device, batch.mix, store.layout)


def test_masks_have_a_plane_a_region_and_one_of_ignored_voxels(store: Store) -> None:
    engine, image, mask = engine_and_batch(config(store), store)
    assert image.shape == (8, 4, 32, 32)
    assert mask.shape == (8, len(REGIONS) + 1, 32, 32)
    assert mask[:, 3].any()
    assert engine.logits(image).shape == (8, len(REGIONS), 32, 32)


def test_a_step_does_not_depend_on_what_is_ignored(store: Store) -> None:
    """On what the masks have there; images are seen, since known voxels have a context."""
    cfg = config(store)
    steps = []
    for fill in (0.0, 1.0):
        engine, image, mask = engine_and_batch(cfg, store)
        ignored = mask[:, 3:] > 0
        mask[:, :3] = torch.where(ignored, fill, mask[:, :3])
        loss = engine.step(image, mask, 1e-2)
        steps.append([loss, *(weight.detach().clone() for weight in engine.network.parameters())])
    for one, other in zip(*steps, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.law("L12")
def test_a_loss_of_the_users_own_is_refused_where_voxels_are_ignored(store: Store) -> None:
    cfg = config(store, loss=f"{PARTS}/losses.py:BCEDice", loss_regions=None)
    with pytest.raises(ConfigError, match=r"BCEDice\(\): a loss of your own cannot leave out.*choose a built-in loss"):
        build(cfg, World(), begun=False)


@pytest.mark.law("L5")
@pytest.mark.law("L13")
@pytest.mark.parametrize("name", ["BCEDice", "HardestOfTheBatch"])
def test_a_loss_of_the_users_own_sees_one_region_at_a_time(name: str, tmp_path: Path) -> None:
    """Whether it couples the samples of a batch or not."""
    store = write_store(tmp_path / "store", ignores=False)
    cfg = config(store, loss={f"{PARTS}/losses.py:{name}": 1.0, "dice": 0.5})
    losses, (model, *_) = train(World(), store.path, cfg, None, range(2))
    others, (other, *_) = run_ranks(2, train, store.path, cfg, None, range(2))[0]
    assert others == pytest.approx(losses, abs=1e-5)
    assert furthest(other, model) < 1e-4
