"""A step is the same sequence of operators each time, so that it can be a CUDA graph: counted on a CPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_cuda import sync_batch_norm_kernels
from ranks import run_ranks

from benchmarks.gpu_counts import Operators
from segtrain.config import OPTIMIZERS, Config, ModelConfig, OptimConfig, Precision, TrainConfig
from segtrain.engines import batch_norm
from segtrain.engines.ddp import DdpEngine
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import World

pytestmark = pytest.mark.quick
ALONE = World()
CFG = Config(
    model=ModelConfig(features=4, depth=2, norm="batch"),
    optim=OptimConfig(clip_norm=1.0),
    train=TrainConfig(global_batch=4),
)


def stepped(
    cfg: Config, rates_as_tensors: bool, world: World = ALONE
) -> tuple[list[Operators], dict[str, torch.Tensor]]:
    """The operators of the third and of the fourth step, at other rates, and the weights after them."""
    engine = DdpEngine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), world)
    if rates_as_tensors:
        for group in engine.optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = (image[:, :1] > 1).float()
    traces = []
    for step in range(4):
        with Operators() as counted:
            engine.step(image, mask, 1e-2 / (step + 1), step / 4, step)
        traces.append(counted)
    return traces[2:], engine.snapshot()[0]


def differences(one: Operators, other: Operators) -> set[str]:
    """The operators of two steps that differ in arguments; all of them where their sequences differ."""
    if [name for name, _ in one.calls] != [name for name, _ in other.calls]:
        return {"the sequence"}
    return {name for (name, ours), (_, theirs) in zip(one.calls, other.calls, strict=True) if ours != theirs}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "schedulefree"])
def test_two_steps_differ_in_nothing_but_the_rate(name: str, precision: Precision) -> None:
    """No host waits, and with the rate in a tensor no number from Python changes: neither shapes nor arguments."""
    cfg = replace(CFG, optim=replace(CFG.optim, name=name), precision=precision)
    (one, other), weights = stepped(cfg, rates_as_tensors=True)
    assert differences(one, other) == {"aten.fill_.Scalar"}, "the rate itself, which a graph would read"
    assert not one.waits
    (one, other), expected = stepped(cfg, rates_as_tensors=False)
    assert len(differences(one, other)) == 1, "the update, by the rate"
    for key, value in weights.items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optim": replace(CFG.optim, ema=0.9)}, {"aten.fill_.Scalar", "aten._foreach_lerp_.Scalar"}),
        ({"optim": OptimConfig(name="schedulefree")}, None),
    ],
    ids=["average", "schedulefree"],
)
def test_what_keeps_a_step_from_being_a_graph_is_known(changed: dict[str, Any], words: set[str] | None) -> None:
    """The average's weight moves until its decay is reached; schedule-free AdamW computes its own in Python."""
    (one, other), _ = stepped(replace(CFG, **changed), rates_as_tensors=words is not None)
    assert differences(one, other) == words if words else differences(one, other)


def ranks_differences(world: World) -> tuple[set[str], list[str], set[str]]:
    """Of two steps of this rank, by the batch norm of a GPU: operators that differ, waits, names of collectives."""
    batch_norm._fused = lambda input_nc: True
    with sync_batch_norm_kernels():
        (one, other), _ = stepped(CFG, rates_as_tensors=True, world=world)
    assert one.collectives == other.collectives
    return differences(one, other), one.waits, set(one.collectives)


def test_two_steps_of_several_ranks_differ_in_nothing_but_the_rate() -> None:
    for different, waits, collectives in run_ranks(2, ranks_differences):
        assert different == {"aten.fill_.Scalar"}
        assert not waits
        assert len(collectives) == 2, "sums and statistics, whose shapes are fixed"
