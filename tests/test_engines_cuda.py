"""The engines' conformance suite on GPUs: NCCL, batch norm over ranks, loss scaling in float16, and resuming bitwise.

It has not been run yet, for want of a GPU: its tolerances are guesses from float32's rounding. With two GPUs all of it
runs, with one the cases of one rank.
"""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_runs import STEPS, config, furthest, link, meet_infinity, train
from ranks import run_ranks

from segtrain.config import TrainConfig
from segtrain.runtime.world import World

GPUS = torch.cuda.device_count()
ENGINES = [None, 0, 1, 2, 3] if importlib.util.find_spec("deepspeed") else [None]
each_world = pytest.mark.parametrize(
    "ranks",
    [pytest.param(n, marks=pytest.mark.skipif(n > GPUS, reason=f"{n} CUDA device(s) needed")) for n in (1, 2)],
)


@pytest.mark.law("L5")
@each_world
def test_an_engine_trains_on_gpus_as_a_single_cpu_does(ranks: int) -> None:
    """With accumulation, clipping, a loss that moves and the average."""
    losses, model, moments, logits = train(World(), config(None))
    for zero in ENGINES:
        cfg = config(zero, device="cuda", precision="ieee", train=TrainConfig(global_batch=8, micro_batch=3))
        for rank, answer in enumerate(run_ranks(ranks, train, cfg, device="cuda")):
            assert answer[0] == pytest.approx(losses, abs=1e-4), zero
            assert np.abs(answer[3] - logits).max() < 1e-2
            if rank == 0:
                assert furthest(answer[1], model) < 1e-3
                assert furthest(answer[2], moments) < 1e-3


@pytest.mark.law("L5")
@each_world
def test_batch_norm_is_of_the_global_batch(ranks: int) -> None:
    """On GPUs it is synchronised: a single process on the CPU sees the same batch."""
    losses, model, _, _ = train(World(), config(None), True)
    for zero in ENGINES:
        answers = run_ranks(ranks, train, config(zero, device="cuda", precision="ieee"), True, device="cuda")
        assert answers[0][0] == pytest.approx(losses, abs=1e-4), zero
        assert furthest(answers[0][1], model) < 1e-3
        assert all(np.array_equal(answers[0][3], other[3]) for other in answers)


@each_world
def test_float16_goes_on_with_its_loss_scale(ranks: int) -> None:
    full = link(World(), config(None), None, range(3))[0]
    for zero in ENGINES:
        cfg = config(zero, device="cuda", precision="fp16")
        losses, *given = run_ranks(ranks, link, cfg, None, range(2), device="cuda")[0]
        more, *after = run_ranks(ranks, link, cfg, tuple(given), range(2, 3), device="cuda")[0]
        assert losses + more == pytest.approx(full, abs=2e-2), zero
        before, now = (json.loads(extra)["scaler"] for extra in (given[2], after[2]))
        assert before["scale"] == now["scale"] > 1
        assert 0 < before["_growth_tracker"] < now["_growth_tracker"]


@pytest.mark.law("L8")
@each_world
def test_a_loss_that_is_not_finite_is_so_on_all_gpus(ranks: int) -> None:
    for zero in ENGINES:
        for before, loss, after in run_ranks(ranks, meet_infinity, config(zero, device="cuda"), device="cuda"):
            assert before
            assert np.isnan(loss)
            assert not after or zero, "ZeRO leaves the step out"


@pytest.mark.law("L6")
@each_world
def test_a_deterministic_run_resumes_bitwise(ranks: int) -> None:
    cfg = replace(config(None, device="cuda"), deterministic=True)
    alone = run_ranks(ranks, link, cfg, None, range(STEPS), device="cuda", deterministic=True)[0]
    first, *given = run_ranks(ranks, link, cfg, None, range(2), device="cuda", deterministic=True)[0]
    second, *after = run_ranks(ranks, link, cfg, tuple(given), range(2, STEPS), device="cuda", deterministic=True)[0]
    assert first + second == alone[0]
    for ours, theirs in zip(after[:2], alone[1:3], strict=True):
        assert furthest(ours, theirs) == 0.0
