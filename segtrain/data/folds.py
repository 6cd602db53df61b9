"""The fold of each person, by two definitions; `data.split_version` says which, and the newest is the default.

Version 2 looks at nothing but the person's name: neither image size nor who else is there moves anybody. People whose
names are neighbours (P007 and P008) are dealt to different folds, so folds are even where names are numbered without
gaps. No function of a name alone makes them even in every case: of any number of people, all may be in one fold.

Version 1 dealt people in the order of institution and prepared lesion volume, which both change.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from segtrain.config import SplitVersion
from segtrain.data.published import LGG
from segtrain.data.store_index import StoredPatient

NEWEST: SplitVersion = 2
BEFORE_VERSIONS: SplitVersion = 1  # of splits that do not say their version
SEEDS_TRIED = 1000
MOST_DIGITS = 4000  # of a number in a name; Python reads no longer ones
Group = tuple[str, ...]  # the patients of one person

_PLACE_IN_LGG = {person: place for place, person in enumerate(LGG)}  # its numbers have gaps


def fold_of(person: str, folds: int, seed: int) -> int:
    """The person's fold: that of its number within a block of `folds` consecutive numbers, each dealt anew."""
    family, number = _numbered(person)
    block, place = divmod(number, folds)
    return _dealt(seed, folds, family, block)[place]


@lru_cache(maxsize=1024)  # neighbours in the order of names are of one block
def _dealt(seed: int, folds: int, family: str, block: int) -> list[int]:
    """The folds of a block's numbers, by SHA-256: NumPy does not promise the same permutation in later versions."""
    return sorted(range(folds), key=lambda fold: _digest(seed, folds, family, block, fold))


def _numbered(person: str) -> tuple[str, int]:
    """All the rest of a name, and its last number, or the place in the alphabet of its last letter."""
    if person in _PLACE_IN_LGG:
        return "TCGA-LGG", _PLACE_IN_LGG[person]
    if match := re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", person, re.DOTALL):
        return f"{match[1]}#{match[3]}", int(match[2][-MOST_DIGITS:])
    if match := re.fullmatch(r"(.*)([A-Za-z])", person, re.DOTALL):
        return f"{match[1]}#", ord(match[2].upper()) - ord("A")
    return person, 0


def _digest(*key: str | int) -> bytes:
    return hashlib.sha256(json.dumps(key).encode()).digest()


def empty_fold(people: Iterable[str], folds: int, seed: int) -> int | None:
    """The first fold without anybody; None where there is none, as the first people mostly tell."""
    empty = set(range(folds))
    for person in people:
        empty.discard(fold_of(person, folds, seed))
        if not empty:
            return None
    return min(empty)


def seed_without_empty_fold(people: Sequence[str], folds: int, seed: int) -> int | None:
    """The next seed by which every fold has somebody; None where none was found."""
    later = range(seed + 1, seed + 1 + SEEDS_TRIED)
    return next((other for other in later if empty_fold(people, folds, other) is None), None)


def by_volume(
    groups: Sequence[Group], patients: Mapping[str, StoredPatient], folds: int, seed: int
) -> dict[Group, int]:
    """Version 1: neighbours in order of institution and lesion volume are dealt to different folds."""
    alike = sorted(groups, key=lambda g: (patients[g[0]].institution, sum(patients[p].lesion_voxels for p in g), g[0]))
    rng = np.random.Generator(np.random.Philox(seed))
    fold_of_group: dict[Group, int] = {}
    for start in range(0, len(alike), folds):
        for group, dealt in zip(alike[start : start + folds], rng.permutation(folds), strict=False):
            fold_of_group[group] = int(dealt)
    return fold_of_group
