"""Sources of slices in image files: paired with their masks, read as volumes, written.

Legend: s slice, h height, w width, c channel.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import LGG_CONTRASTS, DataConfig
from segtrain.data.sources.base import Check, Pixels, Volume, no_check
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.listing import digest_of_content, digest_of_times
from segtrain.data.sources.pixels import read_mask, read_slice
from segtrain.data.sources.remarks import LibraryRemarks
from segtrain.errors import DataError

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
    """A source of slices in image files below `root`. Its layout says which files are whose: `patients`, `files`.

    cfg: what the config says of contrasts and of masks' values.
    """

    root: Path
    cfg: DataConfig = field(default_factory=DataConfig)

    @property
    def contrasts(self) -> tuple[str, ...]:
        return self.cfg.contrasts or LGG_CONTRASTS

    @property
    def rules(self) -> LabelRules:
        return LabelRules.of(self.cfg)

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

    def fingerprint(self, check: Check = no_check) -> str:
        return digest_of_content(self.root, map(self.folder, self.patients()), check)

    def stamp(self) -> str:
        return digest_of_times(self.root, map(self.folder, self.patients()))

    def read(self, patient: str) -> Volume:
        files = self.files(patient)
        library = LibraryRemarks()
        image_slices: list[Pixels] = []
        mask_slices = []
        label_voxels: Counter[int] = Counter()
        for path in files.images:
            with library.on(path):
                image_slices.append(read_slice(path, channels=3))
        for path in files.masks:
            with library.on(path):
                mask = read_mask(path, self.rules)
            mask_slices.append(mask.bits)
            label_voxels.update(mask.voxels)
        _refuse_other_sizes([*files.images, *files.masks], [*image_slices, *mask_slices])
        _refuse_other_types(files.images, image_slices)
        return Volume(
            image_shwc=np.stack(image_slices),
            mask_shw=np.stack(mask_slices) if mask_slices else None,
            slice_names=tuple(path.stem for path in files.images),
            slice_numbers=files.numbers,
            remarks=library.lines(),
            label_voxels=dict(sorted(label_voxels.items())),
        )

    def takes(self, name: str) -> bool:
        """Whether a file of this name is one of a slice or mask."""
        return name.lower().endswith(SUFFIXES)

    def institution(self, patient: str) -> str:
        return "unknown"

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """An image of 0 and 255 for each slice, in the slice's own format."""
        names = [f"{path.stem}_mask{path.suffix}" for path in self.files(patient).images]
        return write_masks(mask_shw, [folder / patient / name for name in names])

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return write_pages(probability_shw, folder / f"{patient}.tif")


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


def _refuse_other_types(paths: Sequence[Path], slices: Sequence[Pixels]) -> None:
    """Raises DataError for the first slice with another number of bits: its grey levels mean something else."""
    for path, array in zip(paths, slices, strict=True):
        if array.dtype != slices[0].dtype:
            raise DataError(
                f"{path}: pixels are {array.dtype}, but those of the patient's first slice are {slices[0].dtype}; "
                "export the patient's slices alike"
            )


def _refuse_other_sizes(paths: Sequence[Path], slices: Sequence[Pixels]) -> None:
    """Raises DataError for the patient's first file of another size than its first slice."""
    for path, array in zip(paths, slices, strict=True):
        if array.shape[:2] != slices[0].shape[:2]:
            raise DataError(
                f"{path}: size {_size(array)}, but the patient's first slice has {_size(slices[0])}; "
                "export the patient's slices at one size"
            )


def _size(array: Pixels) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
