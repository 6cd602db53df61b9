"""Slices with those above and below them as channels (2.5D): the next ones, or those at a distance in mm.

Where no slice lies at that distance, the nearest is taken, not a mean of two: every channel is a slice as it was
acquired, with its noise and sharpness, and is at most half a slice off. (DeepLesion's programs interpolate linearly:
github.com/rsummers11/CADLab, LesaNet/load_ct_img.py.)

Legend: s slice, n slices of a window, h height, w width.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from segtrain.config import DataConfig
from segtrain.data.store import Store
from segtrain.errors import DataError

log = logging.getLogger(__name__)

HALFWAY = 1e-3  # in slices: spacings of float32 files differ in the last digits, and so would what is nearest

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """Slices on each side of one: the next ones, or those nearest to multiples of `mm`."""

    each_side: int = 0
    mm: float | None = None

    @classmethod
    def of(cls, cfg: DataConfig) -> "Neighbours":
        """Those of a config."""
        return cls(cfg.neighbours, cfg.neighbours_mm)

    def offsets(self, spacing_mm: Sequence[float] | None = None, where: str = "") -> Offsets:
        """Numbers [2 * each_side + 1] of slices from a slice to its channels, from below to above.

        Raises DataError: a distance in mm, and the spacing of `where` is not known.
        """
        if self.mm is None or not self.each_side:
            return _offsets(self.each_side, 1.0)
        between_mm = _between_slices(spacing_mm)
        if between_mm is None:
            raise DataError(
                f"{where}: the distance of its slices is not known, so data.neighbours_mm={self.mm:g} says nothing; "
                "leave data.neighbours_mm out, and data.neighbours counts slices, or use data that have it (the "
                "header of NIfTI, spacing_mm of a source of your own, data.phantom.spacing_mm)"
            )
        return _offsets(self.each_side, self.mm / between_mm)


def window(
    store: Store, patient: str, number: int, neighbours: Neighbours
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """A slice with its neighbours as channels, and its mask; slices that lie together are one read."""
    size, (slices,) = store.size_px, store.columns.slices_of([patient]).values()
    (spacing_mm,) = store.columns.spacings_of([patient]).values()
    offsets = neighbours.offsets(spacing_mm, f"patient {patient}")
    numbers, place = np.unique(neighbours_of(number, slices, offsets), return_inverse=True)
    shape = len(numbers), size, size
    image_shwc, mask_shw = np.empty((*shape, len(store.contrasts)), np.float16), np.empty(shape, np.uint8)
    ends = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
    for first, end in pairwise(ends):
        store.read(patient, int(numbers[first]), image_shwc[first:end], mask_shw[first:end])
    return as_channels(image_shwc[place]), mask_shw[place[neighbours.each_side]]


def neighbours_of(number: int, slices: int, offsets: Offsets) -> NDArray[np.int64]:
    """Indices of the slices around slice `number`, from below to above; edges repeat."""
    return np.clip(number + offsets, 0, slices - 1)


def as_channels(window_nhwc: NDArray[np.float16]) -> NDArray[np.float16]:
    """Slices [n, h, w, c] as the channels of one image [h, w, c * n], slice by slice."""
    n, height, width, contrasts = window_nhwc.shape
    return np.moveaxis(window_nhwc, 0, 2).reshape(height, width, n * contrasts)


def with_neighbours(volume_shwc: NDArray[np.float16], offsets: Offsets) -> NDArray[np.float16]:
    """Each slice with those above and below it as channels (2.5D): [s, h, w, c * n]."""
    if len(offsets) == 1:
        return volume_shwc
    slices = len(volume_shwc)
    return np.stack([as_channels(volume_shwc[neighbours_of(z, slices, offsets)]) for z in range(slices)])


def refuse_unknown_distances(cfg: DataConfig, store: Store, patients: Iterable[str]) -> None:
    """Raises DataError where neighbours are at a distance in mm, and it is not known of a patient."""
    neighbours = Neighbours.of(cfg)
    for patient, spacing_mm in store.columns.spacings_of(sorted(patients)).items():
        neighbours.offsets(spacing_mm, f"patient {patient}")


def log_distances(cfg: DataConfig, store: Store) -> None:
    """Log how many slices away neighbours at a distance in mm are, and whose slices are too thick for it."""
    between = [mm for mm in store.columns.spacing_mm[:, 0].tolist() if not math.isnan(mm)]
    if cfg.neighbours_mm is None or not between:
        return
    steps = [int(_offsets(1, cfg.neighbours_mm / mm)[-1]) for mm in between]
    log.info(
        "data.neighbours_mm=%g: the first neighbour is %d to %d slices away (slices are %g to %g mm apart)",
        cfg.neighbours_mm,
        min(steps),
        max(steps),
        min(between),
        max(between),
    )
    if thick := steps.count(0):
        log.warning(
            "data.neighbours_mm=%g: slices of %d patients are more than twice as far apart, so that a slice is its own "
            "first neighbour there; a larger data.neighbours_mm reaches the next one",
            cfg.neighbours_mm,
            thick,
        )


def _between_slices(spacing_mm: Sequence[float] | None) -> float | None:
    """The distance of slices in mm; None where it is not known."""
    if spacing_mm is None or not (math.isfinite(spacing_mm[0]) and spacing_mm[0] > 0):
        return None
    return spacing_mm[0]


@lru_cache(maxsize=1024)
def _offsets(each_side: int, step: float) -> Offsets:
    """The nearest slices to multiples of `step` slices; of two as near, the one nearer to the middle."""
    number = np.arange(-each_side, each_side + 1)
    return (np.sign(number) * np.ceil(np.abs(number) * step - 0.5 - HALFWAY)).astype(np.int64)
