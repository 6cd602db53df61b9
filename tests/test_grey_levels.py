"""Contrasts in any unit become grey levels: the background is found, outliers do not squeeze the rest."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segtrain.data.sources.levels import WHITE, grey_levels

SHAPE = (12, 40, 40)
HEAD = np.zeros(SHAPE, bool)
HEAD[2:10, 8:32, 8:32] = True
Contrast = NDArray[np.floating]


def head(seed: int, noise: float = 0) -> Contrast:
    """A head of 300 to 1000 in air of 0 to `noise`."""
    rng = np.random.default_rng(seed)
    return np.where(HEAD, rng.uniform(300, 1000, SHAPE), rng.uniform(0, 1, SHAPE) * noise)


def put(values: Contrast, place: Any, value: float) -> Contrast:
    changed = values.copy()
    changed[place] = value
    return changed


OUTLIERS: dict[str, Callable[[Contrast], Contrast]] = {
    "one voxel": lambda v: put(v, (5, 20, 20), -30_000),
    "a row": lambda v: put(v, (0, 0), -30_000),
    "some voxels, each other": lambda v: put(v, (5, 20, slice(10, 20)), 0) - np.eye(1, v.size).reshape(SHAPE) * 4000,
    "padding": lambda v: put(v, (slice(None), slice(0, 4)), -1024),
    "padding on all sides": lambda v: put(
        put(v, (slice(None), slice(0, 4)), -2000), (slice(None), slice(-4, None)), -2000
    ),
    "the background": lambda v: np.where(HEAD, v, -1024),
    "undershoot": lambda v: put(v, (5, 20, slice(10, 13)), -290),
}


@pytest.mark.parametrize("kind", OUTLIERS)
@pytest.mark.parametrize("noise", [0, 20])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_lies_far_below_changes_nothing_else(kind: str, noise: float, seed: int) -> None:
    """The rest keeps its levels, what was below is black, and it is said."""
    clean = head(seed, noise)
    spoilt = OUTLIERS[kind](clean)
    expected, without = grey_levels(clean)
    levels, remarks = grey_levels(spoilt)
    same = spoilt == clean
    assert not without
    assert remarks
    assert np.abs(levels[same].astype(int) - expected[same]).max() < WHITE * 0.02
    assert levels[spoilt < 0].max() < WHITE * 0.001


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([-3000.0, -500.0, 7.0, 1e5]))
def test_an_offset_changes_nothing(seed: int, offset: float) -> None:
    """The background of a head in other units is not taken for padding."""
    clean = head(seed)
    levels, remarks = grey_levels(clean + offset)
    assert np.abs(levels.astype(int) - grey_levels(clean)[0]).max() <= 1
    assert not remarks


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), padding=st.sampled_from([-1024, -2000, -3024]))
def test_air_below_zero_is_black_too(seed: int, padding: int) -> None:
    """As in CT: air at -1000, padding below it."""
    values = head(seed, noise=20) * 3 - 1000
    levels, _ = grey_levels(put(values, (slice(None), [0, 1, 2, -3, -2, -1]), padding))
    assert levels[~HEAD].max() < WHITE * 0.05
    assert levels[HEAD].min() > WHITE * 0.1


@pytest.mark.parametrize("background", [-9.0, 0.0, 0.5, 40.0])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_background_is_black_wherever_it_lies_among_the_values(background: float, seed: int, scale: float) -> None:
    """As in a standardised brain, whose voxels are below and above it."""
    brain = np.random.default_rng(seed).normal(0, 1, SHAPE)
    levels, remarks = grey_levels(np.where(HEAD, brain, background) * scale)
    assert not levels[~HEAD].any()
    assert np.corrcoef(levels[HEAD], brain[HEAD])[0, 1] > 0.99
    assert remarks or background == -9


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.int16, np.uint16, np.int32, np.float32, np.float64]),
    bits=st.integers(3, 14),
)
def test_no_level_is_lost_below_the_brightest_thousandth(seed: int, dtype: Any, bits: int) -> None:
    values: NDArray[Any] = np.where(HEAD, np.random.default_rng(seed).integers(1, 2**bits, SHAPE), 0).astype(dtype)
    levels, remarks = grey_levels(values)
    assert not remarks
    below = values < np.percentile(values[values > 0], 99.8)
    assert len(np.unique(levels[below])) == len(np.unique(values[below]))
    order = np.argsort(values[below], kind="stable")
    assert (np.diff(levels[below][order].astype(int)) >= 0).all()


def test_8_bits_and_constants_are_exact() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    np.testing.assert_array_equal(grey_levels(values)[0], values * np.uint16(257))
    assert not grey_levels(np.full(SHAPE, 7.5))[0].any()
