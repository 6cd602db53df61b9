"""Copy-paste and mixup: partners of the same lane, by position, pasted and blended as said."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from segtrain.config import LOSSES, Config, SamplingName
from segtrain.data.augment.batch import to_device
from segtrain.data.augment.mix import EDGE_SIGMA_PX, MIXUP_ALPHA, Mix, mix_draws
from segtrain.data.feed import Feed
from segtrain.data.order import make_order
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import ConfigError
from segtrain.losses.loss import make_loss

CPU = torch.device("cpu")
POSITIONS = np.arange(6000)


@pytest.mark.law("L4")
def test_what_is_mixed_depends_on_seed_and_position_alone() -> None:
    whole = mix_draws(7, POSITIONS, 0.3, 0.2)
    for found, expected in zip(mix_draws(7, POSITIONS[500:520], 0.3, 0.2), whole, strict=True):
        assert np.array_equal(found, expected[500:520])
    assert any((a != b).any() for a, b in zip(mix_draws(8, POSITIONS, 0.3, 0.2), whole, strict=True))


def test_chances_and_shares_are_those_asked_for() -> None:
    paste, kept = mix_draws(0, POSITIONS, 0.3, 0.2)
    assert set(paste.tolist()) == {0.0, 1.0}
    assert abs(paste.mean() - 0.3) < 0.025
    assert abs((kept < 1).mean() - 0.2) < 0.025
    shares = mix_draws(0, POSITIONS, 0.0, 1.0)[1]
    assert abs(shares.mean() - 0.5) < 0.02
    assert shares.var() == pytest.approx(1 / (4 * (2 * MIXUP_ALPHA + 1)), rel=0.05)  # of Beta(alpha, alpha)


def sample(seed: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2, 40, 40, channels)).astype(np.float16)
    y, x = np.mgrid[:40, :40]
    mask = np.array([np.hypot(y - cy, x - cx) < 7 for cy, cx in rng.uniform(12, 28, (2, 2))], np.uint8)
    return torch.from_numpy(image), torch.from_numpy(mask)


@pytest.mark.parametrize("channels", [3, 9])
def test_a_pasted_lesion_is_the_partners_with_a_soft_edge(channels: int) -> None:
    (image, mask), (other, lesion) = sample(0, channels), sample(1, channels)
    mix = Mix(torch.tensor([1]), other[:1], lesion[:1], torch.ones(1), torch.ones(1))
    found, found_mask = to_device(image, mask, None, CPU, mix)
    plain, plain_mask = to_device(image, mask, None, CPU)
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found_mask[0], plain_mask[0])
    assert torch.equal(found_mask[1, 0], (mask[1] | lesion[0]).float())
    soft = ndimage.gaussian_filter(lesion[0].numpy().astype(float), EDGE_SIGMA_PX, mode="nearest", radius=4)
    expected = image[1].double().numpy() * (1 - soft[..., None]) + other[0].double().numpy() * soft[..., None]
    assert np.abs(found[1].permute(1, 2, 0).numpy() - expected).max() < 1e-4
    distance = ndimage.distance_transform_edt(lesion[0]) - ndimage.distance_transform_edt(1 - lesion[0])
    assert (soft[distance >= 3] > 0.99).all()
    assert (soft[distance <= -3] < 0.01).all()


def test_mixup_blends_image_and_mask() -> None:
    (image, mask), (other, lesion) = sample(0), sample(1)
    mix = Mix(torch.tensor([1, 0]), other, lesion, torch.zeros(2), torch.tensor([0.3, 0.9]))
    found, found_mask = to_device(image, mask, None, CPU, mix)
    for place, partner, kept in ((1, 0, 0.3), (0, 1, 0.9)):
        expected = kept * image[place].double() + (1 - kept) * other[partner].double()
        assert (found[place].permute(1, 2, 0) - expected).abs().max() < 1e-5
        expected = kept * mask[place].double() + (1 - kept) * lesion[partner].double()
        assert (found_mask[place, 0] - expected).abs().max() < 1e-6


def test_the_partner_is_the_next_sample_of_the_column(tiny: Config, tiny_store: Store) -> None:
    """Around the end of the epoch to its beginning; read only where it is needed."""
    split = make_split(tiny.data, tiny_store)
    order = make_order(tiny, tiny_store, split)
    feed = Feed(tiny_store, split.train, order, replace(tiny.data, copy_paste=0.4), 0, 1)
    partners = 0
    for step in range(order.steps_per_epoch, 2 * order.steps_per_epoch):
        batch = feed.gather(step)
        following = feed.gather(order.steps_per_epoch + (step + 1) % order.steps_per_epoch)
        positions = np.arange(4) + step * 4
        drawn = np.flatnonzero(mix_draws(order.seed, positions, 0.4, 0.0)[0])
        assert (batch.mix is None) == (len(drawn) == 0)
        if batch.mix is not None:
            assert batch.mix.place.tolist() == drawn.tolist()
            assert torch.equal(batch.mix.image_khwc, following.image_bhwc[drawn])
            assert torch.equal(batch.mix.mask_khw, following.mask_bhw[drawn])
            partners += len(drawn)
    assert partners > 0.25 * 4 * order.steps_per_epoch


@pytest.mark.law("L12")
@pytest.mark.parametrize("key", ["copy_paste", "mixup"])
@pytest.mark.parametrize("sampling", ["lesion", "uniform"])
def test_an_epoch_of_one_step_has_no_partners(
    tiny: Config, tiny_store: Store, key: str, sampling: SamplingName
) -> None:
    split = make_split(tiny.data, tiny_store)
    slices = sum(tiny_store.patients[patient].slices for patient in split.train)
    train = replace(tiny.train, global_batch=slices // 2 + 1)
    large = replace(tiny, data=replace(tiny.data, sampling=sampling), train=train)
    assert make_order(large, tiny_store, split).steps_per_epoch == 1
    mixed = replace(large, data=replace(large.data, **{key: 0.5}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"data\.{key}=0\.5 .*one step.*data\.{key}=0") as caught:
        make_order(mixed, tiny_store, split)
    remedy = re.search(r"set train\.global_batch to (\d+)", str(caught.value))
    assert remedy is not None
    make_order(replace(mixed, train=replace(mixed.train, global_batch=int(remedy[1]))), tiny_store, split)


def test_without_mixing_nothing_is_read_for_it(tiny: Config, tiny_store: Store) -> None:
    split = make_split(tiny.data, tiny_store)
    feed = Feed(tiny_store, split.train, make_order(tiny, tiny_store, split), tiny.data, 0, 1)
    assert feed.gather(0).mix is None


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_the_soft_masks_of_mixup(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    loss = make_loss(name)
    value = loss.value(loss.sums(logits, torch.rand(2, 1, 16, 16)))
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
