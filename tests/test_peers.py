"""A rank that ends without a word is noticed by those that wait for it in NCCL."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import FORKSERVER, free_port, run_ranks

from segtrain.runtime import peers
from segtrain.runtime.peers import PeerWatch
from segtrain.runtime.world import World, join


def die_or_notice(folder: Path, rank: int, port: int) -> None:
    """Rank 1 is killed; the others write down who ended, and how many seconds later they knew."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="3", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="3",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    with join("cpu", 1) as world:
        dead: list[int] = []
        known = threading.Event()

        def on_death(other: int) -> None:
            dead.append(other)
            known.set()

        PeerWatch(world.rank, world.size, on_death, grace_s=0.1)
        dist.barrier()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        known.wait(30)
        (folder / str(rank)).write_text(f"{dead} {time.monotonic() - began}")
        os._exit(0)


@pytest.mark.law("L8")
def test_a_rank_that_is_killed_is_known_to_all_others_within_seconds(tmp_path: Path) -> None:
    port = free_port()
    processes = [FORKSERVER.Process(target=die_or_notice, args=(tmp_path, rank, port)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    for rank in (0, 2):
        dead, seconds = (tmp_path / str(rank)).read_text().rsplit(maxsplit=1)
        assert dead == "[1]"
        assert float(seconds) < 10


def leave_one_after_the_other(world: World, most: int) -> list[int]:
    """Whom this rank took for dead."""
    peers.MOST_WATCHED = most
    dead: list[int] = []
    watch = PeerWatch(world.rank, world.size, dead.append, grace_s=0.0)
    time.sleep(0.3 * world.rank)
    watch.leave()
    return dead


@pytest.mark.parametrize("most", [1, 32])
def test_ranks_that_leave_one_after_the_other_are_not_taken_for_dead(most: int) -> None:
    assert run_ranks(3, leave_one_after_the_other, most) == [[], [], []]


@given(size=st.integers(1, 100))
def test_each_rank_is_watched_by_another(size: int) -> None:
    """And says goodbye to those that watch it."""
    ring = [peers.ring(rank, size) for rank in range(size)]
    for rank, (watched, watchers) in enumerate(ring):
        assert rank not in watched
        assert len(watched) == min(size - 1, peers.MOST_WATCHED)
        assert sorted(watchers) == [other for other in range(size) if rank in ring[other][0]]


def test_the_waiting_for_nccl_is_what_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = []
    backend = SimpleNamespace(abort=lambda: aborted.append(True))
    group = SimpleNamespace(_get_backend=lambda device: backend if device == torch.device("cuda") else None)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_group", lambda: group)
    peers.stop_waiting_for_nccl(1)
    assert aborted == [True]
