"""Where patients come from: each source lists patients and reads one whole, or names what is wrong with it.

Legend: s slice, h height, w width, c channel (pre-contrast, FLAIR, post-contrast).
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import DataConfig, PhantomConfig
from segtrain.data.phantom import phantom_patient
from segtrain.errors import LEAVE_OUT, DataError

CHANNELS = ("pre-contrast", "FLAIR", "post-contrast")
SLICE = re.compile(r"^(?P<patient>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?$")


@dataclass(frozen=True)
class RawVolume:
    """One patient as it lies in the source.

    image_shwc: uint8 [slice, height, width, 3]; mask_shw: uint8 0/1 [slice, height, width];
    slice_numbers: the source's own number of each slice.
    """

    image_shwc: NDArray[np.uint8]
    mask_shw: NDArray[np.uint8]
    slice_numbers: tuple[int, ...]


class Source(Protocol):
    """A data set. Cheap to make and to send to another process; reads nothing until asked."""

    @property
    def label(self) -> str:
        """What outputs call this data; phantom data says that it is made up."""

    def patients(self) -> list[str]:
        """All patient ids, sorted. Raises DataError when there are none."""

    def fingerprint(self) -> str:
        """A short hash that changes when the source's content does."""

    def read(self, patient: str) -> RawVolume:
        """The patient's whole volume. Raises DataError naming the file, the value and the remedy."""

    def institution(self, patient: str) -> str:
        """Where the patient was scanned, for tables and stratified splits."""


@dataclass(frozen=True)
class PhantomSource:
    """Made-up patients: a pure function of the config, with no file behind them."""

    config: PhantomConfig

    @property
    def label(self) -> str:
        return "phantom patients (made up, not real data)"

    def patients(self) -> list[str]:
        return [f"PHANTOM_{index:04d}" for index in range(self.config.patients)]

    def fingerprint(self) -> str:
        code = Path(phantom_patient.__code__.co_filename).read_bytes()
        return _digest([repr(self.config).encode(), code])

    def read(self, patient: str) -> RawVolume:
        image, mask = phantom_patient(self.config.seed, int(patient.rsplit("_", 1)[1]), self.config.size_px)
        return RawVolume(image, mask, tuple(range(1, len(image) + 1)))

    def institution(self, patient: str) -> str:
        return "PHANTOM"


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


def make_source(cfg: DataConfig) -> Source:
    """The source that `data.source` names."""
    if cfg.source == "phantom":
        return PhantomSource(cfg.phantom)
    assert cfg.root is not None, "loading checks it"
    return LggSource(Path(cfg.root).expanduser())


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a DataError that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; make it readable for this user") from error


def read_slice(path: Path, channels: int) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] of an image, [h, w] of a mask; a PNG where the name says so, else a TIFF. Raises DataError."""
    kind = "PNG" if path.suffix.lower() == ".png" else "TIFF"
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
    right = array.ndim == 3 and array.shape[2] == channels if channels > 1 else array.ndim == 2
    if not right:
        found = array.shape[2] if array.ndim == 3 else 1
        raise DataError(f"{path}: {found} channel(s), but this file needs {channels}; export it again")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{path}: pixels are {array.dtype}, but 8-bit are needed; export it again")
    return array


def read_mask(path: Path) -> NDArray[np.uint8]:
    """uint8 0/1 [h, w]. Raises DataError."""
    mask = read_slice(path, channels=1)
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    if not (set(values.tolist()) <= {0, 255} or set(values.tolist()) <= {0, 1}):
        odd = next(v for v in values.tolist() if v not in (0, 255))
        raise DataError(f"{path}: mask has value {odd}, but only 0 and 255 (or 0 and 1) mean anything; binarise it")
    return (mask > 0).astype(np.uint8)


def refuse_other_sizes(paths: Sequence[Path], slices: Sequence[NDArray[np.uint8]]) -> None:
    """Raises DataError for the first of a patient's files that has not the size of the first."""
    for path, array in zip(paths, slices, strict=True):
        if array.shape[:2] != slices[0].shape[:2]:
            raise DataError(
                f"{path}: size {_size(array.shape)}, but the patient's first slice has {_size(slices[0].shape)}; "
                "export the patient's slices at one size"
            )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
