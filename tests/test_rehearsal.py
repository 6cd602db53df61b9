"""Out of memory on several ranks: they agree before the first step on what fits all, and none is left waiting."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from short_memory import BATCH, SHORTAGES, batch, make
from torch import Tensor, nn

from segtrain.config import Config, DeepSpeedConfig, OptimConfig, TrainConfig
from segtrain.run import Run
from segtrain.runtime.out_of_memory import OutOfMemory
from segtrain.runtime.world import World
from segtrain.training.micro_batch import MemoryGuard, guard


def short_in_the_rehearsal(
    world: World, cfg: Config, whose: int, most: int = 2, limited: int | None = None
) -> tuple[int, list[float]]:
    """The micro-batch and the losses of a rank, where one rank cannot take more than `most` samples.

    `limited`: the one rank whose memory has a limit that it can read (default: all).
    """
    if whose >= 0 and limited in (None, world.rank):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 46, resource.RLIM_INFINITY))  # so that memory may be refused
    forward = nn.Module.__call__

    def short(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        if world.rank == whose and torch.is_grad_enabled() and len(inputs) == 1 and len(inputs[0]) > most:
            raise SHORTAGES["cpu"]
        return forward(self, *inputs, **options)

    engine = make(cfg, world)
    setattr(nn.Module, "__call__", short)  # noqa: B010
    memory = guard(cfg.train, Run(Path("/nonexistent")), engine, world, None)
    memory.rehearse()
    share = 16 // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    losses = []
    for step in range(2):
        image, mask = batch(step, 16)
        losses.append(memory.step(step, image[mine], mask[mine], 1e-2, 0.0).item())
    return engine.micro_batch, losses


@pytest.mark.parametrize(("ranks", "whose", "most"), [(2, 1, 2), (4, 0, 2), (4, 3, 1)])
def test_ranks_agree_before_the_first_step_on_what_fits_all(ranks: int, whose: int, most: int) -> None:
    cfg = replace(BATCH, train=TrainConfig(global_batch=16))
    outcomes = run_ranks(ranks, short_in_the_rehearsal, cfg, whose, most)
    assert {micro for micro, _ in outcomes} == {most}
    set_by_hand = replace(cfg, train=TrainConfig(global_batch=16, micro_batch=most))
    assert outcomes == run_ranks(ranks, short_in_the_rehearsal, set_by_hand, -1), "bitwise those of who asked for it"


@pytest.mark.parametrize("limited", [0, 1])
def test_ranks_rehearse_together_whatever_the_limits_of_their_nodes(limited: int) -> None:
    cfg = replace(BATCH, train=TrainConfig(global_batch=16))
    assert {micro for micro, _ in run_ranks(2, short_in_the_rehearsal, cfg, 0, 2, limited)} == {2}


def short_before_the_first_step(world: World, cfg: Config) -> tuple[bool, list[int]]:
    """Whether an engine says that memory ended as it prepared for its steps; samples of each pass by then."""
    engine = make(cfg, world)
    seen = []

    def short(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(len(inputs[0]))
        raise SHORTAGES["cuda"]

    engine.network.register_forward_pre_hook(short)
    with pytest.raises(OutOfMemory) as caught:
        engine.step(*batch(0, 8 // world.size), 1e-2, 0.0)
    return caught.value.repeatable, seen


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_an_engine_that_prepares_takes_no_more_at_once_than_a_step(engine: str, micro_batch: int | None) -> None:
    """And memory that ends there is no error of ours."""
    if engine == "deepspeed":
        pytest.importorskip("deepspeed")
    cfg = replace(
        BATCH, engine=engine, optim=OptimConfig(lr=1e-2), train=TrainConfig(global_batch=8, micro_batch=micro_batch)
    )
    assert run_ranks(2, short_before_the_first_step, cfg) == [(True, [micro_batch or 2])] * 2


def recalled_on_mixed_devices(world: World, whose: int, found: dict[str, Any] | None) -> tuple[int, Any]:
    """The micro-batch of a rank, and what it would have the next start know; one rank's device is of another kind."""
    if world.rank == whose:
        setattr(MemoryGuard, "_device", lambda self: "NVIDIA H100")  # noqa: B010
    memory = guard(BATCH.train, Run(Path("/nonexistent")), make(BATCH, world), world, None)
    memory.recall(found)
    memory.rehearse()
    return memory.engine.micro_batch, memory.state


@pytest.mark.parametrize("whose", [0, 1])
def test_ranks_on_unlike_devices_go_on_with_what_fits_all(whose: int) -> None:
    what_fits = {"micro_batch": 2, "asked": None, "device": "cpu"}
    both = run_ranks(2, recalled_on_mixed_devices, whose, what_fits)
    assert both[1 - whose] == (2, what_fits)
    assert both[whose] == (2, {**what_fits, "device": "NVIDIA H100"})
    assert run_ranks(2, recalled_on_mixed_devices, whose, None) == [(4, None)] * 2


@pytest.mark.parametrize("most", [1, 2])
def test_deepspeed_is_told_what_fits_before_it_takes_over(most: int) -> None:
    pytest.importorskip("deepspeed")
    cfg = replace(
        BATCH, train=TrainConfig(global_batch=16), engine="deepspeed", deepspeed=DeepSpeedConfig(zero=2),
        optim=OptimConfig(lr=1e-2),
    )  # fmt: skip
    [outcome] = run_ranks(1, short_in_the_rehearsal, cfg, 0, most)
    assert outcome[0] == most
    set_by_hand = replace(cfg, train=TrainConfig(global_batch=16, micro_batch=most))
    assert [outcome] == run_ranks(1, short_in_the_rehearsal, set_by_hand, -1)
