"""Missed, false and found lesions as pictures need them: where each is in each slice, the worst one, a caption.

Torch is not imported, and no loop is over more lesions than a picture names.
Legend: r region, s slice, h height, w width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segtrain.evaluation.lesions import DEFAULT_RULE, Mask, Matching, match
from segtrain.evaluation.units import Spacing, in_unit, unit

Result = Literal["missed", "false", "found"]
LETTERS: Mapping[Result, str] = {"missed": "M", "false": "F", "found": "L"}
MOST_NAMED = 12  # of a patient, and of a slice: more names would cover the picture

SORTS = {
    "dsc": "the lowest DSC first",
    "lesion": "the largest missed lesion first, then the largest false one, then the lowest Dice of a lesion",
}


@dataclass(frozen=True)
class Lesion:
    """A lesion of a patient: its number in the table of lesions, its size, and the slice with the most of it."""

    result: Result
    number: int
    voxels: int
    place: int
    region: str = ""  # of several
    spacing_mm: Spacing | None = None
    dsc: float = 0.0

    @property
    def name(self) -> str:
        """As pictures show it: M3, F7."""
        return f"{LETTERS[self.result]}{self.number}"

    @property
    def size(self) -> str:
        """With its unit."""
        amount = in_unit(self.voxels, self.spacing_mm)
        return f"{amount:.3g} ml" if unit(self.spacing_mm) == "ml" else f"{amount} voxels"

    @property
    def words(self) -> str:
        """What it is, for a title."""
        if self.result == "found":
            return f"lowest Dice of a lesion {self.dsc:.3f}: {self.name}, {self.size}"
        return f"{self.result} lesion {self.name}, {self.size}"

    @property
    def rank(self) -> tuple[int, float]:
        """The smaller, the worse: missed ones by size, then false ones by size, then found ones by Dice."""
        if self.result == "found":
            return 2, self.dsc
        return int(self.result == "false"), -in_unit(self.voxels, self.spacing_mm)


@dataclass(frozen=True)
class Spot:
    """A missed or false lesion in one slice: its name, and the rows and columns where it begins and ends."""

    result: Result
    name: str
    top: int
    left: int
    bottom: int  # not included
    right: int


@dataclass(frozen=True)
class SliceSpots:
    """The largest missed and false lesions of a slice, missed ones first, and how many more there are."""

    spots: Sequence[Spot] = ()
    more: int = 0


@dataclass(frozen=True)
class RegionLesions:
    """The lesions of one region: how many, where they are missed or false, and by name the largest of these.

    `_parts`: a row for each wrong lesion and slice, by slice, then by the lesion's number.
    """

    region: str
    lesions: int
    found: int
    false: int
    missed_shw: Mask
    false_shw: Mask
    wrong: Sequence[Lesion]
    lowest: Lesion | None  # the found one of the lowest Dice
    _parts: NDArray[np.int64]

    @property
    def worst(self) -> Lesion | None:
        """The largest missed one, else the largest false one, else that of the lowest Dice; None without lesions."""
        return self.wrong[0] if self.wrong else self.lowest

    def at(self, place: int) -> SliceSpots:
        """Those of a slice."""
        first, end = np.searchsorted(self._parts[:, 0], (place, place + 1))
        spots = [_spot(row) for row in self._parts[first : min(end, first + MOST_NAMED)].tolist()]
        return SliceSpots(spots, int(end - first) - len(spots))


def lesions_of_regions(
    predicted_rshw: NDArray[np.bool_],
    true_rshw: NDArray[np.bool_],
    regions: Sequence[str],
    spacing_mm: Spacing | None = None,
    rule: str = DEFAULT_RULE,
) -> list[RegionLesions]:
    """The lesions of each region. Neither volume may have voxels that the mask ignores."""
    named = regions if len(regions) > 1 else ("",)
    return [
        region_lesions(match(predicted_shw, true_shw, rule, spacing_mm), true_shw.shape, region)
        for region, predicted_shw, true_shw in zip(named, predicted_rshw, true_rshw, strict=True)
    ]


def region_lesions(matching: Matching, shape: Sequence[int], region: str = "") -> RegionLesions:
    """The lesions of a matching, in a volume of this shape."""
    counts = ~matching.is_small
    missed = counts & ~matching.is_found
    true_numbers, false_numbers = _numbers(matching)
    missed_shw = np.concatenate([[0], np.where(missed, true_numbers, 0)])[matching.true_shw]
    false_shw = np.concatenate([[0], false_numbers])[matching.predicted_shw]
    parts = _parts(missed_shw + false_shw, len(true_numbers), matching.origin)  # no voxel is in both
    voxels = np.concatenate([matching.true_voxels[missed], matching.predicted_voxels[matching.is_false]])
    numbers = np.concatenate([true_numbers[missed], false_numbers[matching.is_false]])
    wrong = [
        Lesion(_result(number, len(true_numbers)), number, size, _fullest(parts, number), region, matching.spacing_mm)
        for number, size in sorted(zip(numbers.tolist(), voxels.tolist(), strict=True))[:MOST_NAMED]
    ]
    return RegionLesions(
        region=region,
        lesions=int(counts.sum()),
        found=int((matching.is_found & counts).sum()),
        false=int(matching.is_false.sum()),
        missed_shw=_in_volume(missed_shw > 0, matching.origin, shape),
        false_shw=_in_volume(false_shw > 0, matching.origin, shape),
        wrong=wrong,
        lowest=_lowest(matching, true_numbers, region),
        _parts=parts,
    )


def worst_of(regions: Sequence[RegionLesions]) -> Lesion | None:
    """The worst lesion of any region; None where there is no lesion."""
    worst = [region.worst for region in regions if region.worst]
    return min(worst, key=lambda lesion: lesion.rank) if worst else None


def rank_of(regions: Sequence[RegionLesions]) -> tuple[int, float]:
    """The smaller, the worse a patient by the worst lesion; one without any lesion is last."""
    worst = worst_of(regions)
    return worst.rank if worst else (3, 0.0)


def caption(regions: Sequence[RegionLesions]) -> str:
    """3 of 5 lesions found, 1 false; of several regions each one's."""
    return "; ".join((f"{one.region}: " if one.region else "") + _counts(one) for one in regions)


def _counts(one: RegionLesions) -> str:
    if not one.lesions:
        return f"no lesion, {one.false} false"
    return f"{one.found} of {one.lesions} lesion{'s' if one.lesions > 1 else ''} found, {one.false} false"


def _numbers(matching: Matching) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each true and each predicted lesion's number in the table of lesions; 0 of a predicted one that is not false.

    In that table come the true ones and then the false ones, the largest first.
    """
    true = np.zeros(len(matching.true_voxels), np.int64)
    true[np.argsort(-matching.true_voxels, kind="stable")] = np.arange(1, len(true) + 1)
    predicted = np.zeros(len(matching.predicted_voxels), np.int64)
    false = np.flatnonzero(matching.is_false)
    largest_first = false[np.argsort(-matching.predicted_voxels[false], kind="stable")]
    predicted[largest_first] = len(true) + np.arange(1, len(false) + 1)
    return true, predicted


def _result(number: int, true_lesions: int) -> Result:
    return "missed" if number <= true_lesions else "false"


def _parts(numbers_shw: NDArray[np.int64], true_lesions: int, origin: Sequence[int]) -> NDArray[np.int64]:
    """For each lesion and slice: slice, number, whether it is false, area, top, left, bottom, right."""
    s, y, x = np.nonzero(numbers_shw)
    if not len(s):
        return np.zeros((0, 8), np.int64)
    number = numbers_shw[s, y, x]
    order = np.lexsort((number, s))
    s, y, x, number = s[order], y[order], x[order], number[order]
    first = np.flatnonzero(np.diff(s, prepend=-1) | np.diff(number, prepend=-1))
    columns = [
        s[first] + origin[0],
        number[first],
        number[first] > true_lesions,
        np.diff(first, append=len(s)),
        np.minimum.reduceat(y, first) + origin[1],
        np.minimum.reduceat(x, first) + origin[2],
        np.maximum.reduceat(y, first) + origin[1] + 1,
        np.maximum.reduceat(x, first) + origin[2] + 1,
    ]
    return np.stack(columns, axis=1).astype(np.int64)


def _spot(row: Sequence[int]) -> Spot:
    _, number, is_false, _, top, left, bottom, right = row
    result: Result = "false" if is_false else "missed"
    return Spot(result, f"{LETTERS[result]}{number}", top, left, bottom, right)


def _fullest(parts: NDArray[np.int64], number: int) -> int:
    """The slice with the most of a lesion, the first of equals."""
    own = parts[parts[:, 1] == number]
    return int(own[own[:, 3].argmax(), 0])


def _lowest(matching: Matching, numbers: NDArray[np.int64], region: str) -> Lesion | None:
    """The found lesion of the lowest Dice."""
    found = np.flatnonzero(matching.is_found & ~matching.is_small)
    if not len(found):
        return None
    label = int(found[matching.dsc[found].argmin()])
    areas = (matching.true_shw == label + 1).sum(axis=(1, 2))
    place = int(areas.argmax()) + matching.origin[0]
    voxels, number, dsc = int(matching.true_voxels[label]), int(numbers[label]), float(matching.dsc[label])
    return Lesion("found", number, voxels, place, region, matching.spacing_mm, dsc)


def _in_volume(box_shw: Mask, origin: Sequence[int], shape: Sequence[int]) -> Mask:
    volume_shw = np.zeros(shape, bool)
    volume_shw[tuple(slice(first, first + length) for first, length in zip(origin, box_shw.shape, strict=True))] = (
        box_shw
    )
    return volume_shw
