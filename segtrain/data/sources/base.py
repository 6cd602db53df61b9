"""A folder of patients: one protocol, by which preparation and prediction read it and predictions are written back.

A source reads what is there and says so. What only one of its two users needs is here as well, once each: training and
scoring need a mask (`read_with_mask`), a network needs all its contrasts (`fill_missing`).

Legend: s slice, h height, w width, c channel (one a contrast).
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segtrain.config import LGG_CONTRASTS, DataConfig, canonical
from segtrain.config.regions import ZEROS
from segtrain.errors import LEAVE_OUT, DataError

if TYPE_CHECKING:
    from segtrain.data.sources.labels import LabelRules

TRUTH = "truth"  # among the roles of a patient's files, which are contrasts else
LISTED = 6  # of many things in a message
Check = Callable[[], None]
FLAIR = 1

Pixels = NDArray[np.uint8 | np.uint16]

# Pixels of a side of a slice, and voxels of a file: finer than any scan of a head. A file of a few bytes may say that
# it holds more than fits into memory.
MOST_SIDE = 4096
MOST_VOXELS = 2**29


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


@runtime_checkable
class ListsFiles(Protocol):
    """A source that says which file is what."""

    def files_of(self, patient: str) -> Mapping[str, tuple[Path, ...]]:
        """The patient's files by role: contrasts by name, or `image`, and TRUTH. Raises DataError."""


@runtime_checkable
class ListsRest(Protocol):
    """A source that knows all that lies below its folder."""

    def passed_over(self) -> Mapping[str, Sequence[str]]:
        """What lies below its folder and is not read: names by reason. Raises DataError."""


@runtime_checkable
class LeavesOut(Protocol):
    """A source that leaves patients out of training."""

    def left_out(self) -> Mapping[str, str]:
        """The reason for each patient that is none of `patients`, but that a user may look for. Raises DataError."""


@runtime_checkable
class AsksForTruths(Protocol):
    """A source that cannot always know which file is a patient's truth."""

    def doubts(self) -> Mapping[str, str]:
        """The patients whose truth has to be asked for, each with the question. Raises DataError."""


@runtime_checkable
class Remarks(Protocol):
    """A source that has remarks on its data as a whole."""

    def remarks(self) -> tuple[str, ...]:
        """What was taken for what, where there was a choice. Raises DataError."""


@runtime_checkable
class KnowsPeople(Protocol):
    """A source that knows whose scan a patient is."""

    def person(self, patient: str) -> str | None:
        """The person; None where only the patient's id says it."""


def read_with_mask(source: Source, patient: str) -> tuple[Volume, NDArray[np.uint8]]:
    """The patient's volume and its mask, which training and scoring cannot do without. Raises DataError."""
    volume = source.read(patient)
    if volume.mask_shw is None:
        raise DataError(f"patient {patient}: has no mask in {source.label}; add its masks or {LEAVE_OUT}")
    return volume, volume.mask_shw


def missing_contrasts(image_shwc: NDArray[Any]) -> tuple[str, ...]:
    """The contrasts that FLAIR stands in for: the published data has a copy of it where a contrast is missing."""
    return tuple(LGG_CONTRASTS[c] for c in (0, 2) if np.array_equal(image_shwc[..., c], image_shwc[..., FLAIR]))


def stand_in_of(cfg: DataConfig, contrasts: tuple[str, ...]) -> str | None:
    """What predictions put in place of a missing contrast: as in training, or as the published data has it."""
    return cfg.missing or (LGG_CONTRASTS[FLAIR] if contrasts == LGG_CONTRASTS else None)


def fill_missing(volume: Volume, contrasts: tuple[str, ...], stand_in: str | None, where: str) -> Volume:
    """The volume with `stand_in` in place of missing contrasts, and a remark on each; `absent` names them all.

    stand_in: a contrast, or ZEROS; None: missing ones are refused. Where there is a rule a constant contrast counts as
    missing; else preparation refuses it. Raises DataError.
    """
    if stand_in is None:
        if volume.absent:
            raise DataError(
                f"{where}: has no {' and no '.join(volume.absent)}; add the file, leave it out of data.contrasts, or "
                f"say what stands in, as in data.missing={ZEROS}"
            )
        return volume
    source = _place_of(stand_in, contrasts)
    if source is not None and contrasts[source] in volume.absent:
        raise DataError(
            f"{where}: has no {contrasts[source]}, which data.missing={stand_in} puts in place of others; add the file"
        )
    image_shwc = volume.image_shwc
    blank = [c for c, name in enumerate(contrasts) if name in volume.absent or _is_constant(image_shwc[..., c])]
    if source in blank:  # a constant volume is refused by preparation
        return volume
    if blank:
        image_shwc = image_shwc.copy()
        image_shwc[..., blank] = 0 if source is None else image_shwc[..., [source]]
    if source is None:
        missing = tuple(contrasts[c] for c in blank)
    else:
        filled = image_shwc[..., source]
        missing = tuple(
            name for c, name in enumerate(contrasts) if c != source and np.array_equal(image_shwc[..., c], filled)
        )
    word = "zeros stand" if source is None else f"{contrasts[source]} stands"
    remarks = [f"{name} is missing, {word} in for it" for name in missing]
    return replace(volume, image_shwc=image_shwc, remarks=(*volume.remarks, *remarks), absent=missing)


def _place_of(stand_in: str, contrasts: tuple[str, ...]) -> int | None:
    """The channel of the contrast; None of ZEROS. Raises DataError for another name."""
    if stand_in.lower() == ZEROS:
        return None
    names = [canonical(name) for name in contrasts]
    if canonical(stand_in) not in names:
        raise DataError(
            f"data.missing={stand_in} is none of the contrasts {', '.join(contrasts)}; name one of them, or {ZEROS}"
        )
    return names.index(canonical(stand_in))


def _is_constant(contrast_shw: NDArray[Any]) -> bool:
    return bool(contrast_shw.max() == contrast_shw.min())


def plain_slice_names(slices: int) -> tuple[str, ...]:
    """`slice_001`, ... for sources whose slices have no names of their own."""
    return tuple(f"slice_{number:03d}" for number in range(1, slices + 1))


def refuse_large(path: Path, shape: Sequence[int]) -> None:
    """Raises DataError for a file that says it holds more pixels, or voxels, than a scan has."""
    if max(shape, default=0) > MOST_SIDE or math.prod(shape) > MOST_VOXELS:
        raise DataError(
            f"{path}: {'x'.join(map(str, shape))} is more than a scan has, {MOST_SIDE} a side and {MOST_VOXELS} in all "
            "at most; export it again"
        )


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
