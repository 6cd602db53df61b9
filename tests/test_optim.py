"""The learning rate is a function of the step."""

import itertools
import math

import pytest
import torch

from segtrain.config import ModelConfig, OptimConfig
from segtrain.engines.optim import make_optimizer
from segtrain.engines.schedules import make_schedule
from segtrain.models.make import make_model


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
