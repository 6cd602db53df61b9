"""Pixels of an image file, read exactly or refused with the file, the value and the remedy.

Pillow decodes many files into something else than they show: colours of 16 bits into 8, stacks into their first page,
YCbCr into RGB. What it would change is refused, or read in a way that keeps it.

Legend: h height, w width, c channel.
"""

import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from segtrain.data.sources.base import Pixels, first_few, refuse_large
from segtrain.data.sources.kinds import colours_of, refuse_other_kinds, sample_type_of
from segtrain.data.sources.labels import BINARISE, LabelRules, ReadMask
from segtrain.data.sources.listing import patiently_read, refuse_absent
from segtrain.errors import LEAVE_OUT, DataError

PNG_BITS = 24  # where the header has them
# Pillow's names of 16-bit colours: little-endian, big-endian, in the machine's own order.
OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def read_slice(path: Path, channels: int, is_mask: bool = True) -> Pixels:
    """[h, w, 3], or [h, w] of one channel, exactly as the file shows it. Raises DataError for the rest.

    is_mask: whether one channel is a mask's.

    uint8, or uint16 where the file has 16 bits a sample. A PNG where the name says so, else a TIFF. Palettes are read
    through their colours.
    """
    kind = "PNG" if path.suffix.lower() == ".png" else "TIFF"
    refuse_absent(path)
    with patiently_read(path, lambda: path.open("rb")) as handle:
        try:
            array = _decoded(path, handle, kind, channels)
        except DataError:
            raise
        except UnidentifiedImageError as error:
            raise DataError(
                f"{path}: not a readable {kind} (another format, cut short, or of 32 bits or floats); copy the file "
                f"again, export it with 8 or 16 bits a sample or {LEAVE_OUT}"
            ) from error
        except Exception as error:  # Pillow raises a dozen kinds on broken files, SyntaxError among them
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{path}: not a readable {kind} ({reason[:80]}); copy the file again, export it with 8 or 16 bits a "
                f"sample or {LEAVE_OUT}"
            ) from error
    if channels == 1 and array.ndim == 3:  # a palette's colours
        if (array != array[..., :1]).any():
            colours = np.unique(array.reshape(-1, 3), axis=0).tolist()
            if not is_mask:
                raise DataError(f"{path}: has colours {first_few(colours)}, but grey is needed; export it again")
            raise DataError(
                f"{path}: mask has colours {first_few(colours)}, but only black and white are taken; {BINARISE}"
            )
        array = array[..., 0]
    return array


def read_mask(path: Path, rules: LabelRules) -> ReadMask:
    """[h, w] of a mask's file. Raises DataError."""
    return rules.read(path, read_slice(path, channels=1))


def _decoded(path: Path, handle: BinaryIO, kind: str, channels: int) -> Pixels:
    header = handle.read(PNG_BITS + 1)
    handle.seek(0)
    with Image.open(handle, formats=[kind]) as image:
        refuse_large(path, image.size)
        sample_type = sample_type_of(image, 0 if kind == "TIFF" else header[PNG_BITS])
        refuse_other_kinds(path, image, sample_type, channels)
        if image.mode == "P":
            return colours_of(path, image)
        if image.mode != "RGB" or sample_type != "uint16":
            array: Pixels = np.asarray(image)
            return array.astype(np.uint16, copy=False) if array.itemsize == 2 else array.astype(np.uint8, copy=False)
        upper_bytes = np.asarray(image).astype(np.uint16)
    handle.seek(0)
    with Image.open(handle, formats=[kind]) as image:
        _swap_bytes(image)
        lower_bytes: NDArray[np.uint8] = np.asarray(image)
    return (upper_bytes << np.uint16(8)) | lower_bytes


def _swap_bytes(image: Image.Image) -> None:
    """Let Pillow, which keeps the upper byte of colours of 16 bits, take the lower one for it."""
    assert isinstance(image, ImageFile.ImageFile)
    tiles = []
    for tile in image.tile:
        args: Any = tile.args
        raw_mode, *rest = (args,) if isinstance(args, str) else args
        swapped = raw_mode[:-1] + OTHER_ORDER[raw_mode[-1]]
        tiles.append(tile._replace(args=swapped if isinstance(args, str) else (swapped, *rest)))
    image.tile = tiles
