"""Masks compared with the predictions of all other patients of the same size: which are those of another patient.

Legend: s slice, h height, w width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from segtrain.evaluation.evidence import Correction, Mask

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Footprint:
    """One region of one patient in the source's geometry: the shape, and the flat places of lesion voxels."""

    shape: tuple[int, ...]
    mask: Indices
    predicted: Indices

    @classmethod
    def of(cls, mask_shw: Mask, predicted_shw: Mask) -> "Footprint":
        """That of two volumes."""
        return cls(mask_shw.shape, np.flatnonzero(mask_shw), np.flatnonzero(predicted_shw))


@dataclass(frozen=True)
class Swap:
    """The patient whose prediction a mask agrees with; before: the DSC with the next best prediction."""

    other: str
    correction: Correction


def swaps(footprints: Mapping[str, Footprint]) -> dict[str, Swap]:
    """For each patient, the other one of the same shape whose prediction the mask agrees with best, if any.

    What counts is how much better that is than all other predictions: lesions of many patients lie in similar places.
    """
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for patient, footprint in footprints.items():
        by_shape.setdefault(footprint.shape, []).append(patient)
    found: dict[str, Swap] = {}
    for patients in by_shape.values():
        if len(patients) > 1:
            found |= _among([(patient, footprints[patient]) for patient in patients])
    return found


def _among(patients: list[tuple[str, Footprint]]) -> dict[str, Swap]:
    """Of patients of one shape."""
    dsc = _dsc_of_pairs([footprint for _, footprint in patients])
    result = {}
    for row, (patient, footprint) in enumerate(patients):
        next_best, best = np.sort(dsc[row])[-2:]
        other = int(dsc[row].argmax())
        if other != row and best > next_best:
            result[patient] = Swap(patients[other][0], Correction(float(next_best), float(best), len(footprint.mask)))
    return result


def _dsc_of_pairs(footprints: list[Footprint]) -> NDArray[np.float64]:
    """[mask, prediction]: the DSC of each patient's mask with each patient's prediction; 0 where both are empty."""
    masks, predictions = (
        _rows([getattr(footprint, which) for footprint in footprints], int(np.prod(footprints[0].shape)))
        for which in ("mask", "predicted")
    )
    overlap = (masks @ predictions.T).toarray()
    sizes = np.add.outer([len(one.mask) for one in footprints], [len(one.predicted) for one in footprints])
    return np.asarray(2 * overlap / np.maximum(sizes, 1))


def _rows(indices: list[Indices], voxels: int) -> sparse.csr_array:
    """A sparse matrix with a row for each volume."""
    ends = np.cumsum([0, *map(len, indices)])
    return sparse.csr_array((np.ones(ends[-1]), np.concatenate(indices), ends), shape=(len(indices), voxels))
