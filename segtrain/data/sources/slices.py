"""Volumes of slices under any name, a folder each."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.data.sources.base import Input, RawVolume, with_all_contrasts
from segtrain.data.sources.images import (
    SUFFIXES,
    folders_of,
    read_mask,
    read_slice,
    refuse_other_sizes,
    with_suffix,
)
from segtrain.data.sources.lgg import LggSource
from segtrain.errors import DataError


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


def _by_number(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", name)], name
