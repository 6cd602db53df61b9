"""The layout of a folder, found out by names and `dataset.json`, not by voxels. First match wins.

Sources: the sets' pages; nnU-Net's and MSD's documentation of dataset.json.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from segtrain.config import canonical
from segtrain.config.json_text import json_in
from segtrain.config.label_names import DATASET_JSON
from segtrain.data.sources.images import NIFTI_SUFFIXES
from segtrain.data.sources.lgg import has_slices
from segtrain.data.sources.listing import deeper_root, entries_of, folders_of, is_broken_link, is_folder
from segtrain.data.sources.slice_folders import SUFFIXES
from segtrain.data.sources.slice_names import IMAGE_FOLDERS, MASK_FOLDERS, known_contrasts
from segtrain.errors import DataError

LayoutName = Literal["auto", "lgg", "slices", "nifti", "nnunet"]
MOST_LEVELS = 5  # below the root: <centre>/<patient>/<session>/anat/<file>
NUMBERED = re.compile(r"_\d{4}\.[A-Za-z]")
BIDS = re.compile(r"sub-[A-Za-z0-9]+")
# Names of the folders and files of public sets of volumes.
PUBLIC = {
    "BraTS 2023 or later": re.compile(r"BraTS-(GLI|MEN|MET|PED|SSA|MEN-RT)-\d{4,5}-\d{1,3}"),
    "BraTS 2017 to 2021": re.compile(r"(BraTS(19|20|2021)|Brats1[78])_\w+"),
    "UPENN-GBM": re.compile(r"UPENN-GBM-\d{5}_\d\d"),
    "UCSF-PDGM": re.compile(r"UCSF-PDGM-\d{3,4}"),
    "RHUH-GBM": re.compile(r"RHUH-\d{4}"),
    "ISLES": re.compile(r"(VSD|SMIR)\.Brain|case_\d+"),
    "TCGA": re.compile(r"TCGA[-_]\w\w[-_]\w{4}"),
}
# What files of other kinds are, and what to do, by suffix.
OTHER_KINDS = {
    ".dcm": ("DICOM", "convert each series with dcm2niix into NIfTI"),
    ".h5": ("HDF5, whose order of contrasts no file says", "write a source of your own, data.source=FILE.py:NAME"),
    ".hdf5": ("HDF5, whose order of contrasts no file says", "write a source of your own, data.source=FILE.py:NAME"),
    ".mat": ("MATLAB files", "write a source of your own, data.source=FILE.py:NAME"),
    ".npy": ("NumPy arrays without spacing and names", "write a source of your own, data.source=FILE.py:NAME"),
    ".npz": ("NumPy arrays without spacing and names", "write a source of your own, data.source=FILE.py:NAME"),
    ".mha": ("MetaImage volumes", "convert them into .nii.gz, for example with SimpleITK"),
    ".mhd": ("MetaImage volumes", "convert them into .nii.gz, for example with SimpleITK"),
    ".nhdr": ("NRRD volumes", "convert them into .nii.gz, for example with SimpleITK"),
    ".nrrd": ("NRRD volumes", "convert them into .nii.gz, for example with SimpleITK"),
    ".jpg": ("JPEG, which changes grey levels and labels", "export the original images as PNG or TIFF"),
    ".jpeg": ("JPEG, which changes grey levels and labels", "export the original images as PNG or TIFF"),
}


@dataclass(frozen=True)
class Detected:
    """A layout and why it is that."""

    layout: LayoutName
    why: str


@dataclass(frozen=True)
class Root:
    """A folder that is looked at, by the names in it. option: where the user named it, for messages."""

    path: Path
    option: str

    @cached_property
    def folders(self) -> list[Path]:
        """The folders in it, sorted. Raises DataError."""
        return folders_of(self.path)

    @cached_property
    def dataset(self) -> dict[str, object] | None:
        """Its dataset.json, where that is one of nnU-Net or MSD. Raises DataError: no JSON."""
        path = self.path / DATASET_JSON
        if not path.is_file():
            return None
        try:
            tree = json_in(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as JSON ({error}); mend it or move it elsewhere") from error
        is_ours = isinstance(tree, dict) and ("channel_names" in tree or "modality" in tree)
        return tree if is_ours else None

    @cached_property
    def names(self) -> list[str]:
        """Paths of files below it, from the top down, as far as MOST_LEVELS. Raises DataError."""
        return list(_names_below(self.path, "", MOST_LEVELS))

    def has(self, suffixes: tuple[str, ...], levels: int = MOST_LEVELS) -> str | None:
        """The first file with one of the suffixes that lies at most so many folders below."""
        return next((n for n in self.names if n.count("/") <= levels and n.lower().endswith(suffixes)), None)


def _names_below(folder: Path, above: str, levels: int) -> Iterator[str]:
    if is_broken_link(folder):
        return
    inner = []
    for entry in entries_of(folder):
        if is_folder(entry):
            inner.append(entry.name)
        else:
            yield above + entry.name
    for name in inner if levels else ():
        yield from _names_below(folder / name, f"{above}{name}/", levels - 1)


def _nnunet(root: Root) -> Detected | None:
    if root.dataset is None:
        return None
    if "channel_names" in root.dataset:
        return Detected("nnunet", f"{DATASET_JSON} with channel_names: nnU-Net v2")
    is_4d = str(root.dataset.get("tensorImageSize")) == "4D" or not any(map(NUMBERED.search, root.names))
    kind = "MSD, 4-D volumes" if is_4d else "nnU-Net v1"
    return Detected("nnunet", f"{DATASET_JSON} with modality: {kind}")


def _several_sets(root: Root) -> Detected | None:
    """Raises DataError where data sets lie below."""
    sets = [folder for folder in root.folders if Root(folder, root.option).dataset is not None]
    if sets:
        names = ", ".join(folder.name for folder in sets)
        raise DataError(
            f"{root.path}: {len(sets)} data set(s) with a {DATASET_JSON} below it ({names}); name one: "
            f"{root.option}={sets[0]}"
        )
    return None


def _bids(root: Root) -> Detected | None:
    subjects = [folder.name for folder in root.folders if BIDS.fullmatch(folder.name)]
    has_description = (root.path / "dataset_description.json").is_file()
    if (has_description or len(subjects) >= 2) and root.has(NIFTI_SUFFIXES):
        return Detected("nifti", "dataset_description.json: BIDS" if has_description else "folders sub-*: BIDS")
    return None


def _volumes(root: Root, levels: int = 1) -> Detected | None:
    example = root.has(NIFTI_SUFFIXES, levels)
    if example is None:
        return None
    for name, pattern in PUBLIC.items():
        if pattern.search(example):
            return Detected("nifti", f"NIfTI volumes named like {name} ({example})")
    return Detected("nifti", f"NIfTI volumes ({example})")


def _deep_volumes(root: Root) -> Detected | None:
    return _volumes(root, MOST_LEVELS)


def _lgg(root: Root) -> Detected | None:
    """One name of the layout makes the whole folder that; files that do not fit it are then an error."""
    patient = next((folder for folder in root.folders if has_slices(folder)), None)
    if patient is None:
        return None
    return Detected("lgg", f"slices <patient>_<k>.tif in folders of patients ({patient.name})")


def _slices(root: Root) -> Detected | None:
    names = {folder.name.lower(): folder.name for folder in root.folders}
    images, masks = sorted(names.keys() & IMAGE_FOLDERS), sorted(names.keys() & MASK_FOLDERS)
    if images and masks and root.has(SUFFIXES):
        return Detected("slices", f"twin folders {names[images[0]]} and {names[masks[0]]}")
    if example := root.has(SUFFIXES, levels=0):
        return Detected("slices", f"slices in no patient's folder ({example})")
    if example := root.has(SUFFIXES, levels=1):
        return Detected("slices", f"a folder of slices a patient ({example})")
    if example := root.has(SUFFIXES, levels=2):
        top, inner, _ = example.split("/")
        siblings = {Path(name).parts[1].lower() for name in root.names if name.startswith(f"{top}/")}
        if siblings & (IMAGE_FOLDERS | MASK_FOLDERS) or _is_contrast(inner):
            return Detected("slices", f"a folder a patient, with folders of slices in it ({example})")
    return None


def _is_contrast(name: str) -> bool:
    return canonical(name) in known_contrasts(None)


def _other_kinds(root: Root) -> Detected | None:
    """Raises DataError where there is data of a kind that no source reads, and nothing else."""
    counts = Counter(suffix for name in root.names if (suffix := Path(name).suffix.lower()) in OTHER_KINDS)
    if counts and not root.has((*NIFTI_SUFFIXES, *SUFFIXES)):
        suffix, count = counts.most_common(1)[0]
        what, remedy = OTHER_KINDS[suffix]
        raise DataError(f"{root.path}: {count} files {suffix} in it: {what}; {remedy}")
    return None


TABLE: tuple[Callable[[Root], Detected | None], ...] = (
    _nnunet, _several_sets, _bids, _volumes, _lgg, _deep_volumes, _slices, _other_kinds,
)  # fmt: skip


def detect(path: Path, option: str) -> Detected:
    """The layout of the folder. option: where the user named it, `data.root` or `--images`. Raises DataError."""
    root = Root(path, option)
    for rule in TABLE:
        if detected := rule(root):
            return detected
    deeper = deeper_root(path, lambda folder: holds_data(folder, (*NIFTI_SUFFIXES, *SUFFIXES)))
    where = str(deeper) if deeper else "the folder that holds them"
    raise DataError(
        f"{path}: 0 patient folders, slices (.tif, .png) or NIfTI volumes (.nii, .nii.gz) in it; set {option}"
        f"{'=' if option == 'data.root' else ' to '}{where}"
    )


def holds_data(folder: Path, suffixes: tuple[str, ...], levels: int = 1) -> bool:
    """Whether files with one of the suffixes lie in the folder or in folders of it, so many deep. Raises DataError."""
    return Root(folder, "").has(suffixes, levels) is not None
