"""What `segtrain predict` reads, and masks in the format of what was read: the LGG layout, or plain folders of slices.

NIfTI volumes are in `nifti`. Legend: s slice, h height, w width, c channel (pre-contrast, FLAIR, post-contrast).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.data.sources import (
    CHANNELS,
    SLICE,
    LggSource,
    RawVolume,
    read_mask,
    read_slice,
    readable,
    refuse_other_sizes,
)  # fmt: skip
from segtrain.errors import ConfigError, DataError

LayoutName = Literal["auto", "lgg", "slices", "nifti"]
LAYOUTS: dict[LayoutName, str] = {
    "auto": "by what lies in the folder",
    "lgg": "<patient>/<patient>_<k>.tif",
    "slices": "each folder of .tif or .png images is a volume, in the order of the numbers in their names",
    "nifti": ".nii or .nii.gz volumes",
}
SUFFIXES = (".tif", ".tiff", ".png")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
FLAIR = 1


@dataclass(frozen=True)
class Input:
    """One patient, whole, as preparation takes it.

    image_shwc: uint8 [s, h, w, 3]; truth_shw: bool [s, h, w], None where no masks are; names: of the slices' pictures;
    numbers: the input's own of each slice; remarks: what was put right on the way.
    """

    image_shwc: NDArray[np.uint8]
    truth_shw: NDArray[np.bool_] | None
    names: tuple[str, ...]
    numbers: tuple[int, ...]
    remarks: tuple[str, ...] = ()


class Inputs(Protocol):
    """Patients of a folder; reads nothing but names and headers until one is asked for."""

    @property
    def label(self) -> str:
        """What outputs call this data."""

    def slices(self) -> dict[str, int]:
        """Slices by patient, sorted. Raises DataError for files that do not fit together."""

    def read(self, patient: str) -> Input:
        """The patient. Raises DataError."""

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """Write the mask below `folder`, in the input's own format and geometry; returns the files."""

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        """Write float32, compressed, in the input's own geometry; returns the file."""


@dataclass(frozen=True)
class FolderSource:
    """Volumes of slices under any name, each a folder below `root`, or `root` itself as the only one.

    Slices lie in the order of the numbers in their names; `<name>_mask` is the mask of `<name>`, for all of a volume or
    for none.
    """

    root: Path

    @property
    def label(self) -> str:
        return f"slices in {self.root}"

    def patients(self) -> list[str]:
        """Names of the volumes' folders, sorted. Raises DataError."""
        inside = [folder.name for folder in folders_of(self.root)]
        if not with_suffix(self.root, SUFFIXES):
            return inside
        if inside:
            raise DataError(
                f"{self.root}: slices beside folders ({inside[0]}), so it is not clear what is a volume; "
                "move the slices into a folder of their own"
            )
        return [self.root.resolve().name]

    def images(self, patient: str) -> list[Path]:
        """The volume's slices in order. Raises DataError."""
        return self._files(patient)[0]

    def has_masks(self, patient: str) -> bool:
        """Whether the volume's masks are there."""
        return bool(self._files(patient)[1])

    def read(self, patient: str) -> RawVolume:
        """The whole volume, its mask empty where there is none. Raises DataError."""
        images, masks = self._files(patient)
        image_slices = [read_slice(path, channels=3) for path in images]
        mask_slices = [read_mask(path) for path in masks]
        refuse_other_sizes([*images, *masks], [*image_slices, *mask_slices])
        image_shwc = np.stack(image_slices)
        mask_shw = np.stack(mask_slices) if masks else np.zeros(image_shwc.shape[:3], np.uint8)
        return RawVolume(image_shwc, mask_shw, tuple(range(1, len(images) + 1)))

    def _files(self, patient: str) -> tuple[list[Path], list[Path]]:
        """Images, and masks in their order or none."""
        folder = self.root if with_suffix(self.root, SUFFIXES) else self.root / patient
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        for path in with_suffix(folder, SUFFIXES):
            kind, name = (masks, path.stem[:-5]) if path.stem.endswith("_mask") else (images, path.stem)
            if name in kind:
                raise DataError(f"{path}: a second file for slice {name}; remove it or {kind[name]}")
            kind[name] = path
        if not images:
            raise DataError(f"{folder}: 0 slices (.tif, .png); remove the folder")
        odd = sorted(images.keys() ^ masks.keys())
        if masks and odd:
            path, missing = (images[odd[0]], "mask") if odd[0] in images else (masks[odd[0]], "slice")
            raise DataError(f"{path}: has no {missing} beside it; add it, or take the volume's masks away")
        order = sorted(images, key=_by_number)
        return [images[name] for name in order], [masks[name] for name in order if masks]


@dataclass(frozen=True)
class SliceInputs:
    """Inputs of slices in files: masks are 0/255 images of the same format, one for every slice."""

    source: LggSource | FolderSource

    @property
    def label(self) -> str:
        return self.source.label

    def slices(self) -> dict[str, int]:
        return {patient: len(self.source.images(patient)) for patient in self.source.patients()}

    def read(self, patient: str) -> Input:
        raw = self.source.read(patient)
        image_shwc, missing = with_all_contrasts(raw.image_shwc)
        truth_shw = raw.mask_shw.astype(bool) if self.source.has_masks(patient) else None
        names = tuple(path.stem for path in self.source.images(patient))
        return Input(image_shwc, truth_shw, names, raw.slice_numbers, missing)

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        place = folder / patient
        place.mkdir(parents=True)
        images = self.source.images(patient)
        files = [place / f"{path.stem}_mask{path.suffix}" for path in images]
        for file, mask_hw in zip(files, mask_shw, strict=True):
            Image.fromarray(mask_hw.astype(np.uint8) * np.uint8(255)).save(file)
        return files

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        """A TIFF with a page a slice."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{patient}.tif"
        first, *others = (Image.fromarray(plane_hw) for plane_hw in probability_shw)
        first.save(file, save_all=True, append_images=others, compression="tiff_adobe_deflate")
        return file


def open_inputs(root: Path, layout: LayoutName) -> Inputs:
    """What lies in `root`, in the layout that is named or found. Raises DataError; ConfigError without nibabel."""
    with readable(root):
        there = root.is_dir()
    if not there:
        raise DataError(f"{root}: no such folder; set --images to the folder that holds the patients")
    folders = folders_of(root)
    everywhere = [root, *folders]
    if layout == "auto":
        layout = _layout(root, folders)
    elif not any(with_suffix(folder, NIFTI_SUFFIXES if layout == "nifti" else SUFFIXES) for folder in everywhere):
        raise DataError(f"{root}: nothing in it for --layout {layout} ({LAYOUTS[layout]}); choose another")
    if layout == "nifti":
        try:
            from segtrain.data.nifti import NiftiInputs
        except ModuleNotFoundError as error:
            remedy = "NIfTI volumes need nibabel; pip install 'segtrain[nifti]'"
            raise ConfigError(f"{root}: {remedy}") from error
        return NiftiInputs(root)
    return SliceInputs(LggSource(root, masks_needed=False) if layout == "lgg" else FolderSource(root))


def _layout(root: Path, folders: list[Path]) -> LayoutName:
    """A name of the LGG layout in any folder makes all of it that: what does not fit is an error then."""
    if any(with_suffix(folder, NIFTI_SUFFIXES) for folder in (root, *folders)):
        return "nifti"
    slices = {folder: with_suffix(folder, SUFFIXES) for folder in (root, *folders)}
    if not any(slices.values()):
        raise DataError(
            f"{root}: 0 patient folders, slices (.tif, .png) or NIfTI volumes (.nii, .nii.gz) in it; set --images to "
            "the folder that holds them"
        )
    lgg = any(
        (match := SLICE.match(path.name)) is not None and match["patient"] == folder.name
        for folder in folders for path in slices[folder]
    )  # fmt: skip
    return "lgg" if lgg else "slices"


def with_all_contrasts(image_shwc: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """FLAIR in the place of a blank contrast, as the published data has it, and what is to be said of that."""
    flair = image_shwc[..., FLAIR]
    remarks = []
    for c in (0, 2):
        plane = image_shwc[..., c]
        if plane.max() == plane.min() and flair.max() > flair.min():
            image_shwc = image_shwc.copy()
            image_shwc[..., c] = flair
        if np.array_equal(image_shwc[..., c], flair):
            remarks.append(f"{CHANNELS[c]} is missing, FLAIR stands in for it")
    return image_shwc, tuple(remarks)


def folders_of(root: Path) -> list[Path]:
    """The folders in `root`, sorted, hidden ones left out. Raises DataError."""
    with readable(root):
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return [root / name for name in names if not name.startswith(".")]


def with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in `folder` that end so, sorted, hidden ones left out. Raises DataError."""
    with readable(folder):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    return [folder / name for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]


def _by_number(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", name)], name
