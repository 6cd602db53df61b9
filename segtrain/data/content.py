"""Data known by their content: hashes of a patient's slices and mask as they are read, whatever they are called.

They are of the source, and not of prepared slices, whose last bits may differ between machines.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtrain.data.sources import Pixels
from segtrain.data.sources.levels import fewest_bits
from segtrain.data.store import Store

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Content:
    """A patient's hashes; empty where the store is of an earlier version."""

    pixels: str
    mask: str


def slice_hashes(image_shwc: Pixels) -> list[str]:
    """A hash of every slice that is not constant: equal ones under two patients are one patient twice.

    8 bits that were written as 16 are the same.
    """
    return [_hash(plane) for plane in fewest_bits(image_shwc) if plane.max() > plane.min()]


def pixels_hash(hashes: Iterable[str]) -> str:
    """The hash of a patient's image, of those of its slices."""
    return hashlib.blake2b(" ".join(hashes).encode(), digest_size=DIGEST_BYTES).hexdigest()


def mask_hash(mask_shw: NDArray[np.uint8]) -> str:
    """The hash of a patient's mask."""
    return _hash(mask_shw)


def content_of(store: Store, patients: Iterable[str]) -> Mapping[str, Content]:
    """What these patients consist of, as far as the store knows."""
    names, columns = list(patients), store.columns
    rows = columns.rows(names)
    hashes = zip(names, columns.pixels[rows].tolist(), columns.mask[rows].tolist(), strict=True)
    return {patient: Content(pixels.decode(), mask.decode()) for patient, pixels, mask in hashes if pixels}


def _hash(array: NDArray[np.generic]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=DIGEST_BYTES).hexdigest()
