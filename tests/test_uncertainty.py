"""Uncertainty: entropy of the mean and spread of members, against computations that keep all members."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from segtrain.config import EvaluateConfig, MaskLayout, TtaName
from segtrain.evaluation.ensemble import ensemble
from segtrain.evaluation.heat_maps import heat_map
from segtrain.evaluation.spread import number_of_views, with_spread
from segtrain.evaluation.tta import VIEWS, View, mean_probability
from segtrain.evaluation.uncertainty import MOST_SPREAD, MemberSpread, Uncertainty, entropy_bits, numbers_of

TTAS: tuple[TtaName, ...] = ("none", "left_right", "flips", "all")
Network = Callable[[Tensor], Tensor]


def networks(number: int) -> list[Network]:
    """Networks of two regions, each with its own weights."""
    made = []
    for seed in range(number):
        torch.manual_seed(seed)
        made.append(torch.nn.Conv2d(3, 2, 3, padding=1).requires_grad_(False))
    return list(made)


def test_entropy_is_zero_where_certain_and_one_bit_at_a_half() -> None:
    bits = entropy_bits(np.array([0, 1, 0.5, 0.25, 0.75], np.float32))
    assert bits.dtype == np.float32
    assert bits[:3].tolist() == [0, 0, 1]
    assert bits[3] == bits[4] == pytest.approx(2 - 0.75 * np.log2(3))
    many = entropy_bits(np.linspace(0, 1, 1001, dtype=np.float32))
    assert (many >= 0).all()
    assert (many <= 1).all()
    assert (np.diff(many[:501]) > 0).all()


@pytest.mark.parametrize("tta", TTAS)
@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_mean_is_bitwise_that_of_predicting_without_spread(tta: TtaName, number: int) -> None:
    members, image = networks(number), torch.randn(3, 3, 16, 16)
    ours = with_spread(members, image, tta, (0.5, 0.5))
    logits = ensemble(members)
    assert torch.equal(ours.logits_brhw, logits(image))
    assert torch.equal(ours.mean_brhw, mean_probability(logits, image, logits(image), tta))


@pytest.mark.parametrize("tta", TTAS)
@pytest.mark.parametrize("number", [1, 2, 5])
def test_running_sums_are_the_deviation_of_all_members(tta: TtaName, number: int) -> None:
    members, image, thresholds = networks(number), torch.randn(3, 3, 16, 16), (0.5, 0.3)
    ours = with_spread(members, image, tta, thresholds)
    all_nbrhw = np.stack(
        [
            view.back(torch.sigmoid(member(view.there(image)))).double().numpy()
            for view in (View(), *VIEWS[tta])
            for member in members
        ]
    )
    assert len(all_nbrhw) == number * number_of_views(tta)
    assert np.allclose(ours.sd_brhw, all_nbrhw.std(axis=0), atol=1e-6)
    assert ours.sd_brhw.max() <= MOST_SPREAD
    over = all_nbrhw > np.array(thresholds, np.float32)[None, None, :, None, None]
    assert np.array_equal(ours.voxels_nrb, over.sum(axis=(3, 4)).transpose(0, 2, 1))


def test_members_that_agree_have_no_spread_at_all() -> None:
    image = torch.randn(2, 3, 8, 8)
    (one,) = networks(1)
    assert not with_spread([one] * 3, image, "none", (0.5, 0.5)).sd_brhw.any()
    certain = [lambda image: torch.full_like(image[:, :1], 200.0)] * 3
    spread = with_spread(certain, image, "flips", (0.5,))
    assert not spread.sd_brhw.any()
    assert not entropy_bits(spread.mean_brhw.numpy()).any()


def test_members_that_contradict_have_the_most_spread_and_one_bit() -> None:
    image = torch.zeros(1, 3, 4, 4)
    members = [lambda image, sign=sign: torch.full_like(image[:, :1], sign * 200.0) for sign in (-1, 1)]
    spread = with_spread(members, image, "none", (0.5,))
    assert torch.allclose(spread.sd_brhw, torch.tensor(MOST_SPREAD))
    assert np.allclose(entropy_bits(spread.mean_brhw.numpy()), 1)


def test_the_variation_of_volumes_is_over_members() -> None:
    spread = MemberSpread.empty(3, 2, (4, 5, 5))
    spread.voxels_nrs[:, 0] = [[1, 2, 3, 4], [2, 2, 2, 2], [0, 0, 6, 8]]
    volumes = np.array([10, 8, 14])
    assert spread.volume_cv(0) == pytest.approx(volumes.std() / volumes.mean())
    assert spread.volume_cv(1) is None, "nobody predicts anything"


def test_a_patients_numbers_are_of_the_box_around_its_prediction() -> None:
    entropy, sd = np.zeros((2, 1, 9, 40, 40), np.float32)
    mask = np.zeros((1, 9, 40, 40), bool)
    mask[0, 4, 20, 20] = True
    entropy[0, 4, 20, 20], sd[0, 4, 20, 20] = 1, 0.5
    entropy[0, 0] = 1  # outside
    row = numbers_of(Uncertainty(entropy, sd, [0.25], networks=2, views=4), mask, 0)
    means = {"mean_entropy_bits": 1 / 363, "mean_spread": 0.5 / 363, "volume_cv": 0.25}
    assert row == pytest.approx({"networks": 2, "views": 4, **means})
    assert numbers_of(Uncertainty(entropy, None, [None]), mask, 0)["mean_spread"] is None
    nothing = numbers_of(Uncertainty(entropy, sd, [None]), mask & False, 0)
    assert [nothing[name] for name in means] == [None] * 3


def test_a_heat_map_leaves_certain_voxels_grey_and_has_the_outline() -> None:
    plane = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    value, predicted = np.zeros((64, 64), np.float32), np.zeros((64, 64), bool)
    plain = heat_map(plane, value, predicted)
    assert plain.shape == (256, 256, 3)
    assert (plain[..., 0] == plain[..., 1]).all()
    value[10:20, 10:20], predicted[30:50, 30:50] = 1, True
    drawn = heat_map(plane, value, predicted)
    changed = (drawn != plain).any(axis=-1)
    assert changed[40:80, 40:80].all()
    assert changed[120:200, 120:200].sum() == 4 * 79
    assert changed.sum() == 1600 + 4 * 79


def test_layouts_and_thresholds_of_regions_are_used() -> None:
    """By the predictor, batch by batch."""
    from segtrain.evaluation.predictor import Predictor

    members, layout = networks(2), MaskLayout(("whole", "core"))
    cfg = EvaluateConfig(batch=2, tta="left_right", threshold={"whole": 0.5, "core": 0.3})
    predictor = Predictor(ensemble(members), cfg, torch.device("cpu"), layout=layout, members=tuple(members))
    image = np.random.default_rng(0).standard_normal((5, 16, 16, 3)).astype(np.float16)
    mask = np.zeros((5, 16, 16), np.uint8)
    spread = predictor.room_for_spread(mask.shape)
    assert np.array_equal(predictor.probability(image, mask, spread=spread), predictor.probability(image, mask))
    whole = with_spread(members, torch.from_numpy(image).permute(0, 3, 1, 2).float(), "left_right", (0.5, 0.3))
    assert np.allclose(spread.sd_rshw, whole.sd_brhw.transpose(0, 1), atol=1e-6)
    assert np.array_equal(spread.voxels_nrs, whole.voxels_nrb)
