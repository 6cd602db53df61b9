"""The published LGG layout: a folder for each patient, a TIFF for each slice."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from segtrain.data.sources.images import SliceFiles, SliceSource, add_file, refuse_unpaired
from segtrain.data.sources.listing import (
    deeper_root,
    entries_of,
    escaped,
    folders_of,
    is_broken_link,
    refuse_odd_names,
    require_folder,
)
from segtrain.errors import LEAVE_OUT, DataError

SLICE = re.compile(r"^(?P<patient>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?$")
SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class LggSource(SliceSource):
    """`root/<patient>/<patient>_<k>.tif` with `..._<k>_mask.tif` for all of a patient's slices or for none.

    k counts from 1 without gaps.
    """

    @property
    def label(self) -> str:
        return f"LGG patients in {escaped(str(self.root))}"

    def patients(self) -> list[str]:
        require_folder(self.root, "set data.root to the folder that holds one folder a patient")
        folders = folders_of(self.root)
        refuse_odd_names([folder.name for folder in folders], self.root)
        if any(map(has_slices, folders)):
            return [folder.name for folder in folders]
        if deeper := deeper_root(self.root, lambda folder: any(map(has_slices, folders_of(folder)))):
            raise DataError(f"{self.root}: 0 patient folders in it, but in {deeper}; set data.root={deeper}")
        if not folders:
            raise DataError(
                f"{self.root}: 0 patient folders in it; set data.root to the folder that holds one folder a patient "
                "(kaggle_3m in the published archive)"
            )
        return [folder.name for folder in folders]

    def takes(self, name: str) -> bool:
        return name.lower().endswith(SUFFIXES)

    def files(self, patient: str) -> SliceFiles:
        """The patient's files: numbered from 1 without gaps, each with a mask, or none with one. Raises DataError."""
        folder = self.folder(patient)
        images, masks = _by_number(folder)
        if not images:
            raise DataError(f"{folder}: 0 slices named <patient>_<number>.tif; add them or {LEAVE_OUT}")
        refuse_unpaired(images, masks)
        if 0 in images:
            raise DataError(f"{images[0]}: slice 0, but slices are numbered from 1; renumber the patient's slices")
        numbers = sorted(images)
        missing = next((place for place, number in enumerate(numbers, start=1) if place != number), None)
        if missing is not None:
            raise DataError(
                f"{folder}: slice {missing} is missing (numbers go from 1 to {numbers[-1]}); restore it or {LEAVE_OUT}"
            )
        return SliceFiles(
            tuple(images[number] for number in numbers),
            tuple(masks[number] for number in numbers if masks),
            tuple(numbers),
        )


def has_slices(folder: Path) -> bool:
    """Whether the folder has a file by its patient's name in this layout. Raises DataError."""
    if is_broken_link(folder):  # reading the patient names it
        return False
    matches = [match for entry in entries_of(folder) if (match := SLICE.match(entry.name))]
    return any(_is_same(match["patient"], folder.name) for match in matches)


def _is_same(name: str, other: str) -> bool:
    """Whether they look the same: macOS takes accents apart in the names that it writes."""
    return unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)


def _by_number(folder: Path) -> tuple[dict[int, Path], dict[int, Path]]:
    """Images and masks in a patient's folder by slice number. Raises DataError: another patient's, a number twice."""
    images: dict[int, Path] = {}
    masks: dict[int, Path] = {}
    for name in [entry.name for entry in entries_of(folder)]:
        path = folder / name
        if match := SLICE.match(name):
            if not _is_same(match["patient"], folder.name):
                raise DataError(f"{path}: named for patient {match['patient']}; move it to that folder")
            add_file(masks if match["mask"] else images, int(match["number"]), path)
        elif name.lower().endswith(SUFFIXES):
            raise DataError(f"{path}: not named <patient>_<number>[_mask].tif; rename it or move it elsewhere")
    return images, masks
