"""Where the files of slices lie: a folder a patient, twin folders of images and masks, folders of contrasts.

Only names are looked at.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from segtrain.config import canonical
from segtrain.data.sources.listing import entries_of, folders_of, is_broken_link
from segtrain.data.sources.slice_names import SliceName, folder_names, parse_name

SUFFIXES = (".tif", ".tiff", ".png")
LOSSY = (".jpg", ".jpeg")
LOOSE = ""  # in place of a patient: files that lie in no patient's folder
MOST_LEVELS = 5


@dataclass(frozen=True)
class SliceFile:
    """A file of a slice or mask, and what its name and its folder say."""

    path: Path
    name: SliceName


@dataclass
class SliceFolders:
    """What lies below a root, by patient. lossy: JPEG files, which are never read; passed_over: names by reason."""

    root: Path
    files: dict[str, list[SliceFile]] = field(default_factory=lambda: defaultdict(list))
    lossy: dict[str, list[SliceFile]] = field(default_factory=lambda: defaultdict(list))
    folders: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    passed_over: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    has_twins: bool = False  # a folder of images and one of masks, above those of the patients if there are any

    def pass_over(self, path: Path, reason: str) -> None:
        """Note what is not read."""
        self.passed_over[reason].append(str(path.relative_to(self.root)))


@dataclass(frozen=True)
class _Place:
    """What the names of the folders down to one say."""

    patient: str = LOOSE
    in_masks: bool = False
    contrast: str | None = None
    levels: int = 0


def slice_folders(root: Path, known: Collection[str]) -> SliceFolders:
    """What lies below `root`. known: contrasts that names may end in. Raises DataError: an unreadable folder."""
    found = SliceFolders(root)
    _visit(found, root, _Place(), known)
    return found


def _visit(found: SliceFolders, folder: Path, place: _Place, known: Collection[str]) -> None:
    found.folders[place.patient].append(folder)
    if is_broken_link(folder):  # reading the patient names it
        return
    inner = folders_of(folder)
    has_slices = _add_files(found, folder, place, known, {path.name for path in inner})
    names = folder_names([path.name for path in inner], place.patient == LOOSE, has_slices, known)
    for path in inner:
        below = replace(place, levels=place.levels + 1)
        if path.name in names.masks:
            below = replace(below, in_masks=True)
            found.has_twins |= place.patient == LOOSE
        elif path.name in names.contrasts:
            below = replace(below, contrast=canonical(path.name))
        elif path.name not in names.images and place.patient == LOOSE:
            below = replace(below, patient=path.name)
        elif path.name not in names.images:
            found.pass_over(path, "a folder in a patient's folder")
            continue
        if below.levels < MOST_LEVELS:
            _visit(found, path, below, known)


def _add_files(
    found: SliceFolders, folder: Path, place: _Place, known: Collection[str], folders: Collection[str]
) -> bool:
    """Add the files in the folder; whether slices or masks are among them."""
    has_slices = False
    for entry in entries_of(folder):
        path = folder / entry.name
        if entry.name in folders:
            continue
        is_file = is_broken_link(path) or entry.is_file()  # in this order: a link to itself
        name = parse_name(path.stem, known, place.in_masks)
        if place.contrast is not None and not name.is_mask:
            name = replace(name, contrast=place.contrast)
        if is_file and entry.name.lower().endswith(SUFFIXES):
            has_slices = True
            found.files[place.patient].append(SliceFile(path, name))
        elif is_file and entry.name.lower().endswith(LOSSY):
            found.lossy[place.patient].append(SliceFile(path, name))
            found.pass_over(path, "JPEG, which changes grey levels and labels")
        else:
            found.pass_over(path, "no slice (.png, .tif)")
    return has_slices
