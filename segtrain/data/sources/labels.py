"""Masks' values: black and white, or the labels that `data.regions` names; anything else is refused with the values."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.data.sources.base import first_few
from segtrain.errors import DataError

BINARISE = "save it as black and white"
WHITES = (1, 255, 65535)


def lesion_of(path: Path, values: NDArray[Any], lesion_labels: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """uint8 0/1 of a mask: 1 where it is white, or has one of the labels where there are some. Raises DataError."""
    if lesion_labels is not None:
        return _labelled(path, values, lesion_labels)
    found = np.unique(values)
    if not any(set(found.tolist()) <= {0, white} for white in WHITES):
        raise DataError(
            f"{path}: mask has values {first_few(found.tolist())}, but only 0 and 255 (or 0 and 1) are taken; "
            f"{BINARISE}, or name the labels of the lesion, as in data.regions='{{lesion: [1, 2]}}'"
        )
    return (values > 0).astype(np.uint8)


def _labelled(path: Path, values: NDArray[Any], lesion_labels: tuple[int, ...]) -> NDArray[np.uint8]:
    found = np.unique(values)
    if not np.isin(found, (0, *lesion_labels)).all():
        raise DataError(
            f"{path}: mask has values {first_few(found.tolist())}, but data.regions names {first_few(lesion_labels)}; "
            "name there all that are lesion, and set the rest to 0"
        )
    return np.isin(values, lesion_labels).astype(np.uint8)


def any_label(path: Path, values: NDArray[Any]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """uint8 0/1 of a mask whose every whole number above 0 counts as lesion, and a remark where there are several.

    Raises DataError for fractions, as a soft mask has, and values below 0.
    """
    found = np.unique(values)
    if found[0] < 0 or (found != np.round(found)).any():
        odd = found[(found < 0) | (found != np.round(found))]
        raise DataError(
            f"{path}: mask has values {first_few([f'{value:g}' for value in odd])}, but labels are whole numbers from "
            "0 up; set a threshold and save it again"
        )
    labels = [f"{value:g}" for value in found[found > 0]]
    remarks = (f"labels {first_few(labels)} all count as lesion",) if len(labels) > 1 else ()
    return (values > 0).astype(np.uint8), remarks
