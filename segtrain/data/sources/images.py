"""Sources of slices in image files: paired with their masks, read, checked and written.

Legend: s slice, h height, w width, c channel.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.data.sources.base import Volume
from segtrain.data.sources.listing import digest_of_folders, readable, refuse_absent
from segtrain.errors import LEAVE_OUT, DataError

SUFFIXES = (".tif", ".tiff", ".png")
NIFTI_SUFFIXES = (".nii", ".nii.gz")

Key = TypeVar("Key", int, str)  # what identifies a slice within its patient


def add_file(files: dict[Key, Path], key: Key, path: Path) -> None:
    """Add the file of slice `key`. Raises DataError where the slice has one already."""
    if key in files:
        raise DataError(f"{path}: a second file for slice {key}, beside {files[key]}; keep one of them here")
    files[key] = path


def refuse_unpaired(images: Mapping[Key, Path], masks: Mapping[Key, Path]) -> None:
    """Raises DataError: a slice without mask, where others have one, or a mask without slice."""
    if not masks:
        return
    for key in sorted(images.keys() ^ masks.keys()):
        if key in images:
            path = images[key]
            raise DataError(f"{path}: slice {key} has no mask beside it; add {path.stem}_mask{path.suffix}")
        path = masks[key]
        raise DataError(
            f"{path}: mask {key} has no slice beside it; add {path.stem.removesuffix('_mask')}{path.suffix}"
        )


@dataclass(frozen=True)
class SliceFiles:
    """A patient's files in the order of the slices, and the slices' numbers; `masks` is empty where there are none."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class SliceSource(ABC):
    """A source of slices in image files below `root`. Its layout says which files are whose: `patients`, `files`."""

    root: Path

    @abstractmethod
    def patients(self) -> list[str]:
        """All patient ids, sorted. Raises DataError."""

    @abstractmethod
    def files(self, patient: str) -> SliceFiles:
        """The patient's files. Raises DataError for files that do not fit together."""

    def folder(self, patient: str) -> Path:
        """Where the patient's files are."""
        return self.root / patient

    def slices(self, patient: str) -> int:
        return len(self.files(patient).images)

    def fingerprint(self) -> str:
        return digest_of_folders(self.root, map(self.folder, self.patients()))

    def read(self, patient: str) -> Volume:
        files = self.files(patient)
        image_slices = [read_slice(path, channels=3) for path in files.images]
        mask_slices = [read_mask(path) for path in files.masks]
        _refuse_other_sizes([*files.images, *files.masks], [*image_slices, *mask_slices])
        return Volume(
            image_shwc=np.stack(image_slices),
            mask_shw=np.stack(mask_slices) if mask_slices else None,
            slice_names=tuple(path.stem for path in files.images),
            slice_numbers=files.numbers,
        )

    def institution(self, patient: str) -> str:
        return "unknown"

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """An image of 0 and 255 for each slice, in the slice's own format."""
        names = [f"{path.stem}_mask{path.suffix}" for path in self.files(patient).images]
        return write_masks(mask_shw, [folder / patient / name for name in names])

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return write_pages(probability_shw, folder / f"{patient}.tif")


def read_slice(path: Path, channels: int) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] of an image, [h, w] of a mask; a PNG where the name says so, else a TIFF. Raises DataError."""
    kind = "PNG" if path.suffix.lower() == ".png" else "TIFF"
    refuse_absent(path)
    with readable(path):
        handle = path.open("rb")
    with handle:
        try:
            with Image.open(handle, formats=[kind]) as image:
                array = np.asarray(image)
        except Exception as error:  # Pillow raises a dozen kinds on broken files, SyntaxError among them
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{path}: not a readable {kind} ({reason[:80]}); copy the file again or {LEAVE_OUT}"
            ) from error
    actual = array.shape[2] if array.ndim == 3 else 1
    if actual != channels or (channels == 1 and array.ndim == 3):
        raise DataError(f"{path}: {actual} channel(s), but this file needs {channels}; export it again")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{path}: pixels are {array.dtype}, but 8-bit are needed; export it again")
    return array


def read_mask(path: Path) -> NDArray[np.uint8]:
    """uint8 0/1 [h, w]. Raises DataError."""
    mask = read_slice(path, channels=1)
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if not (set(values) <= {0, 255} or set(values) <= {0, 1}):
        odd = next(value for value in values if value not in (0, 255))
        raise DataError(f"{path}: mask has value {odd}, but only 0 and 255 (or 0 and 1) mean anything; binarise it")
    return (mask > 0).astype(np.uint8)


def write_masks(mask_shw: NDArray[np.bool_], paths: Sequence[Path]) -> list[Path]:
    """Write each slice of the mask as an image of 0 and 255, into a folder that this creates; returns the files."""
    paths[0].parent.mkdir(parents=True)
    for path, mask_hw in zip(paths, mask_shw, strict=True):
        Image.fromarray(mask_hw.astype(np.uint8) * np.uint8(255)).save(path)
    return list(paths)


def write_pages(volume_shw: NDArray[np.float32], path: Path) -> Path:
    """Write a compressed TIFF with a page for each slice; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(plane_hw) for plane_hw in volume_shw)
    first.save(path, save_all=True, append_images=others, compression="tiff_adobe_deflate")
    return path


def _refuse_other_sizes(paths: Sequence[Path], slices: Sequence[NDArray[np.uint8]]) -> None:
    """Raises DataError for the patient's first file of another size than its first slice."""
    for path, array in zip(paths, slices, strict=True):
        if array.shape[:2] != slices[0].shape[:2]:
            raise DataError(
                f"{path}: size {_size(array)}, but the patient's first slice has {_size(slices[0])}; "
                "export the patient's slices at one size"
            )


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
