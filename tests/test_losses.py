"""Losses: the reference's numbers, NumPy's, and L5 for every name in the dict."""

import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segtrain.config import LOSSES, LossConfig, Ramp
from segtrain.losses import per_sample
from segtrain.losses.loss import DeepSupervision, make_loss
from segtrain.losses.per_sample import distance_scipy, distance_torch
from segtrain.runtime.world import World

NAMES = tuple(LOSSES)
Array = np.ndarray


def tversky_index(p: Array, y: Array, alpha: float, beta: float) -> float:
    wrong, missed = (p * (1 - y)).sum(), ((1 - p) * y).sum()
    return float(((p * y).sum() + 1) / ((p * y).sum() + alpha * wrong + beta * missed + 1))


def dice(p: Array, y: Array) -> float:
    return float(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))


def cross_entropy(p: Array, y: Array) -> Array:
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log(1 - p)))


def focal(p: Array, y: Array) -> float:
    return float((np.where(y > 0, 1 - p, p) ** 2 * cross_entropy(p, y)).mean())


def top_tenth(p: Array, y: Array) -> float:
    worst = np.sort(cross_entropy(p, y).reshape(len(p), -1), axis=1)[:, ::-1]
    return float(worst[:, : math.ceil(worst.shape[1] / 10)].mean())


def lovasz(p: Array, y: Array) -> float:
    """The Choquet integral of the Jaccard loss of the set of mistakes, level by level (Berman et al., equation 8)."""
    values = []
    for image, truth in zip(np.log(p / (1 - p)).reshape(len(p), -1), y.reshape(len(p), -1) > 0, strict=True):
        error = np.maximum(0, 1 - image * np.where(truth, 1, -1))
        levels = np.sort(np.unique(np.append(error, 0)))
        value = 0.0
        for below, above in itertools.pairwise(levels):
            mistakes = error >= above
            union = (truth | mistakes).sum()
            value += (above - below) * mistakes.sum() / union
        values.append(value)
    return float(np.mean(values))


def generalized_dice(p: Array, y: Array) -> float:
    above = below = 0.0
    for q, t in ((p, y), (1 - p, 1 - y)):
        weight = 1 / max(t.sum(), 1) ** 2
        above, below = above + weight * (q * t).sum(), below + weight * (q + t).sum()
    return float(1 - 2 * above / below)


def unified_focal(p: Array, y: Array) -> float:
    cross = np.where(y > 0, -0.6 * np.log(p), -0.4 * p**0.5 * np.log(1 - p)).mean()
    lesion = (1 - tversky_index(p, y, 0.4, 0.6)) ** 0.5
    return float(0.5 * cross + 0.25 * (lesion + 1 - tversky_index(1 - p, 1 - y, 0.4, 0.6)))


def boundary(p: Array, y: Array) -> float:
    """Kervadec et al., equation 5 and their one_hot2dist."""
    far = np.zeros_like(y)
    for place, (truth,) in enumerate(y > 0):
        if truth.any() and not truth.all():
            outside = ndimage.distance_transform_edt(~truth) * ~truth
            far[place, 0] = outside - (ndimage.distance_transform_edt(truth) - 1) * truth
    return float((p * far).mean())


BY_HAND: dict[str, Callable[[Array, Array], float]] = {
    "dice": dice,
    "bce": lambda p, y: float(cross_entropy(p, y).mean()),
    "dice_bce": lambda p, y: dice(p, y) + float(cross_entropy(p, y).mean()),
    "focal": focal,
    "dice_focal": lambda p, y: dice(p, y) + focal(p, y),
    "tversky": lambda p, y: 1 - tversky_index(p, y, 0.3, 0.7),
    "focal_tversky": lambda p, y: (1 - tversky_index(p, y, 0.3, 0.7)) ** 0.75,
    "jaccard": lambda p, y: 1 - float(((p * y).sum() + 1) / ((p + y - p * y).sum() + 1)),
    "lovasz": lovasz,
    "generalized_dice": generalized_dice,
    "log_cosh_dice": lambda p, y: math.log(math.cosh(dice(p, y))),
    "unified_focal": unified_focal,
    "boundary": boundary,
    "dice_topk": lambda p, y: dice(p, y) + top_tenth(p, y),
}
SUM: LossConfig = {"dice": 1.0, "boundary": Ramp(start=0.0, end=0.4), "focal": 0.5}


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
def test_values_are_numpys(name: str, seed: int) -> None:
    logits, mask = samples(seed, 3)
    loss = make_loss(name)
    expected = BY_HAND[name](1 / (1 + np.exp(-logits.numpy())), mask.numpy())
    assert loss.value(loss.sums(logits, mask)).item() == pytest.approx(expected, abs=1e-6)


def test_values_are_monais_where_one_rank_sees_the_batch() -> None:
    from monai.losses.dice import DiceLoss  # slow to import, and the ranks of tests below import this file
    from monai.losses.focal_loss import FocalLoss
    from monai.losses.tversky import TverskyLoss

    logits, mask = samples(3, 4)
    region: dict[str, Any] = {"sigmoid": True, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    theirs: dict[str, torch.nn.Module] = {
        "dice": DiceLoss(**region),
        "tversky": TverskyLoss(alpha=0.3, beta=0.7, **region),
        "focal": FocalLoss(gamma=2.0),
    }
    for name, module in theirs.items():
        loss = make_loss(name)
        assert loss.value(loss.sums(logits, mask)).item() == pytest.approx(module(logits, mask).item(), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences(name: str) -> None:
    logits, mask = samples(1, 3, size=4)
    loss = make_loss(name)
    assert torch.autograd.gradcheck(lambda x: loss.value(loss.sums(x, mask)), logits.requires_grad_())


def test_a_sum_is_the_sum_of_its_losses_at_their_weights() -> None:
    logits, mask = samples(5, 4)
    loss = make_loss(SUM)
    each = {name: BY_HAND[name](torch.sigmoid(logits).numpy(), mask.numpy()) for name in ("dice", "boundary", "focal")}
    for progress in (0.0, 0.25, 1.0):
        expected = each["dice"] + 0.4 * progress * each["boundary"] + 0.5 * each["focal"]
        assert loss.value(loss.sums(logits, mask), progress).item() == pytest.approx(expected, abs=1e-6)


def test_outputs_of_several_resolutions_weigh_half_of_the_one_before() -> None:
    logits, mask = samples(6, 4)
    outputs = torch.stack([logits, 0.5 * logits, -logits], dim=1)
    loss = DeepSupervision(make_loss("dice_bce"), 0.5)
    expected = sum(
        weight / 7 * BY_HAND["dice_bce"](torch.sigmoid(one).numpy(), mask.numpy())
        for weight, one in zip((4, 2, 1), outputs.unbind(1), strict=True)
    )
    assert loss.value(loss.sums(outputs, mask)).item() == pytest.approx(expected, abs=1e-6)
    one_output = make_loss("dice_bce")
    assert loss.value(loss.sums(logits, mask)) == one_output.value(one_output.sums(logits, mask))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0.005, 0.995))
def test_both_ways_to_a_distance_are_one(seed: int, density: float) -> None:
    target = torch.from_numpy(np.random.default_rng(seed).random((3, 17, 23)) < density)
    target[:, 4, 5] = True  # of an empty one there is no distance
    assert torch.allclose(distance_torch(target), distance_scipy(target).float(), atol=1e-5)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that an operator returns."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(value.numel() for value in tree_leaves(result) if torch.is_tensor(value))])
        return result


@pytest.mark.parametrize("at_once", [1, 23 * 23 * 5, 23 * 23 * 17])
def test_a_distance_takes_as_much_memory_as_it_may(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has the same bits, however many rows are taken at once."""
    target = torch.from_numpy(np.random.default_rng(0).random((3, 17, 23)) < 0.05)
    whole = distance_torch(target)
    monkeypatch.setattr(per_sample, "AT_ONCE", at_once)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        assert torch.equal(distance_torch(target), whole)
    assert largest.numbers <= max(at_once, 3 * 17 * 23)


@pytest.mark.law("L5")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 7))
def test_sums_are_additive_over_any_partition(name: str, seed: int, cut: int) -> None:
    logits, mask = samples(seed, 8)
    loss = make_loss(name)
    parts = loss.sums(logits[:cut], mask[:cut]) + loss.sums(logits[cut:], mask[cut:])
    assert torch.allclose(parts, loss.sums(logits, mask), rtol=1e-5)


def gradient_shares(world: World) -> list[tuple[float, np.ndarray]]:
    """Each loss and this rank's part of its gradient, from this rank's part of eight samples."""
    logits, mask = samples(11, 8)
    per_rank = 8 // world.size
    mine = slice(world.rank * per_rank, (world.rank + 1) * per_rank)
    shares = []
    for cfg in (*NAMES, SUM):
        part = logits[mine].clone().requires_grad_()
        loss = make_loss(cfg)
        value = loss.value(world.sum_keep_gradient(loss.sums(part, mask[mine])))
        (gradient,) = torch.autograd.grad(value, part)
        shares.append((value.item(), gradient.numpy()))
    return shares


@pytest.fixture(scope="module")
def shares_of() -> Callable[[int], list[list[tuple[float, np.ndarray]]]]:
    return functools.cache(lambda world_size: run_ranks(world_size, gradient_shares))


@pytest.mark.law("L5")
@pytest.mark.parametrize("name", [*NAMES, "a weighted sum"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_with_unequal_lesions_have_one_loss_and_its_gradient(
    name: str, world_size: int, shares_of: Callable[[int], list[list[tuple[float, np.ndarray]]]]
) -> None:
    place = [*NAMES, "a weighted sum"].index(name)
    value, gradient = gradient_shares(World())[place]
    answers = [rank[place] for rank in shares_of(world_size)]
    for other, _ in answers:
        assert other == pytest.approx(value, abs=1e-6)
    assert np.abs(np.concatenate([part for _, part in answers]) - gradient).max() < 1e-7
    assert np.abs(gradient).max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lesion", ["none", "all", "one pixel"])
@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
def test_extreme_masks_give_finite_loss_and_gradient(name: str, dtype: torch.dtype, lesion: str, logit: float) -> None:
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
