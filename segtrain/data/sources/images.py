"""Sources of slices in image files: paired with their masks, read exactly or refused, written.

Legend: s slice, h height, w width, c channel.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from segtrain.data.sources.base import Check, Volume, no_check
from segtrain.data.sources.listing import digest_of_content, digest_of_times, readable, refuse_absent
from segtrain.errors import LEAVE_OUT, DataError

SUFFIXES = (".tif", ".tiff", ".png")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ORIENTATION = 274  # in TIFF and Exif
TIFF_BITS, TIFF_DESCRIPTION, TIFF_SAMPLES, TIFF_COLOURS, TIFF_SAMPLE_FORMAT = 258, 270, 277, 320, 339
PNG_BITS = 24  # where the header has them
IMAGEJ_PAGES = re.compile(r"ImageJ=.*^images=(\d+)", re.DOTALL | re.MULTILINE)
LISTED = 6  # values in a message
BINARISE = "save it as black and white"

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

    def fingerprint(self, check: Check = no_check) -> str:
        return digest_of_content(self.root, map(self.folder, self.patients()), check)

    def stamp(self) -> str:
        return digest_of_times(self.root, map(self.folder, self.patients()))

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
    """uint8 [h, w, 3] of an image, [h, w] of a mask, exactly as the file shows it. Raises DataError for the rest.

    A PNG where the name says so, else a TIFF. Palettes are read through their colours.
    """
    kind = "PNG" if path.suffix.lower() == ".png" else "TIFF"
    refuse_absent(path)
    with readable(path):
        handle = path.open("rb")
    with handle:
        try:
            header = handle.read(PNG_BITS + 1)
            handle.seek(0)
            with Image.open(handle, formats=[kind]) as image:
                _refuse_other_kinds(path, image, _sample_type(image, header), channels)
                array = _colours(path, image) if image.mode == "P" else np.asarray(image)
        except DataError:
            raise
        except Exception as error:  # Pillow raises a dozen kinds on broken files, SyntaxError among them
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{path}: not a readable {kind} ({reason[:80]}); copy the file again, export it with 8 bits a sample "
                f"or {LEAVE_OUT}"
            ) from error
    if channels == 1 and array.ndim == 3:  # a palette's colours
        if (array != array[..., :1]).any():
            colours = np.unique(array.reshape(-1, 3), axis=0).tolist()
            raise DataError(
                f"{path}: mask has colours {_listed(colours)}, but only black and white are taken; {BINARISE}"
            )
        array = array[..., 0]
    return array.astype(np.uint8, copy=False)


def _sample_type(image: Image.Image, header: bytes) -> str:
    """NumPy's name of the type in which the file holds a sample, such as `uint16`: Pillow cuts some to 8 bits."""
    if not isinstance(image, TiffImageFile):
        return f"uint{header[PNG_BITS]}"
    bits, formats = set(image.tag_v2.get(TIFF_BITS, (1,))), set(image.tag_v2.get(TIFF_SAMPLE_FORMAT, (1,)))
    names = {1: "uint", 2: "int", 3: "float"}
    return "/".join(f"{names.get(number, 'other')}{size}" for number in sorted(formats) for size in sorted(bits))


def _refuse_other_kinds(path: Path, image: Image.Image, sample_type: str, channels: int) -> None:
    """Raises DataError for an image that Pillow would decode into something else than the file shows."""
    description = image.tag_v2.get(TIFF_DESCRIPTION, "") if isinstance(image, TiffImageFile) else ""
    match = IMAGEJ_PAGES.match(description)  # a stack in one page
    pages = max(getattr(image, "n_frames", 1), int(match[1]) if match else 1)
    if pages > 1:
        raise DataError(f"{path}: {pages} pages, but a file holds one slice; save each page as a file of its own")
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation != 1:
        raise DataError(
            f"{path}: orientation tag {orientation} (turned or mirrored); export it upright, without the tag"
        )
    if "transparency" in image.info:
        raise DataError(f"{path}: has transparent pixels, but opaque ones are needed; export it without transparency")
    if image.mode == "P":
        return
    bits_of_mask = ("uint1",) if channels == 1 and image.mode == "1" else ()
    if sample_type not in ("uint8", *bits_of_mask):
        raise DataError(f"{path}: pixels are {sample_type}, but 8-bit (uint8) are needed; export it again")
    actual = len(image.getbands())
    if isinstance(image, TiffImageFile):
        actual = image.tag_v2.get(TIFF_SAMPLES, 1)  # Pillow drops a fourth one without a meaning
    if actual != channels:
        raise DataError(f"{path}: {actual} channel(s), but this file needs {channels}; export it again")
    if image.mode not in ("RGB", "L", "1"):
        raise DataError(f"{path}: colour space {image.mode}, but RGB is needed; export it again")


def _colours(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] of an image with a palette. Raises DataError where the palette is not in 8 bits or too short."""
    indices_hw = np.asarray(image)
    highest = int(indices_hw.max())
    if isinstance(image, TiffImageFile):
        # 16 bits a colour, of which Pillow keeps the upper 8; some programs write v * 257, some v * 256
        values = np.array(image.tag_v2[TIFF_COLOURS], np.uint16).reshape(3, -1).T
        palette = (values >> 8).astype(np.uint8)
        is_8_bit = (values & 255 == 0) | (values == palette * np.uint16(257))
        used = is_8_bit[: highest + 1]
        if not used.all():
            odd = values[: len(used)][~used][0]
            raise DataError(
                f"{path}: palette has the 16-bit value {odd}, but 8-bit are needed; export it without palette"
            )
    else:
        palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    if highest >= len(palette):
        raise DataError(
            f"{path}: pixel {highest}, but its palette has {len(palette)} colours; export it without palette"
        )
    colours_hwc: NDArray[np.uint8] = palette[indices_hw]
    return colours_hwc


def read_mask(path: Path) -> NDArray[np.uint8]:
    """uint8 0/1 [h, w]. Raises DataError."""
    mask = read_slice(path, channels=1)
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if not (set(values) <= {0, 255} or set(values) <= {0, 1}):
        raise DataError(
            f"{path}: mask has values {_listed(values)}, but only 0 and 255 (or 0 and 1) are taken; {BINARISE}"
        )
    return (mask > 0).astype(np.uint8)


def _listed(values: Sequence[object]) -> str:
    """The first values; how many more there are."""
    more = f" and {len(values) - LISTED} more" if len(values) > LISTED else ""
    return ", ".join(map(str, values[:LISTED])) + more


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
