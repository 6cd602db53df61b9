"""Order, augmentation and mixing with several regions, any contrasts and ignored voxels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from region_runs import CONTRASTS, REGIONS, config, write_store

from segtrain.config import IGNORED, LGG_CONTRASTS, MaskLayout, SamplingName
from segtrain.data.augment.batch import draw, planes_of, to_device
from segtrain.data.augment.draws import Contrasts, Draws
from segtrain.data.augment.forms import Form, Misfit, apply
from segtrain.data.augment.mix import Mix
from segtrain.data.augment.strong import EFFECTS, strong_draws
from segtrain.data.augment.trial import tried
from segtrain.data.order import Order, make_order, plan_order
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import DataError

CPU = torch.device("cpu")
THREE = MaskLayout(("whole", "core", "enhancing"), ignores=True)
SAMPLINGS: tuple[SamplingName, ...] = ("lesion", "uniform")
PARTS = Path(__file__).resolve().parent / "parts" / "augment"
PAIRS = PARTS / "pairs.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("regions") / "store")


# ---- order


@pytest.mark.law("L2")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_slices_that_nobody_labelled_are_never_drawn(sampling: SamplingName, store: Store) -> None:
    cfg = config(store)
    cfg = replace(cfg, data=replace(cfg.data, sampling=sampling), train=replace(cfg.train, global_batch=4))
    split, order = plan_order(cfg, store, 1)
    drawn = set()
    for epoch in range(20):
        plan = order.plan(epoch)
        drawn |= {(split.train[p], int(s)) for p, s in zip(plan.patient.flat, plan.slice.flat, strict=True)}
    known = {
        (patient, number)
        for patient in split.train
        for number in range(store.patients[patient].slices)
        if number not in store.patients[patient].unlabelled
    }
    assert drawn == known
    assert any(store.patients[patient].unlabelled for patient in split.train)
    assert order.slices.sum() == len(known)


@pytest.mark.law("L2")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_known_slices_are_drawn_as_if_there_were_no_others(sampling: SamplingName) -> None:
    areas = [[5, 0, 3], [2, 9], [0, 0, 0, 1], [4, 4, 4]]
    plain = Order(areas, sampling, 4, seed=3).plan(2)
    again = Order(areas, sampling, 4, 3, known=[range(len(one)) for one in areas]).plan(2)
    numbers = [[0, 4, 6], [1, 2], [0, 1, 2, 7], [3, 4, 5]]
    gaps = Order(areas, sampling, 4, 3, known=numbers).plan(2)
    assert np.array_equal(again.slice, plain.slice)
    assert np.array_equal(gaps.patient, plain.patient)
    drawn = zip(plain.patient.flat, plain.slice.flat, strict=True)
    assert gaps.slice.ravel().tolist() == [numbers[patient][number] for patient, number in drawn]


def test_a_store_without_unlabelled_slices_has_the_order_that_it_had(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", ignores=False)
    split, order = plan_order(config(store), store, 1)
    assert order.known is None
    assert order.areas == [list(store.patients[patient].areas) for patient in split.train]


@pytest.mark.law("L12")
def test_a_patient_of_whom_nothing_is_known_is_named(store: Store) -> None:
    cfg = config(store)
    split = make_split(cfg.data, store)
    one = split.train[3]
    blank = replace(store.patients[one], unlabelled=tuple(range(store.patients[one].slices)))
    with pytest.raises(DataError, match=rf"patient {one}: all voxels of its mask are ignored \(1 such"):
        make_order(cfg, replace(store, patients={**store.patients, one: blank}), split)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_patient_without_lesion_is_drawn_evenly(sampling: SamplingName) -> None:
    plans = [Order([[0] * 5, [0, 1]], sampling, 2, seed=0).plan(epoch) for epoch in range(300)]
    drawn = np.concatenate([plan.slice[plan.patient == 0] for plan in plans])
    assert np.abs(np.bincount(drawn, minlength=5) / len(drawn) - 0.2).max() < 0.06


# ---- augmentation


def batch(store: Store) -> tuple[torch.Tensor, torch.Tensor]:
    volumes = [store.volume(patient) for patient in sorted(store.patients)[:4]]
    return (torch.from_numpy(np.stack([part[1] for part in parts])) for parts in zip(*volumes, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["reference", "strong"])
def test_all_planes_of_a_mask_move_as_one(name: str, store: Store) -> None:
    """Each as it would by itself, to whole values, nested as before."""
    image, mask = batch(store)
    draws = draw(name, 1, np.arange(4), Contrasts(CONTRASTS))
    _, moved = to_device(image, mask, draws, CPU, layout=THREE)
    for plane, bit in enumerate((1, 2, 4, IGNORED)):
        alone = to_device(image, ((mask & bit) > 0).to(torch.uint8), draws, CPU)[1]
        assert torch.equal(moved[:, plane : plane + 1], alone)
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert (moved[:, 0] >= moved[:, 1]).all()
    assert not torch.equal(moved, planes_of(mask, THREE))


@pytest.mark.law("L4")
@pytest.mark.parametrize("contrasts", [1, 2, 4, 5])
def test_strong_augments_any_number_of_contrasts_by_position_alone(contrasts: int) -> None:
    names = Contrasts(tuple("abcde"[:contrasts]), "zeros")
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(8, 24, 24, 2 * contrasts, generator=generator)  # two neighbouring slices
    mask = torch.zeros(8, 24, 24, dtype=torch.uint8)
    mask[:, 8:12, 9:20] = 1
    every: dict[str, Any] = dict.fromkeys(EFFECTS, 0.7)
    whole, _ = to_device(image, mask, strong_draws(3, np.arange(8), every, names), CPU)
    parts = [
        to_device(image[part], mask[part], strong_draws(3, np.arange(8)[part], every, names), CPU)[0]
        for part in (slice(3), slice(3, 8))
    ]
    assert whole.isfinite().all()
    assert torch.equal(whole, torch.cat(parts))
    changed = (whole - image.permute(0, 3, 1, 2)).abs().amax((0, 2, 3))
    assert (changed > 1e-3).all()


def missing(contrasts: Contrasts, positions: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Images before and after, where the only effect is that a contrast is missing."""
    image = torch.randn(positions, 4, 4, contrasts.count, generator=torch.Generator().manual_seed(0))
    draws = strong_draws(0, np.arange(positions), {"missing_contrast": 1.0}, contrasts)
    after, _ = to_device(image, torch.zeros(positions, 4, 4, dtype=torch.uint8), draws, CPU)
    return image.permute(0, 3, 1, 2), after


def test_a_contrast_is_missing_as_it_is_in_the_data() -> None:
    before, after = missing(Contrasts(CONTRASTS, "zeros"))
    gone = (after == 0).all(-1).all(-1)
    assert (gone.sum(1) == 1).all()
    assert (gone.float().mean(0) > 0.15).all()
    assert torch.equal(after[~gone], before[~gone])

    before, after = missing(Contrasts(CONTRASTS, "FLAIR"))
    replaced = (after == before[:, 3:]).all(-1).all(-1)
    assert replaced[:, 3].all()
    assert (replaced[:, :3].sum(1) == 1).all()
    assert (replaced[:, :3].float().mean(0) > 0.2).all()

    before, after = missing(Contrasts(CONTRASTS))  # all patients have all contrasts
    assert torch.equal(after, before)
    before, after = missing(Contrasts(("t2",), "zeros"))
    assert torch.equal(after, before)


@pytest.mark.parametrize("names", [LGG_CONTRASTS, ("t1", "flair", "t1ce"), ("T1w", "FLAIR", "T1Gd")])
def test_the_contrasts_of_lgg_are_known_by_any_spelling(names: tuple[str, ...]) -> None:
    one, other = (strong_draws(5, np.arange(64), contrasts=contrasts) for contrasts in (Contrasts(), Contrasts(names)))
    assert flat(one) == flat(other)
    assert flat(one) != flat(strong_draws(5, np.arange(64), contrasts=Contrasts(("a", "b", "c"), "b")))


def flat(draws: Draws) -> list[Any]:
    assert draws.strong is not None
    return [[name, one.place.tolist(), one.values.tolist()] for name, one in draws.strong.effects.items()]


# ---- copy-paste and mixup


def mixed(paste: float, own_share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Planes of a sample, its partner and the result. Left halves: the sample; upper halves: the partner."""
    mask, other = torch.zeros(2, 1, 16, 16, dtype=torch.uint8).unbind(0)
    mask[0, :, :4], mask[0, :, 4:8] = 0b001, IGNORED
    other[0, :4], other[0, 4:8] = 0b110, IGNORED
    mix = Mix(torch.tensor([0]), torch.zeros(1, 16, 16, 4), other, torch.tensor([paste]), torch.tensor([own_share]))
    _, result = to_device(torch.ones(1, 16, 16, 4), mask, None, CPU, mix, THREE)
    return planes_of(mask, THREE)[0], planes_of(other, THREE)[0], result[0]


def test_pasted_lesions_bring_all_their_regions_and_are_known() -> None:
    own, other, result = mixed(paste=1.0, own_share=1.0)
    lesion = other[:3].amax(0) > 0
    assert torch.equal(result[:, lesion], other[:, lesion])
    assert torch.equal(result[:, ~lesion], own[:, ~lesion])
    assert not result[3][lesion].any()


def test_mixup_blends_regions_and_ignores_what_either_ignores() -> None:
    own, other, result = mixed(paste=0.0, own_share=0.75)
    assert torch.allclose(result[:3], 0.75 * own[:3] + 0.25 * other[:3])
    assert torch.equal(result[3], torch.maximum(own[3], other[3]))
    own, _, result = mixed(paste=0.0, own_share=1.0)
    assert torch.equal(result, own)


# ---- augmentations of the user's own


def test_masks_that_are_interpolated_are_refused_with_several_regions() -> None:
    """Of one region rounding hides it, and does no harm; of several it makes labels that are other regions."""
    part = {"part": f"{PARTS / 'interpolated.py'}:shrunk"}
    assert not [check for check in tried(part, 0, 4, 64, short=True).checks if check.verdict == "fails"]
    trials = tried(part, 0, 4, 64, MaskLayout(tuple(REGIONS)), short=True)
    assert "masks are 0 and 7; move the mask by nearest voxel" in trials.checks[0].message
    assert trials.recipe is None
    assert tried({"part": f"{PAIRS}:flip"}, 0, 4, 64, THREE, short=True).recipe is not None


@pytest.mark.parametrize("layout", ["numpy HWC", "tensors CHW", "tensors CHW, mask int16", "PIL"])
def test_values_of_masks_are_names(layout: str) -> None:
    """They come back as they are; only those of the sample, and 0, are taken."""
    image = np.zeros((8, 8, 3), np.uint8 if layout == "PIL" else np.float32)
    mask = np.array([0, 3, 5, IGNORED], np.uint8).repeat(16).reshape(8, 8)
    form = Form("pair", layout)
    assert np.array_equal(apply(form, lambda image, mask: (image, mask), image, mask)[1], mask)

    def other(image: Any, mask: Any) -> tuple[Any, Any]:
        array = np.asarray(mask)
        return image, np.where(array == 5, 4, array)

    with pytest.raises(Misfit, match="with the value 4, and masks are 0, 3, 5 and 128"):
        apply(form, other, image, mask)
