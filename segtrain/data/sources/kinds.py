"""Kinds of image files: the type of a sample, pages, orientation, colour space, palettes, and what is refused.

Legend: h height, w width, c channel.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from segtrain.errors import DataError

ORIENTATION = 274  # in TIFF and Exif
TIFF_BITS, TIFF_DESCRIPTION, TIFF_SAMPLES, TIFF_COLOURS, TIFF_SAMPLE_FORMAT = 258, 270, 277, 320, 339
TIFF_PHOTOMETRIC, TIFF_PLANAR = 262, 284
WHITE_IS_ZERO, BY_PLANES = 0, 2  # values of these two tags
COLOUR_SPACES = {4: "transparency mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab", 32844: "LogL"}
TIFF_X_RESOLUTION, TIFF_Y_RESOLUTION = 282, 283
IMAGEJ_SPACING = re.compile(r"^spacing=(?P<mm>[0-9.eE+-]+)$", re.MULTILINE)
IMAGEJ_MILLIMETRES = re.compile(r"^unit=(mm|millimet(er|re)s?)$", re.MULTILINE | re.IGNORECASE)
IMAGEJ_PAGES = re.compile(r"ImageJ=.*^images=(\d+)", re.DOTALL | re.MULTILINE)


def sample_type_of(image: Image.Image, png_bits: int) -> str:
    """NumPy's name of the type in which the file holds a sample, such as `uint16`: Pillow cuts some to 8 bits."""
    if not isinstance(image, TiffImageFile):
        return f"uint{png_bits}"
    bits, formats = set(image.tag_v2.get(TIFF_BITS, (1,))), set(image.tag_v2.get(TIFF_SAMPLE_FORMAT, (1,)))
    names = {1: "uint", 2: "int", 3: "float"}
    return "/".join(f"{names.get(number, 'other')}{size}" for number in sorted(formats) for size in sorted(bits))


def refuse_other_kinds(path: Path, image: Image.Image, sample_type: str, channels: int) -> None:
    """Raises DataError for an image that Pillow would decode into something else than the file shows."""
    tags = dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
    match = IMAGEJ_PAGES.match(tags.get(TIFF_DESCRIPTION, ""))  # a stack in one page
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
    if image.mode != "P":
        _refuse_other_samples(path, image, sample_type, channels)
        _refuse_other_colours(path, image, sample_type, tags)


def _refuse_other_samples(path: Path, image: Image.Image, sample_type: str, channels: int) -> None:
    bits_of_mask = ("uint1",) if channels == 1 and image.mode == "1" else ()
    if sample_type not in ("uint8", "uint16", *bits_of_mask):
        raise DataError(
            f"{path}: pixels are {sample_type}, but 8 or 16 bits (uint8, uint16) are needed; export it again"
        )
    actual = len(image.getbands())
    if isinstance(image, TiffImageFile):
        actual = image.tag_v2.get(TIFF_SAMPLES, 1)  # Pillow drops a fourth one without a meaning
    if actual != channels:
        raise DataError(f"{path}: {actual} channel(s), but this file needs {channels}; export it again")


def _refuse_other_colours(path: Path, image: Image.Image, sample_type: str, tags: dict[int, Any]) -> None:
    if tags and TIFF_PHOTOMETRIC not in tags:  # Pillow would take white for 0
        raise DataError(f"{path}: no tag 262, which says whether 0 is black or white; export it again")
    photometric: int = tags.get(TIFF_PHOTOMETRIC, -1)
    if image.mode not in ("RGB", "L", "1", "I;16", "I;16B") or photometric in COLOUR_SPACES:
        space = COLOUR_SPACES.get(photometric, image.mode)
        raise DataError(f"{path}: colour space {space}, but RGB is needed; export it again, without JPEG compression")
    if sample_type == "uint16" and photometric == WHITE_IS_ZERO:  # Pillow inverts such of 8 bits alone
        raise DataError(f"{path}: 16 bits with white as 0, but 0 must be black; export it again")
    if sample_type == "uint16" and image.mode == "RGB" and tags.get(TIFF_PLANAR) == BY_PLANES:
        raise DataError(f"{path}: 16-bit colours plane by plane; export it with the colours of a pixel side by side")


def colours_of(path: Path, image: Image.Image) -> NDArray[np.uint8]:
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


def spacing_of(path: Path) -> tuple[float, float, float] | None:
    """mm between slices, rows and columns, where a TIFF says so as ImageJ and converters of DICOM do; else None.

    The resolution alone, which most programs write, is one of printing.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    with Image.open(path, formats=["TIFF"]) as image:
        tags = dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
    description = str(tags.get(TIFF_DESCRIPTION, ""))
    between_slices = IMAGEJ_SPACING.search(description)
    if between_slices is None or not IMAGEJ_MILLIMETRES.search(description):
        return None
    try:
        slice_mm = abs(float(between_slices["mm"]))
        row_mm, column_mm = (1 / float(tags[tag]) for tag in (TIFF_Y_RESOLUTION, TIFF_X_RESOLUTION))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    is_true = all(0 < size_mm < math.inf for size_mm in (slice_mm, row_mm, column_mm))
    return (slice_mm, row_mm, column_mm) if is_true else None
