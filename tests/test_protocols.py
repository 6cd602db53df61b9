"""The protocol zscore, one spacing, absent contrasts and contrasts of own ranges: there and back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import MadeSource, labelled, store_of, volume_of
from projections import projections

from segtrain.config import DataConfig
from segtrain.data.geometry import Geometry, to_source
from segtrain.data.order import Order
from segtrain.data.preprocess import Preparation, preprocess, slice_weights
from segtrain.data.sources import LabelRules
from segtrain.data.store import store_path
from segtrain.data.zscore import ZSCORE_VERSION
from segtrain.errors import DataError

SHAPE = (6, 40, 30)
HEAD = np.zeros(SHAPE, bool)
HEAD[1:5, 6:36, 5:25] = True
MASK = np.zeros(SHAPE, np.uint8)
MASK[2:4, 12:20, 10:18] = 1
ZSCORE = Preparation(32, "zscore")


def brain(seed: int = 0, contrasts: int = 4) -> np.ndarray:
    """float32: a skull-stripped head around 500, each contrast with its own mean, in an exact 0."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*SHAPE, contrasts), np.float32)
    image[HEAD] = rng.normal(500, 60, (HEAD.sum(), contrasts)) * np.arange(1, contrasts + 1)
    return image


def inside(prepared_shwc: np.ndarray) -> np.ndarray:
    """The voxels of the head alone, [voxel, contrast]."""
    return np.asarray(prepared_shwc[(prepared_shwc != 0).any(axis=3)])


@pytest.mark.parametrize("contrasts", [1, 2, 4, 7])
def test_each_contrast_is_standardised_inside_the_head(contrasts: int) -> None:
    """Without resizing exactly; everything else is 0 in all contrasts."""
    mask = MASK.copy()
    large = Preparation(80, "zscore", spacing_mm=1)
    ours = preprocess(volume_of(brain(0, contrasts), mask, spacing_mm=(3.0, 1.0, 1.0)), large, "here")
    assert ours.image_shwc.shape == (4, 80, 80, contrasts)
    values = inside(ours.image_shwc)
    assert len(values) == HEAD.sum()
    assert np.abs(values.mean(axis=0)).max() < 1e-3
    assert np.abs(values.std(axis=0) - 1).max() < 0.02
    assert not np.signbit(ours.image_shwc[ours.image_shwc == 0]).any()
    assert ours.mask_shw.sum() == mask.sum()


SAME: dict[str, Any] = {
    "another unit": lambda v: v * np.float32(0.01),
    "float64": lambda v: v.astype(np.float64) * 1e200,
    "a lone bright voxel": lambda v: np.where(np.arange(v.size).reshape(v.shape) == 20_001, v * 30, v),
    "undershoot": lambda v: np.where(np.arange(v.size).reshape(v.shape) == 20_001, -290, v),
    "air of noise": lambda v: np.where(
        HEAD[..., None], v, np.abs(np.random.default_rng(9).normal(0, 4, v.shape)).astype(np.float32)
    ),
    "another background": lambda v: np.where(HEAD[..., None], v, -1024),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_is_no_tissue_changes_nothing(kind: str) -> None:
    """Units, outliers, noise around the head, the background's value: the prepared head stays what it is."""
    expected = preprocess(volume_of(brain(), MASK), ZSCORE, "here")
    ours = preprocess(volume_of(SAME[kind](brain()), MASK), ZSCORE, "here")
    assert ours.geometry == expected.geometry
    differs = np.abs(ours.image_shwc - expected.image_shwc) > 0.02
    assert differs.mean() < 1e-3
    np.testing.assert_array_equal(ours.image_shwc[..., 0] == 0, expected.image_shwc[..., 0] == 0)


def test_holes_of_a_slice_are_part_of_the_head() -> None:
    """Dark fluid that air does not reach, and a contrast that shows less than another."""
    image = brain(0, 2)
    image[2, 15:20, 10:15] = 0
    image[:, 20:, :, 1] = 0
    prepared = preprocess(volume_of(image, MASK), Preparation(32, "zscore"), "here")
    assert prepared.geometry.box == ((1, 5), (6, 36), (5, 25))
    assert prepared.image_shwc[1, 12, 12, 0] < -2, "the hole is darker than the head, not outside of it"


RECORDED = {
    1: (
        [0.371299, -0.582305, -0.304959, -0.166532, 1.194096, -0.259759],
        Geometry(SHAPE, ((1, 5), (6, 36), (5, 25)), ((0, 0), (5, 5)), 32),
    )
}


@pytest.mark.law("L11")
def test_other_output_of_zscore_needs_another_version() -> None:
    """Else stores of before would be read as if they held what preparation gives now."""
    image = np.zeros((*SHAPE, 2), np.int16)
    image[HEAD] = np.random.Generator(np.random.Philox(key=[0, 1])).integers(-100, 900, (HEAD.sum(), 2))
    prepared = preprocess(volume_of(image, MASK), ZSCORE, "recorded")
    values, geometry = RECORDED[ZSCORE_VERSION]
    assert prepared.geometry == geometry
    np.testing.assert_allclose(projections(prepared.image_shwc), values, atol=1e-4)


@pytest.mark.parametrize("protocol", ["reference", "zscore"])
def test_an_absent_contrast_stays_0_and_changes_no_other(protocol: Any) -> None:
    image = brain(0, 3)
    present = volume_of(image, MASK, has_one_range=False)
    with_zeros = np.insert(image, 1, 0, axis=3)
    absent = volume_of(with_zeros, MASK, has_one_range=False, absent=("t2",))
    expected = preprocess(present, Preparation(32, protocol), "here").image_shwc
    ours = preprocess(absent, Preparation(32, protocol), "here").image_shwc
    assert not ours[..., 1].any()
    np.testing.assert_array_equal(np.delete(ours, 1, axis=3), expected)
    with pytest.raises(DataError, match="channel 1 is constant"):
        preprocess(volume_of(with_zeros, MASK, has_one_range=False), Preparation(32, protocol), "here")


def test_contrasts_of_own_ranges_are_brought_to_one_by_the_reference_protocol() -> None:
    """A contrast a thousand times darker is not taken for background."""
    image = brain(0, 3)
    darker = image * np.array([1, 1e-3, 1], np.float32)
    ours = preprocess(volume_of(darker, MASK, has_one_range=False), Preparation(32), "here")
    expected = preprocess(volume_of(image, MASK, has_one_range=False), Preparation(32), "here")
    np.testing.assert_allclose(ours.image_shwc, expected.image_shwc, atol=0.01)
    assert ours.remarks == ("intensities scaled to 16 bits, each contrast's 99.9th percentile to 65535",)


@settings(max_examples=25, deadline=None)
@given(
    row_mm=st.floats(0.4, 2.5),
    column_mm=st.floats(0.4, 2.5),
    target_mm=st.sampled_from([0.8, 1.0, 1.3]),
    protocol=st.sampled_from(["reference", "zscore"]),
)
def test_a_mask_at_one_spacing_comes_back(row_mm: float, column_mm: float, target_mm: float, protocol: Any) -> None:
    """The head has its size in mm, and a mask that went there and back is off by a voxel at its boundary at most."""
    volume = volume_of(brain(), MASK, spacing_mm=(4.0, row_mm, column_mm), has_one_range=False)
    prepared = preprocess(volume, Preparation(128, protocol, target_mm), "here")
    rows, columns = prepared.geometry.resampled_px or (0, 0)
    assert abs(rows * target_mm - 30 * row_mm) <= target_mm / 2 + 1e-6
    assert abs(columns * target_mm - 20 * column_mm) <= target_mm / 2 + 1e-6
    back = to_source(prepared.mask_shw, prepared.geometry)
    assert back.shape == SHAPE
    grown, shrunk = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    far = [int(np.ceil(target_mm / mm)) for mm in (row_mm, column_mm)]
    grown[2:4, 12 - far[0] : 20 + far[0], 10 - far[1] : 18 + far[1]] = True
    shrunk[2:4, 12 + far[0] : 20 - far[0], 10 + far[1] : 18 - far[1]] = True
    assert (back[shrunk] == 1).all()
    assert not back[~grown].any()
    if row_mm == column_mm == target_mm:
        np.testing.assert_array_equal(back, MASK)


@pytest.mark.law("L12")
def test_a_spacing_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(DataError, match=r"P: the source does not know its spacing, so data.spacing_mm=1 cannot"):
        preprocess(volume_of(brain(), MASK), Preparation(32, "zscore", 1.0), "P")
    fine = volume_of(brain(), MASK, spacing_mm=(4.0, 1.0, 1.0))
    words = r"P: the head has 60x40 pixels at data.spacing_mm=0.5, more than data.image_size=32; set data.image_size=64"
    with pytest.raises(DataError, match=words):
        preprocess(fine, Preparation(32, "zscore", 0.5), "P")
    assert preprocess(fine, Preparation(64, "zscore", 0.5), "P").mask_shw.sum() == 4 * MASK.sum()


def test_protocols_and_spacings_have_stores_of_their_own() -> None:
    """And the default has that of before."""
    paths = {
        store_path(DataConfig(**options), "0123456789abcdef").name
        for options in ({}, {"protocol": "zscore"}, {"spacing_mm": 1.0}, {"protocol": "zscore", "spacing_mm": 1.0})
    }
    assert len(paths) == 4
    assert "phantom-256px-b04cda6b-0123456789ab" in paths


def test_a_store_of_zscore_keeps_its_geometry(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = LabelRules({"lesion": (1,)})
    volume = labelled(MASK, rules, brain(), spacing_mm=(4.0, 1.0, 2.0), has_one_range=False)
    source = MadeSource({"A": volume}, rules, contrasts=("t1", "t1ce", "t2", "flair"))
    store = store_of(source, tmp_path, monkeypatch, protocol="zscore", spacing_mm=1.0, image_size=48)
    image, mask = store.volume("A")
    assert image.shape == (4, 48, 48, 4)
    assert store.patients["A"].geometry.resampled_px == (30, 40)
    np.testing.assert_array_equal(to_source(mask, store.patients["A"].geometry), MASK)


def test_slices_of_a_patient_without_lesion_are_drawn_alike() -> None:
    np.testing.assert_array_equal(slice_weights(np.zeros(4, np.int64)), [0.25] * 4)


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=40).filter(any),
    st.sampled_from([0.0, 0.1, 1.0, 3.0]),
)
def test_of_draws_by_lesion_area_some_are_from_any_slice(areas: list[int], lesion_free: float) -> None:
    """`lesion_free` of them for each one by area, so that lesion-free slices share in these alone."""
    weights = slice_weights(np.array(areas), lesion_free)
    expected = [(area / sum(areas) + lesion_free / len(areas)) / (1 + lesion_free) for area in areas]
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    order = Order([areas, areas], "lesion", 2, 1, lesion_free=lesion_free)
    if lesion_free == 0:
        drawn = order.plan(0).slice
        assert all(areas[number] for number in drawn.ravel().tolist())
