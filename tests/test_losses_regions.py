"""Losses over several regions, and without the voxels that nobody knows: NumPy's values, and L5 for every name."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks
from test_losses import BY_HAND, NAMES, SUM, cross_entropy, tversky_index

from segtrain.config import LossConfig, MaskLayout
from segtrain.engines.objective import make_objective
from segtrain.errors import ConfigError
from segtrain.losses.loss import DeepSupervision, Loss, make_loss
from segtrain.runtime.world import World

Array = np.ndarray
Part = Callable[[Array, Array], float]
REGIONS = ("whole", "core", "enhancing")
THREE = MaskLayout(REGIONS, ignores=True)
ONE = MaskLayout(ignores=True)
WEIGHTS = {"whole": 1.0, "core": 0.5, "enhancing": 2.5}


def unified_tversky(p: Array, y: Array) -> float:
    lesion = float((1 - tversky_index(p, y, 0.4, 0.6)) ** 0.5)
    return 0.25 * (lesion + 1 - tversky_index(1 - p, 1 - y, 0.4, 0.6))


def unified_cross_entropy(p: Array, y: Array) -> float:
    return 0.5 * float(np.where(y > 0, -0.6 * np.log(p), -0.4 * p**0.5 * np.log(1 - p)).mean())


# The part that is a function of all voxels of the batch, and the part that is a mean over samples.
BATCH = {name: BY_HAND[name] for name in ("dice", "tversky", "focal_tversky", "jaccard", "generalized_dice")}
BATCH |= {"log_cosh_dice": BY_HAND["log_cosh_dice"], "unified_focal": unified_tversky}
BATCH |= dict.fromkeys(("dice_bce", "dice_focal", "dice_topk"), BY_HAND["dice"])
SAMPLE: dict[str, Part] = {
    "bce": BY_HAND["bce"],
    "dice_bce": BY_HAND["bce"],
    "focal": BY_HAND["focal"],
    "dice_focal": BY_HAND["focal"],
    "lovasz": BY_HAND["lovasz"],
    "unified_focal": unified_cross_entropy,
    "dice_topk": lambda p, y: float(np.sort(cross_entropy(p, y).ravel())[::-1][: -(-p.size // 10)].mean()),
}


def boundary(p: Array, y: Array, known: Array) -> float:
    """Distances between known voxels, one by one."""
    places = np.argwhere(known)
    inside = y[known] > 0
    if inside.all() or not inside.any():
        return 0.0
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(-1))
    far = np.where(inside, 1 - apart[:, ~inside].min(1), apart[:, inside].min(1))
    return float((p[known] * far).mean())


def by_hand(name: str, p: Array, y: Array, known: Array) -> float:
    """The loss of the known voxels of [b, h, w], which are all that it is given."""
    pairs = [
        (one[kept].reshape(1, 1, 1, -1), true[kept].reshape(1, 1, 1, -1))
        for one, true, kept in zip(p, y, known, strict=True)
        if kept.any()
    ]
    value = 0.0
    if name in BATCH:
        value += BATCH[name](*(np.concatenate(parts, axis=-1) for parts in zip(*pairs, strict=True)))
    if name in SAMPLE:
        value += float(np.mean([SAMPLE[name](*pair) for pair in pairs]))
    if name == "boundary":
        triples = zip(p, y, known, strict=True)
        value += float(np.mean([boundary(*triple) for triple in triples if triple[2].any()]))
    return value


def samples(seed: int, count: int, regions: int = 1, size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and masks with a plane of ignored voxels; of the second sample nothing is known."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, regions, size, size, generator=generator, dtype=torch.float64) * 3
    mask = (torch.rand(count, regions + 1, size, size, generator=generator) > 0.6).double()
    mask[: count // 2, 0] = 0
    mask[1, -1] = 1
    return logits, mask


def value_of(loss: Loss, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return loss.value(loss.sums(logits, mask))


def test_every_loss_has_a_value_by_hand() -> None:
    assert {*BATCH, *SAMPLE, "boundary"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_ignored_voxels_might_as_well_not_be_there(name: str, seed: int) -> None:
    logits, mask = samples(seed, 4)
    p, y, known = torch.sigmoid(logits)[:, 0].numpy(), mask[:, 0].numpy(), mask[:, 1].numpy() == 0
    assert value_of(make_loss(name, ONE), logits, mask).item() == pytest.approx(by_hand(name, p, y, known), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_ignored_voxels_have_no_gradient_and_no_say(name: str) -> None:
    logits, mask = samples(3, 4)
    loss, ignored = make_loss(name, ONE), mask[:, 1:] > 0
    leaf = logits.clone().requires_grad_()
    value = value_of(loss, leaf, mask)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert gradient.isfinite().all()
    assert not gradient[ignored].any()
    assert gradient[~ignored].any()
    others = torch.where(ignored, -5 * logits + 40, logits)
    masks = mask.clone()
    masks[:, :1][ignored] = 1 - masks[:, :1][ignored]
    assert value_of(loss, others, masks).item() == pytest.approx(value.item(), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_which_nothing_is_known_teaches_nothing(name: str) -> None:
    logits, mask = torch.randn(2, 1, 8, 8, requires_grad=True), torch.zeros(2, 2, 8, 8)
    mask[:, 1] = 1
    value = value_of(make_loss(name, ONE), logits, mask)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_where_all_is_known_the_plane_changes_nothing(name: str) -> None:
    logits, mask = samples(8, 4)
    mask[:, 1] = 0
    known, plain = make_loss(name, ONE), make_loss(name)
    assert value_of(known, logits, mask).item() == pytest.approx(value_of(plain, logits, mask[:, :1]).item(), rel=1e-12)


@pytest.mark.parametrize("cfg", [*NAMES, SUM], ids=str)
@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_regions_are_averaged_by_their_weights(cfg: LossConfig, ignores: bool, weights: dict[str, float]) -> None:
    logits, mask = samples(4, 4, regions=3)
    mask = mask if ignores else mask[:, :3]
    loss, alone = make_loss(cfg, MaskLayout(REGIONS, ignores), weights), make_loss(cfg, MaskLayout(ignores=ignores))
    assert loss.width == 3 * alone.width
    each = [value_of(alone, logits[:, r : r + 1], mask[:, [r, *([3] if ignores else [])]]).item() for r in range(3)]
    expected = np.average(each, weights=list((weights or dict.fromkeys(REGIONS, 1.0)).values()))
    assert value_of(loss, logits, mask).item() == pytest.approx(expected, abs=1e-9)


def test_outputs_of_several_resolutions_have_all_regions() -> None:
    logits, mask = samples(6, 4, regions=3)
    outputs = torch.stack([logits, -logits], dim=1)
    inner = make_loss("dice_bce", THREE)
    loss = DeepSupervision(inner, 0.5)
    expected = (2 * value_of(inner, logits, mask) + value_of(inner, -logits, mask)) / 3
    assert value_of(loss, outputs, mask).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_one_region_is_computed_as_ever(name: str) -> None:
    """Without a plane of ignored voxels it is the loss itself, not one over regions."""
    assert type(make_loss(name, MaskLayout(("tumour",)), {"tumour": 2.0})) is type(make_loss(name))
    assert make_loss(name, MaskLayout(("tumour",))).width == make_loss(name).width


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"whole": 1.0, "core": 1.0}, "does not weigh the regions that the data has, whole, core, enhancing"),
        ({**WEIGHTS, "edema": 1.0}, "give each of them a weight"),
        (dict.fromkeys(REGIONS, 0.0), "no region counts; give one a weight above 0"),
    ],
)
def test_weights_that_do_not_fit_the_regions_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loss("dice", THREE, weights)


@pytest.mark.law("L5")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 7))
def test_sums_of_regions_are_additive_over_any_partition(name: str, seed: int, cut: int) -> None:
    logits, mask = samples(seed, 8, regions=3)
    loss = make_loss(name, THREE, WEIGHTS)
    parts = loss.sums(logits[:cut], mask[:cut]) + loss.sums(logits[cut:], mask[cut:])
    assert torch.allclose(parts, loss.sums(logits, mask), rtol=1e-5)


def gradient_shares(world: World) -> list[tuple[float, Array]]:
    """Each loss and this rank's part of its gradient, from this rank's part of eight samples."""
    logits, mask = samples(11, 8, regions=3)
    per_rank = 8 // world.size
    mine = slice(world.rank * per_rank, (world.rank + 1) * per_rank)
    shares = []
    for cfg in (*NAMES, SUM):
        part = logits[mine].clone().requires_grad_()
        objective = make_objective(make_loss(cfg, THREE, WEIGHTS), world, 0.5)
        (gradient,) = torch.autograd.grad(objective.share(part, mask[mine]), part)
        shares.append((objective.value.item(), gradient.numpy()))
    return shares


@pytest.fixture(scope="module")
def shares_of() -> Callable[[int], Any]:
    return functools.cache(lambda world_size: run_ranks(world_size, gradient_shares))


@pytest.mark.law("L5")
@pytest.mark.parametrize("name", [*NAMES, "a weighted sum"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_have_one_loss_of_all_regions_and_its_gradient(
    name: str, world_size: int, shares_of: Callable[[int], Any]
) -> None:
    """Of one sample nothing is known, so ranks know different numbers of samples."""
    place = [*NAMES, "a weighted sum"].index(name)
    value, gradient = gradient_shares(World())[place]
    answers = [rank[place] for rank in shares_of(world_size)]
    for other, _ in answers:
        assert other == pytest.approx(value, abs=1e-6)
    assert np.abs(np.concatenate([part for _, part in answers]) - gradient).max() < 1e-7
    assert np.abs(gradient).max() > 1e-4
    assert not gradient[1].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
def test_extreme_logits_give_finite_loss_and_gradient(name: str, dtype: torch.dtype, logit: float) -> None:
    mask = torch.zeros(3, 3, 16, 16)
    mask[0, 0, 3, 4] = 1
    mask[1, 1] = 1
    mask[2, 2] = 1  # ignored
    mask[0, 2, 5:] = 1
    logits = torch.full((3, 2, 16, 16), logit).to(dtype).requires_grad_()
    value = value_of(make_loss(name, MaskLayout(("a", "b"), ignores=True)), logits, mask)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()
