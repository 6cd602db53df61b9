"""Where patients come from: each source lists patients and reads one whole, or names what is wrong with it.

Legend: s slice, h height, w width, c channel (pre-contrast, FLAIR, post-contrast).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("pre-contrast", "FLAIR", "post-contrast")


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


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


FLAIR = 1


@dataclass(frozen=True)
class Input:
    """One patient, whole, as preparation takes it.

    image_shwc: uint8 [s, h, w, 3]; truth_shw: bool [s, h, w], None where no masks are; names: of the slices' pictures;
    numbers: the input's own of each slice; remarks: what was put right on the way.
    """

    image_shwc: NDArray[np.uint8]
    truth_shw: NDArray[np.bool_] | None
    names: tuple[str, ...]
    numbers: tuple[int, ...]
    remarks: tuple[str, ...] = ()


class Inputs(Protocol):
    """Patients of a folder; reads nothing but names and headers until one is asked for."""

    @property
    def label(self) -> str:
        """What outputs call this data."""

    def slices(self) -> dict[str, int]:
        """Slices by patient, sorted. Raises DataError for files that do not fit together."""

    def read(self, patient: str) -> Input:
        """The patient. Raises DataError."""

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """Write the mask below `folder`, in the input's own format and geometry; returns the files."""

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        """Write float32, compressed, in the input's own geometry; returns the file."""


def with_all_contrasts(image_shwc: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """FLAIR in the place of a blank contrast, as the published data has it, and what is to be said of that."""
    flair = image_shwc[..., FLAIR]
    remarks = []
    for c in (0, 2):
        plane = image_shwc[..., c]
        if plane.max() == plane.min() and flair.max() > flair.min():
            image_shwc = image_shwc.copy()
            image_shwc[..., c] = flair
        if np.array_equal(image_shwc[..., c], flair):
            remarks.append(f"{CHANNELS[c]} is missing, FLAIR stands in for it")
    return image_shwc, tuple(remarks)
