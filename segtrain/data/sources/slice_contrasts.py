"""Contrasts in names of slices' files: which a set has, and files that name none."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from segtrain.config.regions import SPELLINGS
from segtrain.data.sources.slice_folders import SliceFile
from segtrain.data.sources.slice_names import in_usual_order
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
