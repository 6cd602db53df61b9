"""Layers that draw numbers: seeded by seed, step, micro-batch and rank, whatever was drawn before (L4, L6)."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_runs import STEPS, Link, State, batch, config, go_on, network, plain
from ranks import run_ranks
from torch import Tensor, nn

from segtrain.config import Config, LossConfig, ModelConfig, TrainConfig
from segtrain.engines.engine import Engine, make_engine
from segtrain.losses.loss import make_loss
from segtrain.models.recompute import recompute
from segtrain.runtime.machine import lacks_to_compile
from segtrain.runtime.world import World

needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")


class DropPath(nn.Module):
    """Drops whole samples, by torch.rand as some public networks do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(len(x), 1, 1, 1, device=x.device) > 0.3
        return x * keep / 0.7


def dropping(checkpoint: bool = False) -> nn.Sequential:
    inner = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout2d(0.3), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    torch.manual_seed(3)
    for parameter in inner.parameters():
        nn.init.normal_(parameter, std=0.3)
    module = nn.Sequential(network(), nn.Dropout(0.2), inner, DropPath())
    if checkpoint:
        recompute(module)
    return module


def made(cfg: Config, world: World) -> Engine:
    return make_engine(cfg, dropping(cfg.model.checkpoint_activations), make_loss(cfg.loss), world)


def go(
    world: World, cfg: Config, given: Link | None, steps: range, disturb: bool
) -> tuple[list[float], State, State, str]:
    """As `engine_runs.link`; another program may have drawn numbers in between."""
    engine = made(cfg, world)
    if given is not None:
        model, moments = ({key: torch.from_numpy(value) for key, value in part.items()} for part in given[:2])
        engine.restore(model, moments, json.loads(given[2]))
    if disturb:
        torch.rand(1000)
    losses = go_on(engine, cfg, world, steps)
    model, moments, extra = engine.snapshot()
    return losses, plain(model), plain(moments), json.dumps(extra)


@pytest.mark.law("L6")
@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize(
    ("zero", "ranks"), [(None, 1), (None, 2), *(pytest.param(zero, 2, marks=needs_deepspeed) for zero in (1, 3))]
)
def test_dropout_is_resumed_bitwise(zero: int | None, ranks: int, micro_batch: int | None) -> None:
    cfg = config(zero, train=TrainConfig(global_batch=8, micro_batch=micro_batch))
    alone = run_ranks(ranks, go, cfg, None, range(STEPS), False)[0]
    losses, *given = run_ranks(ranks, go, cfg, None, range(2), False)[0]
    more, *after = run_ranks(ranks, go, cfg, tuple(given), range(2, STEPS), True)[0]
    assert losses + more == alone[0]
    assert all(np.array_equal(after[0][key], value) for key, value in alone[1].items())


class Recorded:
    """A loss that keeps the logits that it was given."""

    def __init__(self, loss: LossConfig) -> None:
        self.inner = make_loss(loss)
        self.width, self.couples, self.logits = self.inner.width, self.inner.couples, list[Tensor]()

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        self.logits.append(logits.detach().clone())
        return self.inner.sums(logits, mask)

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        return self.inner.value(sums, progress)


def logits_of_a_step(
    world: World, seed: int, step: int, micro_batch: int | None, compiled: bool = False
) -> list[np.ndarray]:
    train = TrainConfig(global_batch=8, micro_batch=micro_batch)
    cfg = config(None, seed=seed, train=train, model=ModelConfig(compile=compiled))
    loss = Recorded(cfg.loss)
    engine = make_engine(cfg, dropping(), loss, world)
    share = 8 // world.size
    image, mask = (tensor[:1].expand(share, -1, -1, -1) for tensor in batch(0))  # all samples alike
    engine.step(image, mask, 0.0, step=step)
    return [logits.numpy() for logits in loss.logits]


@pytest.mark.quick
@pytest.mark.law("L4")
def test_both_passes_of_an_accumulated_step_drop_the_same() -> None:
    logits = logits_of_a_step(World(), 42, 7, 2)
    first, second = logits[:4], logits[4:]
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert not np.array_equal(first[0], first[1]), "each micro-batch drops other things"
    again = logits_of_a_step(World(), 42, 7, 2)
    assert all(np.array_equal(one, other) for one, other in zip(logits, again, strict=True))
    assert not np.array_equal(logits_of_a_step(World(), 42, 8, 2)[0], first[0])
    assert not np.array_equal(logits_of_a_step(World(), 43, 7, 2)[0], first[0])


@pytest.mark.skipif(lacks_to_compile("cpu") is not None, reason="there is no compiler")
@pytest.mark.law("L4")
def test_a_compiled_network_drops_what_it_would_drop_otherwise() -> None:
    """The first pass of an accumulated step is not compiled. Rounding differs; a voxel dropped would be one of 1."""
    logits = logits_of_a_step(World(), 42, 7, 2, compiled=True)
    assert all(np.abs(one - other).max() < 1e-5 for one, other in zip(logits[:4], logits[4:], strict=True))


@pytest.mark.law("L4")
def test_ranks_drop_other_things() -> None:
    one, other = run_ranks(2, logits_of_a_step, 42, 0, None)
    assert not np.array_equal(one[0], other[0])


@pytest.mark.law("L6")
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_activations_that_are_computed_again_drop_the_same(micro_batch: int | None) -> None:
    cfg = config(None, train=TrainConfig(global_batch=8, micro_batch=micro_batch))
    again = replace(cfg, model=ModelConfig(checkpoint_activations=True))
    kept, computed = (go(World(), each, None, range(STEPS), False) for each in (cfg, again))
    assert kept[0] == computed[0]
    assert all(np.array_equal(computed[1][key], value) for key, value in kept[1].items())
