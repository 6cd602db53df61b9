"""NIfTI volumes: read as axial slices oriented like the published ones, masks written on the volume's own grid.

nibabel permutes and flips whole axes as the affine says: slices from inferior to superior, rows from anterior to
posterior, columns from the patient's right to left. Nothing is interpolated, so an oblique or anisotropic volume comes
back exactly.

Legend: x, y, z the file's own axes; s slice, h height, w width.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from segtrain.config import LGG_CONTRASTS, DataConfig
from segtrain.data.sources.base import Check, Pixels, Volume, no_check, plain_slice_names
from segtrain.data.sources.headers import open_volume, refuse_other_grid, size_of, two_orientations, voxels_of
from segtrain.data.sources.images import NIFTI_SUFFIXES
from segtrain.data.sources.labels import LabelRules, any_label
from segtrain.data.sources.levels import BRIGHTEST_PERCENTILE, grey_levels
from segtrain.data.sources.listing import (
    digest_of_content,
    digest_of_times,
    escaped,
    folders_of,
    is_broken_link,
    refuse_odd_names,
    with_suffix,
)
from segtrain.data.sources.remarks import LibraryRemarks
from segtrain.errors import DataError

Role = Literal["volume", "pre", "flair", "post", "mask"]
ROLES: dict[str, Role] = {
    "pre": "pre", "t1": "pre", "t1n": "pre", "flair": "flair", "t2f": "flair", "post": "post", "t1ce": "post",
    "t1c": "post", "t1gd": "post", "mask": "mask", "seg": "mask",
}  # fmt: skip
ROLES_OF_CONTRASTS: tuple[Role, ...] = ("pre", "flair", "post")
UNUSED = ("t2", "t2w")  # other collections have it; the networks do not take it
NAME = re.compile(rf"^(?:(?P<patient>.+)[_-])?(?P<what>{'|'.join((*ROLES, *UNUSED))})$", re.IGNORECASE)
AXES = ("S", "P", "L")  # the directions of [s, h, w]: superior, posterior, left
NOT_SQUARE = 0.05  # difference of a pixel's sides, relative


@dataclass(frozen=True)
class Grid:
    """A patient's number of slices, and how axes are permuted and flipped from the file's to AXES and back."""

    slices: int
    to_slices: NDArray[Any]
    to_file: NDArray[Any]


@dataclass(frozen=True)
class NiftiSource:
    """For each patient a 4-D volume (three contrasts last) or a file for each contrast, in `root` or folders below it.

    `<patient>_pre|_t1|_t1n`, `_flair|_t2f`, `_post|_t1ce|_t1c|_t1gd`, the mask in `_mask|_seg`; a file named only
    `flair` belongs to the patient that its folder is named for. Without data.regions any label above 0 is lesion.
    """

    root: Path
    cfg: DataConfig = field(default_factory=DataConfig)

    @property
    def contrasts(self) -> tuple[str, ...]:
        return self.cfg.contrasts or LGG_CONTRASTS

    @property
    def rules(self) -> LabelRules:
        return LabelRules.of(self.cfg)

    @property
    def label(self) -> str:
        return f"NIfTI volumes in {escaped(str(self.root))}"

    @cached_property
    def _files(self) -> dict[str, dict[Role, Path]]:
        """Each patient's files. Raises DataError for files that do not fit together."""
        by_patient: dict[str, dict[Role, Path]] = {}
        for folder in (self.root, *folders_of(self.root)):
            if is_broken_link(folder):
                by_patient[folder.name] = {"flair": folder}  # opening it names the link
            for path in with_suffix(folder, NIFTI_SUFFIXES):
                match = NAME.match(_stem(path))
                role: Role = "volume"
                if match is not None:
                    if match["what"].lower() in UNUSED:
                        continue
                    role = ROLES[match["what"].lower()]
                patient = _stem(path) if match is None else match["patient"] or folder.resolve().name
                files = by_patient.setdefault(patient, {})
                if role in files:
                    raise DataError(
                        f"{path}: a second {role} of patient {patient}, beside {files[role]}; keep one of them here"
                    )
                files[role] = path
        for patient, files in by_patient.items():
            first = next(iter(files.values()))
            if "volume" not in files and "flair" not in files:
                raise DataError(
                    f"{first}: patient {patient} has no FLAIR; add {patient}_flair.nii.gz, or one volume of three"
                )
            if "volume" in files and len(files.keys() - {"mask"}) > 1:
                raise DataError(f"{files['volume']}: a volume beside files of contrasts; keep the one or the others")
        return dict(sorted(by_patient.items()))

    def patients(self) -> list[str]:
        if not self._files:
            raise DataError(
                f"{self.root}: 0 patients with FLAIR or a volume of three contrasts; add <patient>_flair.nii.gz"
            )
        refuse_odd_names(list(self._files), self.root)
        return list(self._files)

    def slices(self, patient: str) -> int:
        return self._grid(patient).slices

    def fingerprint(self, check: Check = no_check) -> str:
        return digest_of_content(self.root, (self.root, *folders_of(self.root)), check)

    def stamp(self) -> str:
        return digest_of_times(self.root, (self.root, *folders_of(self.root)))

    def takes(self, name: str) -> bool:
        path = Path(name)
        match = NAME.match(_stem(path))
        is_unused = match is not None and match["what"].lower() in UNUSED
        return name.lower().endswith(NIFTI_SUFFIXES) and not is_unused

    def institution(self, patient: str) -> str:
        return "unknown"

    def read(self, patient: str) -> Volume:
        grid = self._grid(patient)
        library = LibraryRemarks()
        for path in self._files[patient].values():
            open_volume(path, library)
        contrasts, remarks = self._contrasts(patient)
        image_shwc = np.ascontiguousarray(apply_orientation(np.stack(contrasts, axis=-1), grid.to_slices))
        mask_shw = None
        if mask := self._files[patient].get("mask"):
            labels_xyz = voxels_of(mask)
            if self.cfg.regions is None:
                mask_xyz, of_labels = any_label(mask, labels_xyz)
                remarks += of_labels
            else:
                mask_xyz = self.rules.bits(mask, labels_xyz)
            mask_shw = np.ascontiguousarray(apply_orientation(mask_xyz, grid.to_slices))
        return Volume(
            image_shwc=image_shwc,
            mask_shw=mask_shw,
            slice_names=plain_slice_names(grid.slices),
            slice_numbers=tuple(range(1, grid.slices + 1)),
            remarks=(*remarks, *self._doubts(patient), *library.lines()),
        )

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """One file, 0 and 1, with the affine and header of the patient's FLAIR or volume."""
        path = self._reference(patient)
        file = folder / f"{patient}_mask{path.name[len(_stem(path)) :]}"
        return [self._save(patient, mask_shw.astype(np.uint8), file)]

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return self._save(patient, probability_shw, folder / f"{patient}.nii.gz")

    def _save(self, patient: str, volume_shw: NDArray[Any], file: Path) -> Path:
        image = open_volume(self._reference(patient))
        header = image.header.copy()
        header.set_data_dtype(volume_shw.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # the image's range of display
        volume_xyz = apply_orientation(volume_shw, self._grid(patient).to_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        with LibraryRemarks().on(file):
            nibabel.save(type(image)(volume_xyz, image.affine, header), file)
        return file

    def _reference(self, patient: str) -> Path:
        """The file whose grid and header the patient's masks get."""
        files = self._files[patient]
        return files.get("volume") or files["flair"]

    def _grid(self, patient: str) -> Grid:
        """Raises DataError: another shape than is needed, files on different grids, an affine without volume."""
        path = self._reference(patient)
        image = open_volume(path)
        shape, affine = image.shape, image.affine
        needs_contrasts = "volume" in self._files[patient]
        if len(shape) < 3 or 0 in shape or shape[3:] != ((3,) if needs_contrasts else ()):
            needed = "a volume [x, y, z, 3] of three contrasts" if needs_contrasts else "one contrast [x, y, z]"
            raise DataError(f"{path}: {size_of(shape)} voxels, but {needed} is needed; export it again")
        if not np.isfinite(affine).all():
            raise DataError(f"{path}: its affine has values that are not finite; mend the header")
        for other in self._files[patient].values():
            if other != path:
                refuse_other_grid(other, path.name, shape[:3], affine)
        orientation = io_orientation(affine)
        if np.isnan(orientation).any():
            raise DataError(f"{path}: its affine has an axis without length; mend the header")
        target = axcodes2ornt(AXES)
        slices = shape[list(orientation[:, 0]).index(2)]
        return Grid(int(slices), ornt_transform(orientation, target), ornt_transform(target, orientation))

    def _contrasts(self, patient: str) -> tuple[list[Pixels], list[str]]:
        """Pre-contrast, FLAIR, post-contrast, [x, y, z] each, with FLAIR for a missing one; and remarks.

        8 bits as they are where all are; else 16 bits, since contrasts in units of their own share one range.
        """
        files = self._files[patient]
        if volume := files.get("volume"):
            voxels = voxels_of(volume)
            by_name = {f"{volume.name} {c}": voxels[..., c] for c in range(3)}
            names = list(by_name)
        else:
            by_name = {path.name: voxels_of(path) for role, path in files.items() if role != "mask"}
            names = [files.get(role, files["flair"]).name for role in ROLES_OF_CONTRASTS]
        if all(contrast.dtype == np.uint8 for contrast in by_name.values()):
            return [by_name[name] for name in names], []
        remarks = [f"intensities scaled to 16 bits, each contrast's {BRIGHTEST_PERCENTILE}th percentile to 65535"]
        scaled = {}
        for name, contrast in by_name.items():
            scaled[name], doubts = grey_levels(contrast)
            remarks += [f"{name}: {doubt}" for doubt in doubts]
        return [scaled[name] for name in names], remarks

    def _doubts(self, patient: str) -> list[str]:
        """Remarks on headers: two orientations or none, pixels that are not square."""
        image = open_volume(self._reference(patient))
        doubts = []
        if not image.header["sform_code"] and not image.header["qform_code"]:
            doubts.append("the header has no orientation, the third axis is taken for the slices")
        axes = list(io_orientation(image.affine)[:, 0])
        across, down = (voxel_sizes(image.affine)[axes.index(axis)] for axis in (0, 1))
        if not np.isclose(across, down, rtol=NOT_SQUARE):
            doubts.append(f"pixels of {across:.2f} x {down:.2f} mm, but networks are trained on square ones")
        return doubts + [doubt for path in self._files[patient].values() if (doubt := two_orientations(path))]


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
