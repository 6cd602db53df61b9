"""Contrasts in names of slices' files: which a set has, files that name none, and contrasts in place of people."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from segtrain.config.regions import SPELLINGS
from segtrain.data.people import people_of
from segtrain.data.sources.slice_folders import SliceFile
from segtrain.data.sources.slice_names import in_usual_order, parse_name
from segtrain.errors import DataError


def contrasts_of(files: Iterable[SliceFile]) -> frozenset[str]:
    """The contrasts that most of the images name, by their names or folders; none where as many name none."""
    names = Counter(file.name.contrast for file in files if not file.name.is_mask)
    return frozenset(name for name in names if name) if 2 * names[None] < names.total() else frozenset()


def refuse_strays(files: Iterable[SliceFile]) -> None:
    """Raises DataError for an image that names no contrast: among those that do, nobody can say what it shows."""
    for file in files:
        if not file.name.is_mask and file.name.contrast is None:
            raise DataError(
                f"{file.path}: has no contrast in its name, unlike most images of these data; rename it to "
                f"<slice>_<contrast>{file.path.suffix}, or move it elsewhere"
            )


def common_contrasts(root: Path, counts: Mapping[str, int], patients: int) -> tuple[str, ...]:
    """Of the four usual contrasts, or else of others, those that all patients have. Raises DataError: none.

    counts: the number of patients that have files of each contrast.
    """
    common = [name for name, count in counts.items() if count == patients]
    common = [name for name in common if name in SPELLINGS] or common
    if not common:
        there = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(
            f"{root}: no contrast that all {patients} patients have ({there}); say with data.contrasts which to take, "
            "and with data.missing what stands in for a missing one"
        )
    return in_usual_order(common)


def refuse_contrasts_for_people(root: Path, patients: Collection[str], known: Collection[str]) -> None:
    """Raises DataError for ids of several people that differ in a contrast alone: a split could part one head (L1).

    known: contrasts in the spelling of `canonical`.
    """
    of_head: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(patients):
        name = parse_name(patient, known)
        if name.contrast:
            of_head[name.key].append(patient)
    people = people_of(patients, None)  # P1_T1 and P1_T2 are time points
    for head, ids in of_head.items():
        if len({people[patient] for patient in ids}) > 1:
            raise DataError(
                f"{root}: {ids[0]} and {ids[1]} seem to be contrasts of one head, which a split could part; put their "
                f"files into one folder {head}, as <slice>_{parse_name(ids[0], known).contrast}.png, or say who is who "
                "in a CSV of lines patient,person: data.groups=FILE"
            )
