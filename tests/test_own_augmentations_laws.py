"""Augmentations of the user's own in training: the same sample wherever, whenever and by whomever it is drawn."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trainings import Job, assert_same, gone, state_of

from segtrain.config import CheckpointConfig, Config, TrainConfig
from segtrain.data.augment.ahead import OneThread
from segtrain.data.augment.batch import to_device
from segtrain.data.augment.own import OwnAugmentation, Recipe
from segtrain.data.augment.trial import tried
from segtrain.data.feed import Feed
from segtrain.data.order import make_order
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import ConfigError, LaunchError
from segtrain.runtime.workers import start_workers

PARTS = Path(__file__).resolve().parent / "parts" / "augment"
PAIRS, TRAPS = PARTS / "pairs.py", PARTS / "traps.py"
CPU = torch.device("cpu")

Batches = list[tuple[Tensor, Tensor]]


def recipe(choice: Any, cfg: Config) -> Recipe:
    return tried(choice, cfg.seed, cfg.data.channels, cfg.data.image_size, short=True).require()


@pytest.fixture
def batches(tiny: Config, tiny_store: Store) -> Callable[..., Batches]:
    """The batches of some ranks' feed, on the device."""

    def get(choice: Any, rank: int, size: int, steps: tuple[int, int], **changed: Any) -> Batches:
        data = replace(tiny.data, augment=choice, **changed)
        cfg = replace(tiny, data=data)
        split = make_split(data, tiny_store)
        order = make_order(cfg, tiny_store, split)
        with Feed(tiny_store, split.train, order, data, rank, size, own=recipe(choice, cfg)) as feed:
            found = list(feed.batches(*steps))
        return [to_device(b.image_bhwc, b.mask_bhw, b.draws, CPU, b.mix) for b in found]

    return get


def same(one: Batches, other: Batches) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


def joined(ranks: tuple[tuple[Tensor, Tensor], ...]) -> tuple[Tensor, Tensor]:
    images, masks = zip(*ranks, strict=True)
    return torch.cat(images), torch.cat(masks)


MIXED = {"copy_paste": 0.5, "mixup": 0.5, "neighbours": 1}


@pytest.mark.law("L2")
@pytest.mark.law("L4")
@pytest.mark.parametrize(("name", "changed"), [("Labelled", {}), ("shift_means", {}), ("OwnGenerator", MIXED)])
def test_a_sample_is_the_same_at_any_world_size_and_number_of_workers(
    batches: Callable[..., Batches], name: str, changed: dict[str, Any]
) -> None:
    """And after any start, in the middle of an epoch too."""
    choice = f"{PAIRS}:{name}"
    alone = batches(choice, 0, 1, (0, 8), augment_workers=0, **changed)
    assert alone[0][0].dtype == torch.float32
    assert all(float(mask.min()) >= 0 and float(mask.max()) <= 1 for _, mask in alone)
    assert same(alone[3:], batches(choice, 0, 1, (3, 8), augment_workers=2, **changed))
    workers = (0, 1) if changed else (0, 0)  # each process that starts takes seconds
    parts = [batches(choice, rank, 2, (3, 8), augment_workers=workers[rank], **changed) for rank in range(2)]
    assert same(alone[3:], [joined(ranks) for ranks in zip(*parts, strict=True)])


@pytest.mark.law("L4")
def test_sums_are_those_of_one_thread_whatever_the_training_has() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = OneThread()
        assert alone.run(torch.get_num_threads) == 1
        assert torch.get_num_threads() == 2
        alone.close()
    finally:
        torch.set_num_threads(before)


def test_it_augments(batches: Callable[..., Batches]) -> None:
    plain = batches(f"{TRAPS}:nothing", 0, 1, (0, 4), augment_workers=0)
    fogged = batches(f"{PAIRS}:fog", 0, 1, (0, 4), augment_workers=0)
    for (image, mask), (before, mask_before) in zip(fogged, plain, strict=True):
        haze = image - before
        assert torch.equal(mask, mask_before)
        assert 0.29 < float(haze.max()) <= 0.3001
        assert -1e-4 <= float(haze.min()) < 0.01
        assert float(haze.std((2, 3)).min()) > 0.08


def test_without_a_change_the_stored_slices_come_out(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    own = recipe(f"{TRAPS}:nothing", tiny)
    feed = Feed(tiny_store, split.train, order, replace(tiny.data, augment_workers=0), 0, 1, own=own)
    plain = Feed(tiny_store, split.train, order, replace(tiny.data, augment="none"), 0, 1)
    with feed:
        batch, stored = feed.gather(5), plain.gather(5)
    assert torch.equal(batch.image_bhwc, stored.image_bhwc.float())
    assert torch.equal(batch.mask_bhw, stored.mask_bhw)


def test_the_global_generators_are_put_back(batches: Callable[..., Batches]) -> None:
    def next_draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = next_draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    batches(f"{PAIRS}:TupleTurn", 0, 1, (0, 3), augment_workers=0)
    assert next_draws() == expected


def test_what_the_code_raises_names_the_sample_and_ends_the_training(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    good = recipe(f"{PAIRS}:fog", tiny)
    bad = replace(good, choice=f"{TRAPS}:rarely_fails", digest=OwnAugmentation(f"{TRAPS}:rarely_fails", 0).digest())
    for workers in (0, 1):
        data = replace(tiny.data, augment_workers=workers)
        with (
            Feed(tiny_store, split.train, order, data, 0, 1, own=bad) as feed,
            pytest.raises(ConfigError, match=r"rarely_fails: ValueError: empty crop in traps.py, line \d+ \(patient "),
        ):
            list(feed.batches(0, order.steps_per_epoch))


def children(pid: int | str | None = "self") -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def test_a_killed_worker_ends_the_training_with_its_name(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    data = replace(tiny.data, augment_workers=2)
    before = set(children())
    with Feed(tiny_store, split.train, order, data, 0, 1, own=recipe(f"{PAIRS}:flip", tiny)) as feed:
        assert feed.gather(0).image_bhwc.any()
        workers = started_since(before)
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, signal.SIGTERM)  # as one that reaches the whole group
        batches = feed.batches(0, 500)
        next(batches)
        os.kill(workers[0], signal.SIGKILL)
        with pytest.raises(LaunchError) as caught:
            list(batches)
    message = str(caught.value)
    assert message.startswith(
        "data.augment_workers=2: a worker process was killed by SIGKILL, probably out of memory; "
    )
    assert all(gone(pid) for pid in workers)


def test_a_signal_that_comes_while_a_worker_starts_does_not_end_it() -> None:
    before = set(children())
    worker = start_workers(answer, (), 1, "")[0]
    for pid in set(children()) - before:
        os.kill(pid, signal.SIGTERM)
    worker.connection.send("task")
    assert worker.connection.recv() == "task"
    worker.kill()


def answer(connection: Connection) -> None:
    connection.send(connection.recv())


def started_since(before: set[int]) -> list[int]:
    new = sorted(set(children()) - before)
    return [pid for pid in new if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_files_that_change_while_a_training_starts_are_noticed(tiny: Config, tiny_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "aug.py"
    file.write_text(PAIRS.read_text())
    own = recipe(f"{file}:fog", tiny)
    file.write_text(PAIRS.read_text().replace("0.3", "0.4"))
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    data = replace(tiny.data, augment_workers=1)
    with Feed(tiny_store, split.train, order, data, 0, 1, own=own) as feed, pytest.raises(ConfigError) as e:
        next(feed.batches(0, 2))
    assert "its files changed while the training started" in str(e.value)


@pytest.mark.law("L6")
def test_a_training_killed_within_an_epoch_resumes_bitwise(tiny: Config, tmp_path: Path) -> None:
    """With other workers too."""
    data = replace(tiny.data, augment={"part": f"{PAIRS}:TupleFlip", "chance": 0.4}, augment_workers=1)
    cfg = replace(
        tiny,
        name="own",
        data=data,
        train=TrainConfig(epochs=1, global_batch=8),
        checkpoint=CheckpointConfig(every_min=1e-4),
    )
    whole = Job(tmp_path / "whole", cfg, 1)
    assert whole.wait() == [0], whole.output()
    broken = Job(tmp_path / "broken", cfg, 1)
    run = tmp_path / "broken" / "runs" / "own"
    wait_for(lambda: (run / "checkpoints" / "LATEST").exists() or not broken.processes[0].is_alive())
    workers = list(children(broken.processes[0].pid))
    broken.kill(0)
    broken.wait()
    wait_for(lambda: all(map(gone, workers)))
    again = Job(tmp_path / "broken", replace(cfg, data=replace(data, augment_workers=0)), 1)
    assert again.wait() == [0], again.output()
    assert "resuming" in again.output()
    assert_same(state_of(tmp_path / "whole" / "runs" / "own"), state_of(run))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
