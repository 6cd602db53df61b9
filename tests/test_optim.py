"""The learning rate is a function of the step."""

import itertools
import math

import pytest
import torch

from segtrain.config import ModelConfig, OptimConfig
from segtrain.engines.average import Average, reached_at
from segtrain.engines.optim import make_optimizer
from segtrain.engines.schedules import make_schedule
from segtrain.models.make import make_model
from segtrain.training.parts import average_line


def test_constant() -> None:
    schedule = make_schedule(OptimConfig(lr=0.3), 100, 10)
    assert [schedule(step) for step in (0, 50, 99)] == [0.3] * 3


def test_warmup_cosine() -> None:
    cfg = OptimConfig(lr=0.2, schedule="warmup_cosine", warmup_steps=10, final_lr_ratio=0.1)
    schedule = make_schedule(cfg, 110, 10)
    rates = [schedule(step) for step in range(111)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[9] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(0.2)
    assert rates[60] == pytest.approx(0.2 * (0.1 + 0.9 * 0.5))
    assert rates[110] == pytest.approx(0.02)
    assert rates[35] == pytest.approx(0.2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_polynomial() -> None:
    cfg = OptimConfig(lr=0.01, schedule="polynomial", power=0.9)
    schedule = make_schedule(cfg, 1000, 10)
    for step in (0, 250, 999):
        assert schedule(step) == pytest.approx(0.01 * (1 - step / 1000) ** 0.9)


@pytest.mark.parametrize("decay_all", [False, True])
def test_weight_decay_spares_norms_and_biases(decay_all: bool) -> None:
    """With no gradient, what decays shrinks and the rest stays."""
    network = make_model(ModelConfig(features=4), seed=0)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    cfg = OptimConfig(name="adamw", lr=0.1, weight_decay=0.5, decay_all=decay_all)
    optimizer = make_optimizer(network, cfg)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        spared = not decay_all and ("norm" in name or name.endswith("bias"))
        assert torch.allclose(parameter, before[name] * (1.0 if spared else 0.95)), name


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.9, 0.99, 0.999])
def test_the_step_from_which_an_average_decays_as_asked(decay: float) -> None:
    """Against the average itself, of a weight that jumps from 0 to 1: it keeps `decay` of the 0 in that step."""
    weight = torch.zeros(1)
    reached = reached_at(decay)
    for step, asked in ((reached, True), (reached - 1, reached == 1)):
        average = Average(lambda: {"weight": weight}, None, decay)
        average.take({"weight": torch.zeros(1)}, max(step, 1) - 1)
        weight.fill_(1.0)
        average.update()
        kept = 1 - float(average.values()["weight"])
        weight.zero_()
        assert (kept == pytest.approx(decay, abs=1e-7)) == asked


def test_an_average_that_is_reached_late_or_never_is_said() -> None:
    (never,) = average_line(0.999, 2000)
    assert "is reached at step 8990, but the training ends at step 2000, with a decay of 0.9955" in never
    (late,) = average_line(0.99, 1000)
    assert "is reached at step 890 of 1000" in late
    assert not list(average_line(0.99, 10_000))
