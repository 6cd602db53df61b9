"""The published LGG layout: a folder a patient, a TIFF a slice."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtrain.data.sources.base import RawVolume, _digest
from segtrain.data.sources.images import read_mask, read_slice, readable, refuse_other_sizes
from segtrain.errors import LEAVE_OUT, DataError

SLICE = re.compile(r"^(?P<patient>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?$")


@dataclass(frozen=True)
class LggSource:
    """The published LGG layout: `root/<patient>/<patient>_<k>.tif` with `..._<k>_mask.tif`, k from 1 without gaps.

    With `masks_needed=False` a patient may have no mask at all; it is read with an empty one.
    """

    root: Path
    masks_needed: bool = True

    @property
    def label(self) -> str:
        return f"LGG patients in {self.root}"

    def patients(self) -> list[str]:
        with readable(self.root):
            there = self.root.is_dir()
        if not there:
            raise DataError(f"{self.root}: no such folder; set data.root to the folder that holds one folder a patient")
        with readable(self.root):
            names = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        names = [name for name in names if not name.startswith(".")]
        if not names:
            raise DataError(
                f"{self.root}: 0 patient folders in it; set data.root to the folder that holds one folder a patient "
                "(kaggle_3m in the published archive)"
            )
        return names

    def fingerprint(self) -> str:
        """Names, sizes and modification times of all files: any change is noticed without reading 1 GB."""
        parts = []
        for patient in self.patients():
            with readable(self.root / patient):
                for entry in sorted(os.scandir(self.root / patient), key=lambda e: e.name):
                    stat = entry.stat()
                    parts.append(f"{patient}/{entry.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        return _digest(parts)

    def read(self, patient: str) -> RawVolume:
        images, masks = self._files(patient)
        numbers = sorted(images)
        image_slices = [read_slice(images[number], channels=3) for number in numbers]
        empty = np.zeros(image_slices[0].shape[:2], np.uint8)
        mask_slices = [read_mask(masks[number]) if masks else empty for number in numbers]
        files = [images[number] for number in numbers], [masks.get(number, images[number]) for number in numbers]
        refuse_other_sizes([*files[0], *files[1]], [*image_slices, *mask_slices])
        return RawVolume(np.stack(image_slices), np.stack(mask_slices), tuple(numbers))

    def institution(self, patient: str) -> str:
        parts = patient.split("_")
        return parts[1] if len(parts) > 2 and parts[0] == "TCGA" else "unknown"

    def images(self, patient: str) -> list[Path]:
        """The patient's slices in order. Raises DataError for files that do not fit together."""
        images, _ = self._files(patient)
        return [images[number] for number in sorted(images)]

    def has_masks(self, patient: str) -> bool:
        """Whether the patient's masks are there."""
        return bool(self._files(patient)[1])

    def _files(self, patient: str) -> tuple[dict[int, Path], dict[int, Path]]:
        """Image and mask paths by slice number: complete, paired (or without any mask), without gaps."""
        folder = self.root / patient
        images, masks = self._named(folder)
        if not images:
            raise DataError(f"{folder}: 0 slices named <patient>_<number>.tif; remove the folder or {LEAVE_OUT}")
        for number in sorted(images.keys() | masks.keys()):
            if number not in masks and (masks or self.masks_needed):
                raise DataError(f"{images[number]}: slice {number} has no mask; add {patient}_{number}_mask.tif")
            if number not in images:
                raise DataError(f"{masks[number]}: mask {number} has no slice; add {patient}_{number}.tif")
        if 0 in images:
            raise DataError(f"{images[0]}: slice 0, but slices are numbered from 1; number the patient's slices anew")
        missing = sorted(set(range(1, max(images) + 1)) - images.keys())
        if missing:
            raise DataError(
                f"{folder}: slice {missing[0]} is missing (numbers go from 1 to {max(images)}); "
                f"restore it or {LEAVE_OUT}"
            )
        return images, masks

    def _named(self, folder: Path) -> tuple[dict[int, Path], dict[int, Path]]:
        """Image and mask paths of a patient's folder by slice number; all of this patient, each number once."""
        images: dict[int, Path] = {}
        masks: dict[int, Path] = {}
        with readable(folder):
            names = sorted(os.listdir(folder))
        for name in names:
            if match := SLICE.match(name):
                files, number = (masks if match["mask"] else images), int(match["number"])
                if match["patient"] != folder.name:
                    raise DataError(f"{folder / name}: named for patient {match['patient']}; move it to that folder")
                if number in files:
                    raise DataError(f"{folder / name}: a second file for slice {number}; remove it or {files[number]}")
                files[number] = folder / name
            elif name.lower().endswith((".tif", ".tiff")):
                raise DataError(f"{folder / name}: not named <patient>_<number>[_mask].tif; rename or remove it")
        return images, masks
