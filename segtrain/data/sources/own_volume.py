"""What a source of the user's own reads of a patient, in one form: checked, or refused in one line.

Legend: s slice, h height, w width, c channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.data.sources.base import Volume, digest, first_few
from segtrain.errors import DataError

FORMS = "(image [s, h, w, c] or a list of contrasts [s, h, w], labels [s, h, w] or None)"
KEYS = ("image", "labels", "spacing_mm")
AS_THEY_ARE = (np.uint8, np.uint16, np.float32)  # types of images; others become float32


@dataclass(frozen=True)
class RawVolume:
    """Image [s, h, w, c], labels [s, h, w] of numbers, spacing between slices, rows and columns."""

    image_shwc: NDArray[Any]
    labels_shw: NDArray[Any] | None
    spacing_mm: tuple[float, float, float] | None

    @cached_property
    def digest(self) -> str:
        """A hash of all of it."""
        labels = np.zeros(0, np.uint8) if self.labels_shw is None else self.labels_shw
        arrays = [part for a in (self.image_shwc, labels) for part in (f"{a.dtype} {a.shape}".encode(), a.tobytes())]
        return digest([*arrays, repr(self.spacing_mm).encode()])


def raw_volume(result: Any, spacing_mm: Any, contrasts: int, whose: str) -> RawVolume:
    """The volume that a source's `read` returned. Raises DataError, which begins with `whose`."""
    image, labels, spacing_here = _parts(result, whose)
    image_shwc = _image(image, contrasts, whose)
    labels_shw = None if labels is None else _labels(labels, image_shwc.shape[:3], whose)
    return RawVolume(image_shwc, labels_shw, _spacing(spacing_mm if spacing_here is None else spacing_here, whose))


def _parts(result: Any, whose: str) -> tuple[Any, Any, Any]:
    """Image, labels and spacing of what was returned."""
    if isinstance(result, Volume):
        return result.image_shwc, result.mask_shw, result.spacing_mm
    if isinstance(result, Mapping):
        if unknown := set(result) - set(KEYS):
            raise DataError(f"{whose} has the key(s) {first_few(sorted(map(str, unknown)))}; use {', '.join(KEYS)}")
        return result.get("image"), result.get("labels"), result.get("spacing_mm")
    if isinstance(result, tuple) and len(result) == 2:
        pair: Sequence[Any] = result
        return pair[0], pair[1], None
    raise DataError(f"{whose} returned a {type(result).__name__}; return {FORMS}, or a mapping of {', '.join(KEYS)}")


def _image(image: Any, contrasts: int, whose: str) -> NDArray[Any]:
    array: NDArray[Any]
    if isinstance(image, list | tuple):
        planes = [_array(plane, f"{whose}: contrast {number}") for number, plane in enumerate(image, start=1)]
        if shapes := sorted({plane.shape for plane in planes if plane.shape != planes[0].shape}):
            raise DataError(f"{whose}: contrasts of shapes {planes[0].shape} and {shapes[0]}; bring them onto one grid")
        array = np.stack(planes, axis=-1) if planes else np.zeros(0)
    else:
        array = _array(image, f"{whose}: the image")
        if array.ndim == 3 and contrasts == 1:
            array = array[..., None]
    if array.ndim != 4 or array.shape[3] != contrasts or 0 in array.shape:
        raise DataError(
            f"{whose}: image of shape {array.shape}, but [slices, height, width, {contrasts}] is needed for "
            f"{contrasts} contrast(s); return {FORMS}"
        )
    if not np.isfinite(array).all():
        raise DataError(f"{whose}: has voxels that are not finite; replace them")
    return np.ascontiguousarray(array if array.dtype in AS_THEY_ARE else array.astype(np.float32))


def _labels(labels: Any, shape: Sequence[int], whose: str) -> NDArray[Any]:
    array = _array(labels, f"{whose}: the labels")
    if array.shape != tuple(shape):
        raise DataError(
            f"{whose}: labels of shape {array.shape}, but the image's slices are {tuple(shape)}; match them"
        )
    if not np.isfinite(array).all():
        raise DataError(f"{whose}: has labels that are not finite; set them to 0")
    return np.ascontiguousarray(array.astype(np.uint8) if array.dtype == np.bool_ else array)


def _array(values: Any, what: str) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: {array.dtype} values, but numbers are needed; return NumPy arrays of numbers")
    return array


def _spacing(spacing_mm: Any, whose: str) -> tuple[float, float, float] | None:
    if spacing_mm is None:
        return None
    numbers = np.asarray(spacing_mm, np.float64) if np.size(spacing_mm) == 3 else np.zeros(3)
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise DataError(f"{whose}: spacing_mm {spacing_mm!r}; three lengths above 0 are needed: slice, row, column")
    slice_mm, row_mm, column_mm = map(float, numbers)
    return slice_mm, row_mm, column_mm
