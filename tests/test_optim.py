"""The learning rate is a function of the step."""

import itertools
import math

import pytest

from segtrain.config import OptimConfig
from segtrain.optim import lr_at


def test_constant() -> None:
    assert [lr_at(step, 100, OptimConfig(lr=0.3)) for step in (0, 50, 99)] == [0.3] * 3


def test_warmup_cosine() -> None:
    cfg = OptimConfig(lr=0.2, schedule="warmup_cosine", warmup_steps=10, final_lr_ratio=0.1)
    rates = [lr_at(step, 110, cfg) for step in range(111)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[9] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(0.2)
    assert rates[60] == pytest.approx(0.2 * (0.1 + 0.9 * 0.5))
    assert rates[110] == pytest.approx(0.02)
    assert rates[35] == pytest.approx(0.2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
