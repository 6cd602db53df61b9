"""Patients of slices that lie in no patient's folder: by a file of groups, or by ids that their names begin with.

A split of slices whose person nobody knows would part the slices of one brain, so it is refused.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from segtrain.data.people import read_groups
from segtrain.data.sources.base import first_few
from segtrain.errors import DataError

_ID_AND_NUMBER = re.compile(r"(?P<id>.*\d.*)[_-](?P<number>\d+)", re.DOTALL)
_FILE_ENDING = re.compile(r"\.(png|tiff?)$", re.IGNORECASE)
_A_SERIES = re.compile(r"\d{1,2}")  # DICOM exports name slices <series>-<number>
FEWEST_SLICES = 3  # of a patient: preparation needs them
MOST_GAPS = 2  # numbers a slice, from the first to the last of a patient
REMEDY = "name a CSV with a line slice,person for each: data.groups=FILE"


def by_leading_id(keys: Sequence[str]) -> dict[str, list[str]] | None:
    """Slices by the id in `<id>_<number>` or `<id>-<number>`; None where it is not clear that ids are patients'.

    Clear are two or more ids with a digit in each (`train_1`, `glioma_1` are kinds, not patients), every one with
    several slices whose numbers have few gaps.
    """
    patients: dict[str, dict[int, str]] = defaultdict(dict)
    for key in keys:
        match = _ID_AND_NUMBER.fullmatch(key)
        if match is None or _A_SERIES.fullmatch(match["id"]) or int(match["number"]) in patients[match["id"]]:
            return None
        patients[match["id"]][int(match["number"])] = key
    for numbers in patients.values():
        span = max(numbers) - min(numbers) + 1
        if len(numbers) < FEWEST_SLICES or span > MOST_GAPS * len(numbers):
            return None
    if len(patients) < 2:
        return None
    return {patient: list(slices.values()) for patient, slices in sorted(patients.items())}


def by_groups(keys: Sequence[str], groups: Path) -> dict[str, list[str]]:
    """Slices by the person that the file names for each. Raises DataError: a slice without a line."""
    people = {_FILE_ENDING.sub("", name): person for name, person in read_groups(groups).items()}
    unknown = sorted(key for key in keys if key not in people)
    if unknown:
        raise DataError(f"{groups}: no line for the slice(s) {first_few(unknown)}; add slice,person for each")
    patients: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        patients[people[key]].append(key)
    return dict(sorted(patients.items()))


def nobody_known(root: Path, keys: Sequence[str]) -> DataError:
    """The error of slices that no split may divide."""
    return DataError(
        f"{root}: {len(keys)} slices ({first_few(sorted(keys)[:2])}, ...) in no patient's folder and without a clear "
        f"patient id in their names, so a split could put slices of one person on both sides; {REMEDY}"
    )
