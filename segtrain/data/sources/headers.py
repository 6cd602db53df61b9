"""NIfTI files: opened with what nibabel remarks on them, their voxels, grids and orientations.

Legend: x, y, z the file's own axes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from segtrain.data.sources.base import refuse_large
from segtrain.data.sources.listing import refuse_absent
from segtrain.data.sources.remarks import LibraryRemarks
from segtrain.errors import DataError

SAME_GRID_MM = 1e-2
MOST_DEFLATED = 1032  # bytes that one byte of gzip can stand for


def open_volume(path: Path, library: LibraryRemarks | None = None) -> Any:
    """The image with its header; its voxels are not read yet. Raises DataError.

    nibabel's remarks go into `library`, if there is one: it makes them whenever the file is opened.
    """
    refuse_absent(path)
    try:
        with (library or LibraryRemarks()).on(path):
            image: Any = nibabel.load(path)
    except Exception as error:  # nibabel lets the errors of gzip, zlib and struct through
        raise _broken(path, " ".join(str(error).split()) or type(error).__name__) from error
    _refuse_size(path, image)
    return image


def _refuse_size(path: Path, image: Any) -> None:
    """Raises DataError where the header says that there are more voxels than there are: nibabel makes room for all."""
    refuse_large(path, image.shape)
    stored_bytes = path.stat().st_size * (1 if path.suffix.lower() == ".nii" else MOST_DEFLATED)
    if math.prod(image.shape) * image.dataobj.dtype.itemsize > stored_bytes:
        raise _broken(path, f"cut short: its header says {size_of(image.shape)} voxels of {image.dataobj.dtype}")


def voxels_of(path: Path) -> NDArray[Any]:
    """The voxels, scale factors applied: in the file's own type, or float32 or float64 as they need.

    Raises DataError: unreadable, no numbers, not finite.
    """
    try:
        voxels: NDArray[Any] = np.asanyarray(open_volume(path).dataobj)
    except DataError:
        raise
    except Exception as error:
        raise _broken(path, " ".join(str(error).split()) or type(error).__name__) from error
    if voxels.dtype.kind not in "biuf":
        raise DataError(f"{path}: voxels are {voxels.dtype}, but numbers are needed; export it again")
    if not np.isfinite(voxels).all():
        raise DataError(f"{path}: has voxels that are not finite; replace them and export it again")
    if voxels.dtype == np.float64 and not isinstance(voxels, np.memmap):  # as integers are scaled
        with np.errstate(over="ignore"):
            short = voxels.astype(np.float32)
        return short if np.array_equal(short, voxels) else voxels
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a readable NIfTI file ({reason[:80]}); copy the file again")


def size_of(shape: Sequence[int]) -> str:
    """The shape, for messages."""
    return "x".join(map(str, shape))


def doubt_of_orientation(path: Path) -> str | None:
    """A remark on a header without orientation, or whose qform and sform, both in use, put a corner at two places."""
    image = open_volume(path)
    header = image.header
    if not header["sform_code"] and not header["qform_code"]:
        return f"{path.name}: the header has no orientation, the third axis is taken for the slices"
    if not (header["qform_code"] and header["sform_code"]):
        return None
    try:
        qform = header.get_qform()
    except ValueError as error:  # such as a rotation longer than 1
        return f"{path.name}: its qform is damaged ({error}); the sform is used"
    corners = np.array(np.meshgrid(*((0, size - 1) for size in image.shape[:3]), [1])).reshape(4, -1)
    apart_mm = np.abs((header.get_sform() - qform) @ corners).max()
    if apart_mm <= SAME_GRID_MM:
        return None
    return f"{path.name}: qform and sform differ (by up to {apart_mm:.1f} mm); the sform is used"
