"""A folder of patients: one protocol, by which preparation and prediction read it and predictions are written back.

A source reads what is there and says so. What only one of its two users needs is here as well, once each: training and
scoring need a mask (`read_with_mask`), a network needs three contrasts (`fill_blank_contrasts`).

Legend: s slice, h height, w width, c channel (one a contrast).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segtrain.config import LGG_CONTRASTS
from segtrain.errors import LEAVE_OUT, DataError

if TYPE_CHECKING:
    from segtrain.data.sources.labels import LabelRules

LISTED = 6  # of many things in a message
Check = Callable[[], None]
FLAIR = 1

Pixels = NDArray[np.uint8 | np.uint16]


def no_check() -> None:
    """Nothing to check."""


@dataclass(frozen=True)
class Volume:
    """One patient's slices as they are in the source.

    image_shwc: [s, h, w, c], of numbers in the source's own range; mask_shw: uint8 bits of regions [s, h, w] (see
    `segtrain.config.regions`), None where the source has no mask; slice_names: for the slices' pictures;
    slice_numbers: the source's own; remarks: what reading changed or left in doubt; has_one_range: whether grey levels
    of its contrasts may be compared; absent: contrasts that the source does not have, 0 in the image; spacing_mm:
    between slices, rows and columns, where the source knows it; label_voxels: of each value of the mask's files.
    """

    image_shwc: NDArray[Any]
    mask_shw: NDArray[np.uint8] | None
    slice_names: tuple[str, ...]
    slice_numbers: tuple[int, ...]
    remarks: tuple[str, ...] = ()
    has_one_range: bool = True
    absent: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    label_voxels: Mapping[int, int] = field(default_factory=dict)


class Source(Protocol):
    """A data set. Cheap to make and to send to another process; opens no file before a method is called."""

    @property
    def label(self) -> str:
        """The name of this data in outputs; phantom data says that it is made up."""

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The image's channels by name. Cheap: by names of files and headers. Raises DataError."""

    @property
    def rules(self) -> "LabelRules":
        """Its masks' values: the config's rules, or where these are silent those that come with the data."""

    def patients(self) -> list[str]:
        """All patient ids, sorted. Raises DataError when there are none."""

    def slices(self, patient: str) -> int:
        """The patient's number of slices, by names and headers. Raises DataError: files that do not fit together."""

    def fingerprint(self, check: Check = no_check) -> str:
        """A hash of names below the source's folder and of content: the same for a copy, whatever its times.

        Reads every file; calls `check` now and then, which may raise.
        """

    def stamp(self) -> str | None:
        """A hash that changes when a file is touched, made without reading one; None where there are no files."""

    def takes(self, name: str) -> bool:
        """Whether a file of this name, in the source's folder or one of a patient, is read."""

    def read(self, patient: str) -> Volume:
        """The patient's whole volume. Raises DataError naming the file, the value and the remedy."""

    def institution(self, patient: str) -> str:
        """Where the patient was scanned, for tables and stratified splits; `unknown` where the source does not say."""

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """Write a mask below `folder` in the source's own format and geometry; returns the files."""

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        """Write float32, compressed, in the source's own geometry; returns the file."""


def read_with_mask(source: Source, patient: str) -> tuple[Volume, NDArray[np.uint8]]:
    """The patient's volume and its mask, which training and scoring cannot do without. Raises DataError."""
    volume = source.read(patient)
    if volume.mask_shw is None:
        raise DataError(f"patient {patient}: has no mask in {source.label}; add its masks or {LEAVE_OUT}")
    return volume, volume.mask_shw


def missing_contrasts(image_shwc: NDArray[Any]) -> tuple[str, ...]:
    """The contrasts that FLAIR stands in for: the published data has a copy of it where a contrast is missing."""
    return tuple(LGG_CONTRASTS[c] for c in (0, 2) if np.array_equal(image_shwc[..., c], image_shwc[..., FLAIR]))


def fill_blank_contrasts(volume: Volume) -> Volume:
    """The volume with FLAIR in place of a blank contrast, as in the published data, and a remark for each missing one.

    For prediction only: in training a constant channel is an error of the data, which preparation refuses.
    """
    image_shwc = volume.image_shwc
    flair = image_shwc[..., FLAIR]
    for c in (0, 2):
        contrast = image_shwc[..., c]
        if contrast.max() == contrast.min() and flair.max() > flair.min():
            image_shwc = image_shwc.copy()
            image_shwc[..., c] = flair
    remarks = [f"{name} is missing, FLAIR stands in for it" for name in missing_contrasts(image_shwc)]
    return replace(volume, image_shwc=image_shwc, remarks=(*volume.remarks, *remarks))


def plain_slice_names(slices: int) -> tuple[str, ...]:
    """`slice_001`, ... for sources whose slices have no names of their own."""
    return tuple(f"slice_{number:03d}" for number in range(1, slices + 1))


def first_few(values: Sequence[object]) -> str:
    """The first values, and how many more there are."""
    more = f" and {len(values) - LISTED} more" if len(values) > LISTED else ""
    return ", ".join(map(str, values[:LISTED])) + more


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of the parts and of where each ends."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "little") + part)
    return sha256.hexdigest()
