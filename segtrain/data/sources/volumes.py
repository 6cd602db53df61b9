"""Sources of NIfTI volumes: read as axial slices oriented like the published ones, masks written on the same grid.

nibabel permutes and flips whole axes as the affine says: slices from inferior to superior, rows from anterior to
posterior, columns from the patient's right to left. Nothing is interpolated, so an oblique or anisotropic volume comes
back exactly.

Legend: x, y, z the file's own axes; s slice, h height, w width, c channel.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from segtrain.config import DataConfig
from segtrain.data.sources.base import Check, Pixels, Volume, no_check, plain_slice_names
from segtrain.data.sources.cases import WHOLE, Case
from segtrain.data.sources.headers import open_volume, refuse_other_grid, size_of, two_orientations, voxels_of
from segtrain.data.sources.labels import LabelRules, any_label
from segtrain.data.sources.levels import BRIGHTEST_PERCENTILE, grey_levels
from segtrain.data.sources.listing import digest_of_contents, digest_of_states
from segtrain.data.sources.remarks import LibraryRemarks
from segtrain.errors import DataError

AXES = ("S", "P", "L")  # the directions of [s, h, w]: superior, posterior, left
NOT_SQUARE = 0.05  # difference of a pixel's sides, relative


@dataclass(frozen=True)
class Grid:
    """A patient's number of slices, and how axes are permuted and flipped from the file's to AXES and back."""

    slices: int
    to_slices: NDArray[Any]
    to_file: NDArray[Any]


@dataclass(frozen=True)
class VolumeSource(ABC):
    """Volumes below `root`. A subclass says which files are whose (`cases`), what contrasts and masks' values are."""

    root: Path
    cfg: DataConfig = field(default_factory=DataConfig)

    @property
    @abstractmethod
    def label(self) -> str:
        """The name of this data in outputs."""

    @property
    @abstractmethod
    def cases(self) -> Mapping[str, Case]:
        """Each patient's files, sorted by patient, their images by names of `contrasts`; found once. Raises DataError.

        A contrast that a case lacks is 0 in its volume, and named in `Volume.absent`.
        """

    @property
    @abstractmethod
    def contrasts(self) -> tuple[str, ...]:
        """The image's channels by name: the order of `Case.images`' and of a 4-D file's contrasts."""

    @property
    @abstractmethod
    def rules(self) -> LabelRules:
        """Its masks' values."""

    @property
    def files(self) -> Iterable[Path]:
        """What the source's volumes depend on: all files of its cases. Raises DataError."""
        return sorted({path for case in self.cases.values() for path in case.files})

    def patients(self) -> list[str]:
        return list(self.cases)

    def slices(self, patient: str) -> int:
        return self._grid(patient).slices

    def fingerprint(self, check: Check = no_check) -> str:
        return digest_of_contents(self.root, self.files, check)

    def stamp(self) -> str:
        return digest_of_states(self.root, self.files)

    def takes(self, name: str) -> bool:
        return any(path.name == name for path in self.files)

    def institution(self, patient: str) -> str:
        return "unknown"

    def read(self, patient: str) -> Volume:
        grid = self._grid(patient)
        case = self.cases[patient]
        library = LibraryRemarks()
        for path in case.files:
            open_volume(path, library)
        contrasts, absent, remarks = self._contrasts(case)
        image_shwc = np.ascontiguousarray(apply_orientation(np.stack(contrasts, axis=-1), grid.to_slices))
        mask_shw = None
        if case.truth is not None:
            labels_xyz = voxels_of(case.truth)
            if self.rules.regions is None:
                mask_xyz, of_labels = any_label(case.truth, labels_xyz)
                remarks += of_labels
            else:
                mask_xyz = self.rules.bits(case.truth, labels_xyz)
            mask_shw = np.ascontiguousarray(apply_orientation(mask_xyz, grid.to_slices))
        return Volume(
            image_shwc=image_shwc,
            mask_shw=mask_shw,
            slice_names=plain_slice_names(grid.slices),
            slice_numbers=tuple(range(1, grid.slices + 1)),
            remarks=(*remarks, *self._doubts(case), *library.lines()),
            absent=absent,
        )

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """One file, 0 and 1, with the affine and header of the patient's reference image."""
        path = self._reference(self.cases[patient])
        file = folder / f"{patient}_mask{path.name[len(stem_of(path)) :]}"
        return [self._save(patient, mask_shw.astype(np.uint8), file)]

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return self._save(patient, probability_shw, folder / f"{patient}.nii.gz")

    def _save(self, patient: str, volume_shw: NDArray[Any], file: Path) -> Path:
        image = open_volume(self._reference(self.cases[patient]))
        header = image.header.copy()
        header.set_data_dtype(volume_shw.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # the image's range of display
        volume_xyz = apply_orientation(volume_shw, self._grid(patient).to_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        with LibraryRemarks().on(file):
            nibabel.save(type(image)(volume_xyz, image.affine, header), file)
        return file

    def _reference(self, case: Case) -> Path:
        """The file whose grid and header the patient's masks get: FLAIR, which lesions are drawn on, or the first."""
        flair = next((path for name, path in case.images.items() if name.lower() == "flair"), None)
        return flair or next(iter(case.images.values()))

    def _grid(self, patient: str) -> Grid:
        """Raises DataError: another shape than is needed, files on different grids, an affine without volume."""
        case = self.cases[patient]
        path = self._reference(case)
        image = open_volume(path)
        shape, affine = image.shape, image.affine
        is_whole = WHOLE in case.images
        count = len(self.contrasts)
        if len(shape) < 3 or 0 in shape or shape[3:] != ((count,) if is_whole else ()):
            needed = (
                f"a volume [x, y, z, {count}] of {', '.join(self.contrasts)}" if is_whole else "one contrast [x, y, z]"
            )
            raise DataError(f"{path}: {size_of(shape)} voxels, but {needed} is needed; export it again")
        if not np.isfinite(affine).all():
            raise DataError(f"{path}: its affine has values that are not finite; mend the header")
        for other in case.files:
            if other != path:
                refuse_other_grid(other, path.name, shape[:3], affine)
        orientation = io_orientation(affine)
        if np.isnan(orientation).any():
            raise DataError(f"{path}: its affine has an axis without length; mend the header")
        target = axcodes2ornt(AXES)
        slices = shape[list(orientation[:, 0]).index(2)]
        return Grid(int(slices), ornt_transform(orientation, target), ornt_transform(target, orientation))

    def _contrasts(self, case: Case) -> tuple[list[Pixels], tuple[str, ...], list[str]]:
        """The contrasts [x, y, z], those that the case lacks (0 in their place), and remarks.

        8 bits as they are where all are; else 16 bits, since contrasts in units of their own share one range.
        """
        if whole := case.images.get(WHOLE):
            voxels = voxels_of(whole)
            by_name = {name: (f"{whole.name} {c}", voxels[..., c]) for c, name in enumerate(self.contrasts)}
        else:
            by_name = {name: (path.name, voxels_of(path)) for name, path in case.images.items()}
        absent = tuple(name for name in self.contrasts if name not in by_name)
        remarks = []
        if any(contrast.dtype != np.uint8 for _, contrast in by_name.values()):
            remarks.append(
                f"intensities scaled to 16 bits, each contrast's {BRIGHTEST_PERCENTILE}th percentile to 65535"
            )
            for name, (file, contrast) in by_name.items():
                scaled, doubts = grey_levels(contrast)
                by_name[name] = file, scaled
                remarks += [f"{file}: {doubt}" for doubt in doubts]
        _, like = next(iter(by_name.values()))
        return (
            [by_name[name][1] if name in by_name else np.zeros_like(like) for name in self.contrasts],
            absent,
            remarks,
        )

    def _doubts(self, case: Case) -> list[str]:
        """Remarks on headers: two orientations or none, pixels that are not square."""
        image = open_volume(self._reference(case))
        doubts = []
        if not image.header["sform_code"] and not image.header["qform_code"]:
            doubts.append("the header has no orientation, the third axis is taken for the slices")
        axes = list(io_orientation(image.affine)[:, 0])
        across, down = (voxel_sizes(image.affine)[axes.index(axis)] for axis in (0, 1))
        if not np.isclose(across, down, rtol=NOT_SQUARE):
            doubts.append(f"pixels of {across:.2f} x {down:.2f} mm, but networks are trained on square ones")
        return doubts + [doubt for path in case.files if (doubt := two_orientations(path))]


def stem_of(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
