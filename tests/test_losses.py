"""Losses: the reference's numbers, NumPy's, and L5 for every name in the dict."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks

from segtrain.config import LossName
from segtrain.dist import World
from segtrain.losses import make_loss

NAMES = get_args(LossName)


def numpy_dice(probability: np.ndarray, mask: np.ndarray) -> float:
    return float(1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1))


BY_HAND = {"dice": numpy_dice}


def samples(seed: int, count: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks; the lesion is in a part of the samples only."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 1, size, size, generator=generator, dtype=torch.float64) * 3
    mask = (torch.rand(count, 1, size, size, generator=generator) > 0.6).double()
    mask[: count // 2] = 0
    return logits, mask


def test_dice_is_the_reference_s_in_value_and_gradient(golden: Path) -> None:
    loss = make_loss("dice")
    for case in json.loads((golden / "dice_loss.json").read_text()):
        probability = torch.tensor(case["pred"], dtype=torch.float64).reshape(case["shape"])
        mask = torch.tensor(case["true"], dtype=torch.float64).reshape(case["shape"])
        logits = torch.logit(probability).requires_grad_()
        value = loss.value(loss.sums(logits, mask))
        (gradient,) = torch.autograd.grad(value, logits)
        assert abs(value.item() - case["loss"]) < 1e-6
        # The reference's gradient is with respect to the probability: divide by the sigmoid's slope.
        by_probability = gradient / (probability * (1 - probability))
        assert (by_probability.flatten() - torch.tensor(case["grad"], dtype=torch.float64)).abs().max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_values_are_numpys(name: LossName, seed: int) -> None:
    logits, mask = samples(seed, 3)
    loss = make_loss(name)
    expected = BY_HAND[name](1 / (1 + np.exp(-logits.numpy())), mask.numpy())
    assert loss.value(loss.sums(logits, mask)).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.law("L5")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 7))
def test_sums_are_additive_over_any_partition(name: LossName, seed: int, cut: int) -> None:
    logits, mask = samples(seed, 8)
    loss = make_loss(name)
    parts = loss.sums(logits[:cut], mask[:cut]) + loss.sums(logits[cut:], mask[cut:])
    assert torch.allclose(parts, loss.sums(logits, mask), rtol=1e-5)


def gradient_share(world: World, name: LossName) -> tuple[float, np.ndarray]:
    """The loss and this rank's part of its gradient, from this rank's part of eight samples."""
    logits, mask = samples(11, 8)
    per_rank = 8 // world.size
    mine = slice(world.rank * per_rank, (world.rank + 1) * per_rank)
    part = logits[mine].clone().requires_grad_()
    loss = make_loss(name)
    value = loss.value(world.sum_keep_gradient(loss.sums(part, mask[mine])))
    (gradient,) = torch.autograd.grad(value, part)
    return value.item(), gradient.numpy()


@pytest.mark.law("L5")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_with_unequal_lesions_have_one_loss_and_its_gradient(name: LossName, world_size: int) -> None:
    value, gradient = gradient_share(World(), name)
    answers = run_ranks(world_size, gradient_share, name)
    for other, _ in answers:
        assert other == pytest.approx(value, abs=1e-6)
    assert np.abs(np.concatenate([part for _, part in answers]) - gradient).max() < 1e-7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lesion", ["none", "all", "one pixel"])
@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
def test_extreme_masks_give_finite_loss_and_gradient(
    name: LossName, dtype: torch.dtype, lesion: str, logit: float
) -> None:
    mask = torch.zeros(2, 1, 16, 16)
    if lesion == "all":
        mask += 1
    if lesion == "one pixel":
        mask[0, 0, 3, 4] = 1
    logits = torch.full_like(mask, logit).to(dtype).requires_grad_()
    loss = make_loss(name)
    value = loss.value(loss.sums(logits, mask))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
