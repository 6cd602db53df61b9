"""The order of slices by the numbers in their names: counts, or positions with signs and decimals."""

import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from segtrain.errors import DataError

# A number with one point alone: 1.2.840 is an identifier.
DECIMAL = re.compile(r"(?<![\d.])\d+\.(\d+)(?![\d.])")
EXPONENT = r"\d+(?:\.\d+)?[eE][-+]\d+(?!\w)"
SIGN = re.compile(r"(?<![^\W_])[-\u2212](?=\d)")
AFTER_LETTER = re.compile(r"(?<=[^\W\d_])-(?=\d)")
REMEDY = "so the order is not known; number the slices, or move each series into a folder of its own"


def in_order(names: Sequence[str], folder: Path) -> list[str]:
    """The slices of a folder from the lowest number to the highest. Raises DataError for names of several series.

    A minus is a sign where no letter or digit is before it (`loc_-12.5`), or where other names of the folder have a
    number there without it (`z-5` and `z5`); else it stands between (`img-012`).
    """
    are_decimals = _are_decimals(names)
    plain = {_plain(name) for name in names}
    keyed = sorted((_numbers(name, plain, are_decimals), name) for name in names)
    for (key, name), (next_key, next_name) in pairwise(keyed):
        if key and key == next_key:
            raise DataError(f"{folder}: {name} and {next_name} have the same numbers, {REMEDY}")
    by_length: dict[int, list[str]] = {}
    for key, name in keyed:
        by_length.setdefault(len(key), []).append(name)
    series = [of_length[0] for of_length in by_length.values() if len(of_length) > 1]
    if len(series) > 1:
        raise DataError(f"{folder}: names like {series[0]} and like {series[1]}, {REMEDY}")
    return [name for _, name in keyed]


def _are_decimals(names: Sequence[str]) -> bool:
    """Whether points are decimal ones; a folder with 1.9 and 1.10 counts behind them."""
    fractions = [match[1] for name in names for match in DECIMAL.finditer(name)]
    return len(set(map(len, fractions))) == 1 or not any(fraction.endswith("0") for fraction in fractions)


def _numbers(name: str, plain: set[str], are_decimals: bool) -> tuple[Decimal, ...]:
    signs = {match.start() for match in SIGN.finditer(name)}
    for match in AFTER_LETTER.finditer(name):
        if _plain(name[: match.start()] + name[match.end() :]) in plain:
            signs.add(match.start())
    pattern = rf"{EXPONENT}|{DECIMAL.pattern}|\d+" if are_decimals else r"\d+"
    return tuple(
        Decimal(f"-{match[0]}" if match.start() - 1 in signs else match[0]) for match in re.finditer(pattern, name)
    )


def _plain(name: str) -> str:
    """The name without its numbers."""
    return re.sub(rf"{EXPONENT}|\d+(\.\d+)*", "#", name)
