"""Slices in image files, read and checked."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.errors import LEAVE_OUT, DataError


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


SUFFIXES = (".tif", ".tiff", ".png")
NIFTI_SUFFIXES = (".nii", ".nii.gz")


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
