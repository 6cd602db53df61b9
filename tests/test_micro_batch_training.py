"""Whole trainings that run out of memory: all ranks leave, the next start goes on, a resume changes nothing."""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ranks import FORKSERVER
from short_memory import SHORTAGES
from torch import Tensor
from trainings import assert_same, run_to_end, state_of

from segtrain.config import Config, TrainConfig, to_yaml
from segtrain.data.order import make_order
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.engines.base import BaseEngine
from segtrain.engines.ddp import DdpEngine
from segtrain.run import Run
from segtrain.training.micro_batch import MemoryGuard


def rank_of_a_training(
    directory: str, rank: int, ranks: int, port: int, patch: Callable[[int, int, int], None], at: int, extra: list[str]
) -> None:
    os.chdir(directory)
    log = os.open(f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    from segtrain.runtime.launcher import leave
    from segtrain.train import main

    patch(rank, ranks, at)
    leave(main(["--config", "given.yaml", *extra]))


def at_step(at: int, then: Callable[[BaseEngine], None]) -> None:
    """Have `then` called after each backward pass from step `at` of the run on."""
    step, backward, now = MemoryGuard.step, DdpEngine._backward, [0]

    def counted(self: MemoryGuard, number: int, *arguments: Any) -> Tensor:
        now[0] = number
        return step(self, number, *arguments)

    def watched(self: DdpEngine, loss: Tensor) -> None:
        backward(self, loss)
        if now[0] >= at:
            then(self)

    setattr(MemoryGuard, "step", counted)  # noqa: B010
    setattr(DdpEngine, "_backward", watched)  # noqa: B010


def short_on_the_last(rank: int, ranks: int, at: int) -> None:
    def then(engine: BaseEngine) -> None:
        if rank == ranks - 1 and engine.micro_batch > 1:
            raise SHORTAGES["cuda"]

    at_step(at, then)


def killed_on_all(rank: int, ranks: int, at: int) -> None:
    at_step(at, lambda engine: os._exit(9))


def short_and_killed_later(rank: int, ranks: int, at: int) -> None:
    short_on_the_last(rank, ranks, at)
    at_step(at + 3, lambda engine: os._exit(9))


def start(
    directory: Path, cfg: Config, ranks: int, patch: Callable[[int, int, int], None], at: int, *extra: str
) -> list[int | None]:
    """The exit codes of a start whose ranks are patched."""
    directory.mkdir(exist_ok=True)
    (directory / "given.yaml").write_text(to_yaml(cfg))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        FORKSERVER.Process(
            target=rank_of_a_training, args=(str(directory), rank, ranks, port, patch, at, list(extra))
        ) for rank in range(ranks)
    ]  # fmt: skip
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert not process.is_alive(), "a rank is left waiting"
    return [process.exitcode for process in processes]


def steps_an_epoch(cfg: Config, store: Store) -> int:
    return make_order(cfg, store, make_split(cfg.data, store)).steps_per_epoch


@pytest.mark.law("L8")
@pytest.mark.law("L6")
def test_a_rank_that_is_short_in_the_middle_of_a_step_takes_all_out_and_the_next_start_goes_on(
    tiny: Config, fragile: Config, tmp_path: Path
) -> None:
    cfg = replace(tiny, data=fragile.data, model=fragile.model, train=TrainConfig(epochs=2, global_batch=4))
    at = steps_an_epoch(cfg, ensure_store(cfg.data)) + 2
    assert start(tmp_path / "short", cfg, 2, short_on_the_last, at) == [75, 75]
    run = Run(tmp_path / "short" / "runs" / "tiny")
    outcome = run.outcome()
    assert outcome is not None
    assert outcome.message is not None
    assert outcome.state == "stopped"
    assert f"rank 1 was out of memory at step {at} (CUDA out of memory" in outcome.message
    assert json.loads(run.out_of_memory_file.read_text())["micro_batch"] == 1
    assert start(tmp_path / "short", cfg, 2, short_on_the_last, at) == [0, 0]
    assert start(tmp_path / "killed", cfg, 2, killed_on_all, at) == [9, 9]
    assert start(tmp_path / "killed", cfg, 2, killed_on_all, 10**9, "train.micro_batch=1") == [0, 0]
    assert_same(state_of(run.root), state_of(tmp_path / "killed" / "runs" / "tiny"))


@pytest.mark.law("L6")
def test_a_run_that_was_short_is_resumed_as_if_it_had_been_left_alone(fragile: Config, tmp_path: Path) -> None:
    at = 4
    assert start(tmp_path / "whole", fragile, 1, short_on_the_last, at) == [0]
    assert start(tmp_path / "killed", fragile, 1, short_and_killed_later, at) == [9]
    run = Run(tmp_path / "killed" / "runs" / "fragile")
    assert not run.out_of_memory_file.exists()
    assert start(tmp_path / "killed", fragile, 1, short_on_the_last, at) == [0]
    assert_same(state_of(run.root), state_of(tmp_path / "whole" / "runs" / "fragile"))
    log = (tmp_path / "whole" / "runs" / "fragile" / "log.txt").read_text()
    assert "warning: out of memory with 8 samples of a rank at once (CUDA out of memory" in log
    assert "going on with 4, 2 times a step: the global batch stays 8; losses and weights stay the same" in log
    alone = state_of(run_to_end(tmp_path / "alone", fragile, 1))
    losses = [[e["loss"] for e in state["events"] if e["event"] == "train"]
              for state in (alone, state_of(run.root))]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[1] != losses[0], "it did train in smaller micro-batches"
