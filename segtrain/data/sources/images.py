"""Sources of slices in image files: paired with their masks, read as volumes, written.

Legend: s slice, h height, w width, c channel.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import LGG_CONTRASTS, DataConfig
from segtrain.data.sources.base import TRUTH, Check, Pixels, Volume, no_check
from segtrain.data.sources.kinds import spacing_of
from segtrain.data.sources.labels import LabelRules, ReadMask
from segtrain.data.sources.listing import digest_of_content, digest_of_times
from segtrain.data.sources.pixels import read_mask, read_slice
from segtrain.data.sources.remarks import LibraryRemarks
from segtrain.data.sources.slice_folders import SUFFIXES
from segtrain.errors import DataError

NIFTI_SUFFIXES = (".nii", ".nii.gz")

Key = TypeVar("Key", int, str)  # what identifies a slice within its patient


def add_file(files: dict[Key, Path], key: Key, path: Path) -> None:
    """Add the file of slice `key`. Raises DataError where the slice has one already."""
    if key in files:
        raise DataError(f"{path}: a second file for slice {key}, beside {files[key]}; keep one of them here")
    files[key] = path


def refuse_unpaired(images: Mapping[Key, Path], masks: Mapping[Key, Path]) -> None:
    """Raises DataError: a slice without mask, where others have one, or a mask without slice."""
    if not masks:
        return
    for key in sorted(images.keys() ^ masks.keys()):
        if key in images:
            path = images[key]
            raise DataError(f"{path}: slice {key} has no mask beside it; add {path.stem}_mask{path.suffix}")
        path = masks[key]
        raise DataError(
            f"{path}: mask {key} has no slice beside it; add {path.stem.removesuffix('_mask')}{path.suffix}"
        )


@dataclass(frozen=True)
class SliceFiles:
    """A patient's files in the order of the slices, and the slices' numbers; `masks` is empty where there are none.

    by_contrast: a file a slice for each contrast that the patient has, `images` being those of the first; empty where a
    file of `images` holds all contrasts. names: of the slices where their files' names are not these.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    numbers: tuple[int, ...]
    by_contrast: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def slice_names(self) -> tuple[str, ...]:
        """For the slices' pictures."""
        return self.names or tuple(path.stem for path in self.images)

    @property
    def by_role(self) -> dict[str, tuple[Path, ...]]:
        """The files of each contrast, or the images, and of the truth where there is one."""
        roles = dict(self.by_contrast) or {"image": self.images}
        return {**roles, TRUTH: self.masks} if self.masks else roles


@dataclass(frozen=True)
class SliceSource(ABC):
    """A source of slices in image files below `root`. Its layout says which files are whose: `patients`, `files`.

    cfg: what the config says of contrasts and of masks' values.
    """

    root: Path
    cfg: DataConfig = field(default_factory=DataConfig)

    @property
    def contrasts(self) -> tuple[str, ...]:
        return self.cfg.contrasts or LGG_CONTRASTS

    @property
    def rules(self) -> LabelRules:
        return LabelRules.of(self.cfg)

    @abstractmethod
    def patients(self) -> list[str]:
        """All patient ids, sorted. Raises DataError."""

    @abstractmethod
    def files(self, patient: str) -> SliceFiles:
        """The patient's files. Raises DataError for files that do not fit together."""

    def folder(self, patient: str) -> Path:
        """Where the patient's files are."""
        return self.root / patient

    def files_of(self, patient: str) -> Mapping[str, tuple[Path, ...]]:
        return self.files(patient).by_role

    def slices(self, patient: str) -> int:
        return len(self.files(patient).images)

    def fingerprint(self, check: Check = no_check) -> str:
        return digest_of_content(self.root, map(self.folder, self.patients()), check)

    def stamp(self) -> str:
        return digest_of_times(self.root, map(self.folder, self.patients()))

    def read(self, patient: str) -> Volume:
        files = self.files(patient)
        library = LibraryRemarks()
        image_shwc, absent = self._image(files, library)
        mask_slices = []
        label_voxels: Counter[int] = Counter()
        for path in files.masks:
            with library.on(path):
                mask = read_mask(path, self.rules)
            _refuse_other_size(path, mask.bits.shape, image_shwc.shape[1:3])
            mask_slices.append(mask.bits)
            _refuse_other_white(path, mask, label_voxels, self.rules)
        return Volume(
            image_shwc=image_shwc,
            mask_shw=np.stack(mask_slices) if mask_slices else None,
            slice_names=files.slice_names,
            slice_numbers=files.numbers,
            remarks=library.lines(),
            has_one_range=not files.by_contrast,
            absent=absent,
            spacing_mm=spacing_of(files.images[0]),
            label_voxels=dict(sorted(label_voxels.items())),
        )

    def _image(self, files: SliceFiles, library: LibraryRemarks) -> tuple[Pixels, tuple[str, ...]]:
        """[s, h, w, c] of all slices, and the contrasts that the patient lacks, which are 0 in it. Raises DataError."""
        if not files.by_contrast:
            volume = _stacked(files.images, len(self.contrasts), library)
            return (volume[..., None] if volume.ndim == 3 else volume), ()
        by_contrast = {name: _stacked(paths, 1, library) for name, paths in files.by_contrast.items()}
        first = next(iter(by_contrast.values()))
        for name, paths in files.by_contrast.items():
            _refuse_other_size(paths[0], by_contrast[name].shape[1:3], first.shape[1:3])
        if any(volume.dtype == np.uint16 for volume in by_contrast.values()):
            by_contrast = {name: _of_16_bits(volume) for name, volume in by_contrast.items()}
            first = next(iter(by_contrast.values()))
        channels = [by_contrast.get(name, np.zeros_like(first)) for name in self.contrasts]
        return np.stack(channels, axis=-1), tuple(name for name in self.contrasts if name not in by_contrast)

    def takes(self, name: str) -> bool:
        """Whether a file of this name is one of a slice or mask."""
        return name.lower().endswith(SUFFIXES)

    def institution(self, patient: str) -> str:
        """The second word of an id like TCGA_DU_5849_19950405."""
        parts = re.split("[-_]", patient)
        return parts[1] if len(parts) > 2 and parts[0] == "TCGA" else "unknown"

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """An image of 0 and 255 for each slice, in the slice's own format."""
        names = [f"{path.stem}_mask{path.suffix}" for path in self.files(patient).images]
        return write_masks(mask_shw, [folder / patient / name for name in names])

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return write_pages(probability_shw, folder / f"{patient}.tif")


def write_masks(mask_shw: NDArray[np.bool_], paths: Sequence[Path]) -> list[Path]:
    """Write each slice of the mask as an image of 0 and 255, into a folder that this creates; returns the files."""
    paths[0].parent.mkdir(parents=True)
    for path, mask_hw in zip(paths, mask_shw, strict=True):
        Image.fromarray(mask_hw.astype(np.uint8) * np.uint8(255)).save(path)
    return list(paths)


def write_pages(volume_shw: NDArray[np.float32], path: Path) -> Path:
    """Write a compressed TIFF with a page for each slice; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(plane_hw) for plane_hw in volume_shw)
    first.save(path, save_all=True, append_images=others, compression="tiff_adobe_deflate")
    return path


def _stacked(paths: Sequence[Path], channels: int, library: LibraryRemarks) -> Pixels:
    """The slices of the files, [s, h, w] of one channel, else [s, h, w, c]. Raises DataError where they differ."""
    slices: list[Pixels] = []
    for path in paths:
        with library.on(path):
            slices.append(read_slice(path, channels, is_mask=False))
        _refuse_other_size(path, slices[-1].shape, slices[0].shape)
        if slices[-1].dtype != slices[0].dtype:  # its grey levels mean something else
            raise DataError(
                f"{path}: pixels are {slices[-1].dtype}, but those of the patient's first slice are {slices[0].dtype}; "
                "export the patient's slices alike"
            )
    return np.stack(slices)


def _of_16_bits(volume: Pixels) -> Pixels:
    """White stays white."""
    return volume if volume.dtype == np.uint16 else volume.astype(np.uint16) * np.uint16(257)


def _refuse_other_size(path: Path, shape: Sequence[int], first: Sequence[int]) -> None:
    """Raises DataError for a file of another size than the patient's first slice."""
    if tuple(shape[:2]) != tuple(first[:2]):
        raise DataError(
            f"{path}: size {shape[0]}x{shape[1]}, but the patient's first slice has {first[0]}x{first[1]}; "
            "export the patient's slices at one size"
        )


def _refuse_other_white(path: Path, mask: ReadMask, before: Counter[int], rules: LabelRules) -> None:
    """Count the mask's values into `before`. Raises DataError where 1 is white here and 255 there."""
    whites, whites_before = rules.lesion_labels(mask.voxels), rules.lesion_labels(before)
    if rules.regions is None and len({*whites, *whites_before}) > 1:
        raise DataError(
            f"{path}: white is {whites[0]}, but {whites_before[0]} in the patient's masks before it; save all masks "
            "with 0 and 255"
        )
    before.update(mask.voxels)
