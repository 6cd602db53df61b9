"""Masks' values as bits of regions: black and white, or the labels that the rules name; anything else is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import IGNORED, DataConfig, MaskLayout
from segtrain.data.sources.base import first_few
from segtrain.errors import DataError

BINARISE = "save it as black and white"
WHITES = (1, 255, 65535)


@dataclass(frozen=True)
class LabelRules:
    """What the values of masks are. regions: the labels of each; None: one region, in black and white."""

    regions: Mapping[str, tuple[int, ...]] | None = None
    ignore: tuple[int, ...] = ()

    @classmethod
    def of(cls, cfg: DataConfig) -> "LabelRules":
        """The rules of a config."""
        return cls(cfg.regions, cfg.ignore)

    @property
    def layout(self) -> MaskLayout:
        """What a mask's bits are."""
        ignores = bool(self.ignore)
        return MaskLayout(ignores=ignores) if self.regions is None else MaskLayout(tuple(self.regions), ignores)

    def bits(self, path: Path, values: NDArray[Any]) -> NDArray[np.uint8]:
        """uint8: the regions of each voxel of a mask's file. Raises DataError for a value that no rule names."""
        if self.regions is None:
            return _black_and_white(path, values)
        return self._labelled(path, values, self.regions)

    def _labelled(self, path: Path, values: NDArray[Any], regions: Mapping[str, tuple[int, ...]]) -> NDArray[np.uint8]:
        named = sorted({label for labels in regions.values() for label in labels})
        found = np.unique(values)
        if not np.isin(found, (0, *named, *self.ignore)).all():
            raise DataError(
                f"{path}: mask has values {first_few(found.tolist())}, but data.regions names {first_few(named)}; "
                "name there all that are lesion, and set the rest to 0"
            )
        bits = np.zeros(values.shape, np.uint8)
        for number, labels in enumerate(regions.values()):
            bits[np.isin(values, labels)] |= np.uint8(1 << number)
        if self.ignore:
            bits[np.isin(values, self.ignore)] = IGNORED
        return bits


def _black_and_white(path: Path, values: NDArray[Any]) -> NDArray[np.uint8]:
    found = np.unique(values)
    if not any(set(found.tolist()) <= {0, white} for white in WHITES):
        raise DataError(
            f"{path}: mask has values {first_few(found.tolist())}, but only 0 and 255 (or 0 and 1) are taken; "
            f"{BINARISE}, or name the labels of the lesion, as in data.regions='{{lesion: [1, 2]}}'"
        )
    return (values > 0).astype(np.uint8)


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
