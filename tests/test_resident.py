"""Slices on the device that trains: batches, and a training's bits, are those of reading slice by slice."""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import Job, assert_same, run_to_end, state_of, train_rank

from segtrain.config import Config
from segtrain.config.load import from_tree
from segtrain.data import resident
from segtrain.data.feed import Batch, Feed
from segtrain.data.order import make_order
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import ConfigError, Stopped

GPU = torch.device("cuda", 0)


def tensors(batch: Batch) -> list[torch.Tensor]:
    mix = batch.mix
    own = [batch.image_bhwc, batch.mask_bhw]
    return [*own, mix.image_khwc, mix.mask_khw] if mix else own


@pytest.mark.law("L2")
@pytest.mark.parametrize(
    "changed",
    [{}, {"neighbours": 2}, {"copy_paste": 0.5, "mixup": 0.5, "neighbours": 1}, {"sampling": "uniform"}],
    ids=["plain", "neighbours", "mixed", "uniform"],
)
def test_batches_are_those_that_are_read(tiny: Config, tiny_store: Store, changed: dict[str, Any]) -> None:
    assert_equal_batches(replace(tiny, data=replace(tiny.data, **changed)), tiny_store)


def test_batches_of_neighbours_at_a_distance_are_those_that_are_read(tiny: Config) -> None:
    phantom = replace(tiny.data.phantom, spacing_mm=(2.0, 1.0, 1.0))
    cfg = replace(tiny, data=replace(tiny.data, neighbours=2, neighbours_mm=5.0, phantom=phantom))
    assert_equal_batches(cfg, ensure_store(cfg.data))


def assert_equal_batches(cfg: Config, store: Store) -> None:
    split = make_split(cfg.data, store)
    order = make_order(cfg, store, split)
    kept = replace(cfg.data, resident=True)
    with (
        Feed(store, split.train, order, cfg.data, 1, 2) as reading,
        Feed(store, split.train, order, kept, 1, 2) as feed,
    ):
        feed.load()
        end = order.steps_per_epoch + 2  # over an epoch's end
        for one, other in zip(reading.batches(3, end), feed.batches(3, end), strict=True):
            for read, gathered in zip(tensors(one), tensors(other), strict=True):
                assert gathered.dtype == read.dtype
                assert torch.equal(gathered, read)


class StoppedWhileLoading(Job):
    """A training whose last rank gets SIGTERM as it loads the second patient."""

    def rank_of(self) -> Callable[..., None]:
        return stopped_while_loading


def stopped_while_loading(directory: Path, argv: list[str], rank: int, ranks: int, *others: Any) -> None:
    volume, loaded = Store.volume, []

    def watched(store: Store, patient: str) -> Any:
        loaded.append(patient)
        if rank == ranks - 1 and len(loaded) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return volume(store, patient)

    setattr(Store, "volume", watched)  # noqa: B010
    train_rank(directory, argv, rank, ranks, *others)


@pytest.mark.law("L6")
@pytest.mark.law("L8")
def test_a_training_ends_with_the_same_bits_also_where_its_loading_was_stopped(
    fragile: Config, unbroken: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    cfg = replace(fragile, data=replace(fragile.data, resident=True))
    job = StoppedWhileLoading(tmp_path, cfg, 2)
    assert job.wait() == [75, 75]
    assert "stopped by SIGTERM before step 0, while slices were loaded" in job.output()
    assert_same(state_of(run_to_end(tmp_path, cfg, 2)), unbroken[2])


def test_batches_stay_the_same_when_slices_leave_the_device(tiny: Config, tiny_store: Store) -> None:
    """In the middle of an epoch; from then on a thread reads ahead."""
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    with (
        Feed(tiny_store, split.train, order, tiny.data, 0, 1) as reading,
        Feed(tiny_store, split.train, order, replace(tiny.data, resident=True), 0, 1) as feed,
    ):
        feed.load()
        for step, (one, other) in enumerate(zip(reading.batches(0, 6), feed.batches(0, 6), strict=True)):
            assert all(map(torch.equal, tensors(one), tensors(other)))
            assert feed.release() == (step == 0)
        assert feed._thread is not None, "a thread reads ahead from then on"


def test_what_does_not_fit_after_all_is_read_slice_by_slice(
    tiny: Config, tiny_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    kept = replace(tiny.data, resident=True)
    monkeypatch.setattr(resident.Resident, "read", short)
    assert resident.resident(tiny_store, make_split(tiny.data, tiny_store).train, kept, torch.device("cpu")) is None
    assert "too little memory on the cpu for all of them (CUDA out of memory" in caplog.text


def test_loading_asks_after_each_patient_whether_to_go_on(tiny: Config, tiny_store: Store) -> None:
    def stop() -> None:
        raise Stopped("asked to")

    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    with pytest.raises(Stopped):
        Feed(tiny_store, split.train, order, replace(tiny.data, resident=True), 0, 1).load(stop)


def test_once_read_the_store_is_not_needed(tiny: Config, tiny_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    feed = Feed(tiny_store, split.train, order, replace(tiny.data, resident=True), 0, 1)
    feed.load()
    monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("a step read a file"))
    assert feed.gather(0).image_bhwc.shape[0] == order.global_batch


@pytest.mark.parametrize(("free", "fits"), [(8.0, True), (7.9, False)])
def test_on_a_gpu_it_is_done_where_an_eighth_of_its_memory_is_enough(
    tiny: Config,
    tiny_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: float,
    fits: bool,
) -> None:
    patients = make_split(tiny.data, tiny_store).train
    here = resident.Resident.read
    images, masks = zip(*map(tiny_store.volume, patients), strict=True)
    needed = sum(array.nbytes for array in (*images, *masks))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * needed), 0))
    monkeypatch.setattr(
        resident.Resident, "read", lambda store, who, near, *_: here(store, who, near, torch.device("cpu"))
    )
    with caplog.at_level(logging.INFO):
        slices = resident.resident(tiny_store, patients, tiny.data, GPU)
    assert (slices is not None) == fits
    assert ("lie on the cuda" in caplog.text) == fits
    assert ("(data.resident)" in caplog.text) != fits
    assert resident.resident(tiny_store, patients, replace(tiny.data, resident=False), GPU) is None
    assert resident.resident(tiny_store, patients, replace(tiny.data, augment="own:Part"), GPU) is None


def test_an_augmentation_of_one_s_own_cannot_have_it() -> None:
    with pytest.raises(ConfigError, match=r"data\.resident=true.*of your own works on the CPU"):
        from_tree({"data": {"resident": True, "augment": "own:Part"}}, "a.yaml")
