"""Slices are in the order of the numbers in their names, whichever way these are written."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain.data.sources.numbering import in_order
from segtrain.errors import DataError

FOLDER = Path("/data/P")
WAYS: dict[str, Callable[[Fraction], str]] = {
    "as short as it goes": lambda mm: f"loc_{float(mm):g}",
    "two decimals": lambda mm: f"scan 3 z={float(mm):.2f}mm",
    "no separator": lambda mm: f"z{float(mm):g}",
    "minus of typographers": lambda mm: f"loc_{float(mm):g}".replace("-", "\u2212"),
    "in brackets": lambda mm: f"s({float(mm):.2f})",
}


@pytest.mark.parametrize("way", WAYS)
@given(first=st.integers(-400, 0), step=st.sampled_from([1, 2, 4, 5, 10]), slices=st.integers(3, 40))
def test_positions_are_numbers_with_a_sign(way: str, first: int, step: int, slices: int) -> None:
    """Quarters of a millimetre, some below and some above zero."""
    positions = [Fraction(first + step * s, 4) for s in range(slices)]
    if way == "no separator" and not (positions[0] < 0 < positions[-1]):
        return  # z-1 alone may as well be the first of several
    names = [WAYS[way](mm) for mm in positions]
    assert in_order(sorted(names), FOLDER) == names


@given(first=st.integers(0, 2000), slices=st.integers(2, 40), name=st.sampled_from(["{}", "a-{}", "s2-{:04d}", "1.{}"]))
def test_counts_are_numbers_without_a_sign(first: int, slices: int, name: str) -> None:
    names = [name.format(k) for k in range(first, first + slices)]
    assert in_order(sorted(names), FOLDER) == names


def test_rounding_errors_around_zero_are_numbers_too() -> None:
    names = ["z_-5.5", "z_-2.220446049250313e-16", "z_1e-05", "z_2.5", "z_10"]
    assert in_order(sorted(names), FOLDER) == names


def test_long_identifiers_are_compared_to_the_last_digit() -> None:
    names = [f"1.2.840.{2**70 + k}.1" for k in range(5)]
    assert in_order(names[::-1], FOLDER) == names


def test_names_without_numbers_are_in_the_order_of_letters() -> None:
    assert in_order(["b", "a", "c"], FOLDER) == ["a", "b", "c"]


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    "names", [["flair_1", "flair_2", "t1_1", "t1_2"], ["a1", "b1"], ["1", "01"], ["loc_5", "loc_5.0", "loc_7.5"]]
)
def test_slices_of_several_series_or_of_one_number_are_refused(names: list[str]) -> None:
    with pytest.raises(DataError, match=r"/data/P: .*, so the order is not known; number the slices, or move each"):
        in_order(names, FOLDER)
