"""Masks' values as bits of regions: black and white, or the labels that the rules name; anything else is refused."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import IGNORED, LESION, DataConfig, MaskLayout
from segtrain.data.sources.base import first_few
from segtrain.errors import DataError

BINARISE = "save it as black and white"
WHITES = (1, 255, 65535)
WHOLE = 1e-3  # how far from a whole number a label of a float file may be
HIGHEST = 2**31 - 1  # label
COUNTABLE = 1 << 16  # labels below it are counted by a table, which takes a tenth of the time of sorting


@dataclass(frozen=True)
class ReadMask:
    """A mask's file: the bits of regions, the voxels of each of its values, and what reading it changed."""

    bits: NDArray[np.uint8]
    voxels: Mapping[int, int]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelRules:
    """What the values of masks are.

    regions: the labels of each; None: one region, in black and white. ignore: labels of voxels that nobody knows.
    remap: labels that are read as others. soft_above: masks of fractions have label 1 above it.
    """

    regions: Mapping[str, tuple[int, ...]] | None = None
    ignore: tuple[int, ...] = ()
    remap: Mapping[int, int] | None = None
    soft_above: float | None = None

    @classmethod
    def of(cls, cfg: DataConfig) -> "LabelRules":
        """The rules of a config."""
        return cls(cfg.regions, cfg.ignore, cfg.remap, cfg.soft_above)

    @property
    def layout(self) -> MaskLayout:
        """What a mask's bits are."""
        ignores = bool(self.ignore)
        return MaskLayout(ignores=ignores) if self.regions is None else MaskLayout(tuple(self.regions), ignores)

    def bits(self, path: Path, values: NDArray[Any]) -> NDArray[np.uint8]:
        """uint8: the regions of each voxel of a mask's file. Raises DataError for a value that no rule names."""
        return self.read(path, values).bits

    def read(self, path: Path, values: NDArray[Any]) -> ReadMask:
        """A mask's file. Raises DataError for a value that no rule names."""
        labels, remarks = self._labels(path, values)
        voxels = voxels_of_labels(labels)
        if self.regions is None:
            self._refuse_colours(path, voxels)
        else:
            self._refuse_unnamed(path, voxels)
            self._refuse_remap(path, voxels)
        return ReadMask(self._bits(labels, voxels), voxels, remarks)

    def read_any(self, path: Path, values: NDArray[Any]) -> ReadMask:
        """A mask's file, of which without regions every label is lesion: for prediction, and one label in training."""
        if self.regions is not None:
            return self.read(path, values)
        labels, remarks = self._labels(path, values)
        voxels = voxels_of_labels(labels)
        lesion = self.lesion_labels(voxels)
        if len(lesion) > 1:
            remarks += (f"labels {first_few(lesion)} all count as lesion",)
        return ReadMask(self._bits(labels, voxels), voxels, remarks)

    def bits_of(self, label: int) -> int:
        """The bits of a label's voxels."""
        label = (self.remap or {}).get(label, label)
        if label in self.ignore:
            return IGNORED
        if self.regions is None:
            return int(label > 0)
        return sum(1 << number for number, labels in enumerate(self.regions.values()) if label in labels)

    def lesion_labels(self, labels: Iterable[int]) -> list[int]:
        """Those of the labels that are neither background nor ignored, sorted."""
        return sorted(label for label in labels if label and label not in self.ignore)

    def meaning(self, label: int) -> str:
        """What a label of the files is, in words."""
        bits = self.bits_of(label)
        names = [name for number, name in enumerate(self.regions or (LESION,)) if bits >> number & 1]
        word = "ignored" if bits == IGNORED else ", ".join(names) or "background"
        read_as = (self.remap or {}).get(label)
        return word if read_as is None else f"{word} (read as {read_as})"

    def remapped_into_use(self, labels: Mapping[int, Any]) -> Iterator[tuple[int, int]]:
        """The remapped labels among `labels`, each with its target, whose target is among them as itself."""
        remap = self.remap or {}
        for label, target in remap.items():
            if label in labels and target in labels and target not in remap:
                yield label, target

    def _bits(self, labels: NDArray[Any], voxels: Mapping[int, int]) -> NDArray[np.uint8]:
        if self.regions is None and not self.ignore and not self.remap:
            return (labels > 0).astype(np.uint8)
        if max(voxels) < COUNTABLE:
            table = np.zeros(max(voxels) + 1, np.uint8)
            for label in voxels:
                table[label] = self.bits_of(label)
            return np.asarray(table[labels])
        bits = np.zeros(labels.shape, np.uint8)
        for label in voxels:
            bits[labels == label] = self.bits_of(label)
        return bits

    def _labels(self, path: Path, values: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
        """The values as whole numbers, and what was made of fractions. Raises DataError for what are no labels."""
        if values.dtype == np.bool_:
            return values.astype(np.uint8), ()
        is_float = values.dtype.kind == "f"
        if is_float and not np.isfinite(values).all():
            raise DataError(f"{path}: mask has values that are not finite; set them to 0 and save it again")
        lowest, highest = values.min(), values.max()
        if lowest < -WHOLE or highest > HIGHEST:
            odd = np.unique(values[(values < -WHOLE) | (values > HIGHEST)])
            raise DataError(
                f"{path}: mask has values {_shown(odd)}, but labels are whole numbers from 0 up; set them to 0 and "
                "save it again"
            )
        if not is_float:
            return values, ()
        rounded = np.rint(values)
        distance = float(np.abs(values - rounded).max())
        if distance > WHOLE:
            return self._soft(path, values)
        remarks = (f"{path.name}: values up to {distance:.1g} off whole numbers are rounded",) if distance else ()
        return rounded.astype(np.int32), remarks

    def _soft(self, path: Path, values: NDArray[Any]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """1 where a mask of fractions is above `soft_above`."""
        if self.soft_above is None:
            fractions = np.unique(values[np.abs(values - np.rint(values)) > WHOLE])
            raise DataError(
                f"{path}: mask has values {_shown(fractions)}, but labels are whole numbers from 0 up; save it with "
                "labels, or say where the lesion is in it, as in data.soft_above=0.5"
            )
        if (highest := values.max()) > 1 + WHOLE:
            raise DataError(
                f"{path}: soft mask has values up to {highest:g}, but data.soft_above={self.soft_above:g} is for "
                "fractions from 0 to 1; divide it by its range and save it again"
            )
        is_lesion = (values > self.soft_above).astype(np.uint8)
        return is_lesion, (f"{path.name}: soft mask, lesion where it is above {self.soft_above:g}",)

    def _refuse_colours(self, path: Path, voxels: Mapping[int, int]) -> None:
        """Raises DataError for a mask that is not in black and white."""
        if not any(voxels.keys() <= {0, white, *self.ignore} for white in WHITES):
            raise DataError(
                f"{path}: mask has values {first_few(list(voxels))}, but only 0 and 255 (or 0 and 1) are taken; "
                f"{BINARISE}, or name the labels of the lesion, as in data.regions='{{lesion: [1, 2]}}'"
            )

    def _refuse_unnamed(self, path: Path, voxels: Mapping[int, int]) -> None:
        """Raises DataError for a label in no region that is not ignored."""
        unnamed = [label for label in voxels if label and not self.bits_of(label)]
        if not unnamed:
            return
        assert self.regions is not None
        named = sorted({label for labels in self.regions.values() for label in labels})
        unused = [label for label in named if label not in voxels]
        region = next((name for name, labels in self.regions.items() if set(labels) <= set(unused)), LESION)
        raise DataError(
            f"{path}: mask has values {first_few(list(voxels))}, but data.regions names {first_few(named)}, and "
            f"{unnamed[0]} belongs to no region; list it in a region, as in data.regions='{{{region}: "
            f"[{unnamed[0]}]}}', or in data.ignore, or read it as another, as in data.remap='{{{unnamed[0]}: "
            f"{(unused or named)[0]}}}'"
        )

    def _refuse_remap(self, path: Path, voxels: Mapping[int, int]) -> None:
        for label, target in self.remapped_into_use(voxels):
            raise DataError(
                f"{path}: mask has values {first_few(list(voxels))}, so data.remap={{{label}: {target}}} would mix "
                f"label {label} with label {target}, which is in use; leave it out, and list {label} in a region"
            )


def voxels_of_labels(labels: NDArray[Any]) -> dict[int, int]:
    """The number of voxels of each label, by label."""
    # Most masks have two values, which are counted in a tenth of the time.
    highest = int(labels.max())
    zeros = labels.size - int(np.count_nonzero(labels))
    of_highest = int(np.count_nonzero(labels == highest)) if highest else 0
    if zeros + of_highest == labels.size:
        return {label: count for label, count in ((0, zeros), (highest, of_highest)) if count}
    if highest < COUNTABLE:
        counts = np.bincount(labels.ravel())
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
    found, each = np.unique(labels, return_counts=True)
    return dict(zip(found.tolist(), each.tolist(), strict=True))


def _shown(values: NDArray[Any]) -> str:
    return first_few([f"{value:g}" for value in values])
