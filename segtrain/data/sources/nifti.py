"""NIfTI volumes for `segtrain predict`: read as axial slices the way the networks saw them, masks back on their grid.

nibabel turns a volume by whole axes to where its affine says the body lies: slices from inferior to superior, rows from
anterior to posterior, as the published slices lie, columns from the patient's right to left. Nothing is interpolated,
so an oblique or anisotropic volume comes back exactly. Legend: x, y, z the file's own axes; s slice, h height, w width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from segtrain.data.sources.base import Input, with_all_contrasts
from segtrain.data.sources.images import NIFTI_SUFFIXES, folders_of, with_suffix
from segtrain.errors import DataError

Role = Literal["volume", "pre", "flair", "post", "mask"]
ROLES: dict[str, Role] = {
    "pre": "pre", "t1": "pre", "t1n": "pre", "flair": "flair", "t2f": "flair", "post": "post", "t1ce": "post",
    "t1c": "post", "t1gd": "post", "mask": "mask", "seg": "mask",
}  # fmt: skip
UNUSED = ("t2", "t2w")  # of the same patient in other collections; the networks do not take it
NAME = re.compile(rf"^(?:(?P<patient>.+)[_-])?(?P<what>{'|'.join((*ROLES, *UNUSED))})$", re.IGNORECASE)
AXES = ("S", "P", "L")  # of [s, h, w]: where each index grows to
BRIGHTEST_PERCENTILE = 99.9  # of a contrast's voxels above its darkest: 255 in 8 bits
SAME_GRID_MM = 1e-2
OBLONG = 0.05


@dataclass(frozen=True)
class NiftiInputs:
    """A 4-D volume a patient (three contrasts last), or a file a contrast, beside each other or in a folder a patient.

    `<patient>_pre|_t1|_t1n`, `_flair|_t2f`, `_post|_t1ce|_t1c|_t1gd`, truth in `_mask|_seg` (any label is lesion); a
    file named `flair` alone belongs to the patient that its folder is named for.
    """

    root: Path

    @property
    def label(self) -> str:
        return f"NIfTI volumes in {self.root}"

    @cached_property
    def _files(self) -> dict[str, dict[Role, Path]]:
        """By patient. Raises DataError for what does not fit together."""
        found: dict[str, dict[Role, Path]] = {}
        for folder in (self.root, *folders_of(self.root)):
            for path in with_suffix(folder, NIFTI_SUFFIXES):
                match = NAME.match(_stem(path))
                role: Role = "volume"
                if match is not None:
                    if match["what"].lower() in UNUSED:
                        continue
                    role = ROLES[match["what"].lower()]
                patient = _stem(path) if match is None else match["patient"] or folder.resolve().name
                files = found.setdefault(patient, {})
                if role in files:
                    raise DataError(f"{path}: a second {role} of patient {patient}; remove it or {files[role]}")
                files[role] = path
        for patient, files in found.items():
            some = next(iter(files.values()))
            if "volume" not in files and "flair" not in files:
                raise DataError(
                    f"{some}: patient {patient} has no FLAIR; add {patient}_flair.nii.gz, or one volume of three"
                )
            if "volume" in files and len(files.keys() - {"mask"}) > 1:
                raise DataError(f"{files['volume']}: a volume beside files of contrasts; keep the one or the others")
        return dict(sorted(found.items()))

    def slices(self) -> dict[str, int]:
        return {patient: self._grid(patient)[0] for patient in self._files}

    def read(self, patient: str) -> Input:
        slices, there, _ = self._grid(patient)
        contrasts, remarks = self._contrasts(patient)
        image_shwc = apply_orientation(np.stack(contrasts, axis=-1), there)
        image_shwc, missing = with_all_contrasts(np.ascontiguousarray(image_shwc))
        truth_shw = None
        if mask := self._files[patient].get("mask"):
            labels_xyz = _voxels(mask)
            truth_shw = np.ascontiguousarray(apply_orientation(labels_xyz > 0, there))
            if len(others := np.unique(labels_xyz[labels_xyz > 0])) > 1:
                remarks.append(f"labels {', '.join(f'{label:g}' for label in others)} all count as lesion")
        numbers = tuple(range(1, slices + 1))
        names = tuple(f"slice_{number:03d}" for number in numbers)
        return Input(image_shwc, truth_shw, names, numbers, (*remarks, *self._doubts(patient), *missing))

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """One file, 0 and 1, with the affine and header of the patient's FLAIR or volume."""
        path = self._reference(patient)
        file = folder / f"{patient}_mask{path.name[len(_stem(path)) :]}"
        return [self._save(patient, mask_shw.astype(np.uint8), file)]

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return self._save(patient, probability_shw, folder / f"{patient}.nii.gz")

    def _save(self, patient: str, volume_shw: NDArray[Any], file: Path) -> Path:
        image = _open(self._reference(patient))
        header = image.header.copy()
        header.set_data_dtype(volume_shw.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # of the image's intensities
        volume_xyz = apply_orientation(volume_shw, self._grid(patient)[2])
        file.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(type(image)(volume_xyz, image.affine, header), file)
        return file

    def _reference(self, patient: str) -> Path:
        files = self._files[patient]
        return files.get("volume") or files["flair"]

    def _grid(self, patient: str) -> tuple[int, NDArray[Any], NDArray[Any]]:
        """Slices, and how the file's axes are turned to AXES and back. Raises DataError: files on other grids."""
        path = self._reference(patient)
        image = _open(path)
        shape, affine = image.shape, image.affine
        wanted = (3,) if self._files[patient].get("volume") else ()
        if shape[3:] != wanted:
            what = "a volume [x, y, z, 3] of three contrasts" if wanted else "one contrast [x, y, z]"
            raise DataError(f"{path}: {_size(shape)} voxels, but {what} is needed; export it again")
        for other in self._files[patient].values():
            theirs = _open(other)
            if other != path and (
                theirs.shape != shape[:3] or not np.allclose(theirs.affine, affine, rtol=0, atol=SAME_GRID_MM)
            ):
                raise DataError(
                    f"{other}: not on the grid of {path.name} ({_size(theirs.shape)} and {_size(shape[:3])} voxels, or "
                    "another affine); bring the patient's files to one grid first"
                )
        orientation = io_orientation(affine)
        if np.isnan(orientation).any():
            raise DataError(f"{path}: its affine has an axis without length; mend the header")
        aimed = axcodes2ornt(AXES)
        slices = shape[list(orientation[:, 0]).index(2)]
        return int(slices), ornt_transform(orientation, aimed), ornt_transform(aimed, orientation)

    def _contrasts(self, patient: str) -> tuple[list[NDArray[np.uint8]], list[str]]:
        """Pre-contrast, FLAIR, post-contrast, uint8 [x, y, z] each, a missing one as FLAIR; what was done to them."""
        files = self._files[patient]
        if volume := files.get("volume"):
            voxels = _voxels(volume)
            found = [voxels[..., c] for c in range(3)]
        else:
            flair = _voxels(files["flair"])
            found = [_voxels(files[role]) if role in files else flair for role in ("pre", "flair", "post")]
        remarks = []
        if any(contrast.dtype != np.uint8 for contrast in found):
            remarks.append(f"intensities scaled to 8 bits, each contrast's {BRIGHTEST_PERCENTILE}th percentile to 255")
        return [_in_8_bits(contrast) for contrast in found], remarks

    def _doubts(self, patient: str) -> list[str]:
        """What the header leaves in doubt."""
        image = _open(self._reference(patient))
        doubts = []
        if not image.header["sform_code"] and not image.header["qform_code"]:
            doubts.append("the header has no orientation, the third axis is taken for the slices")
        axes = list(io_orientation(image.affine)[:, 0])
        across, down = (voxel_sizes(image.affine)[axes.index(axis)] for axis in (0, 1))
        if not np.isclose(across, down, rtol=OBLONG):
            doubts.append(f"pixels of {across:.2f} x {down:.2f} mm, but networks are trained on square ones")
        return doubts


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _open(path: Path) -> Any:
    """The header, and voxels when they are asked for. Raises DataError."""
    try:
        return nibabel.load(path)
    except Exception as error:  # nibabel raises what gzip, zlib and struct do
        raise _broken(path, error) from error


def _voxels(path: Path) -> NDArray[Any]:
    """As they are meant, scale factors applied. Raises DataError: unreadable, no numbers, not finite."""
    try:
        voxels: NDArray[Any] = np.asanyarray(_open(path).dataobj)
    except DataError:
        raise
    except Exception as error:
        raise _broken(path, error) from error
    if voxels.dtype.kind not in "biuf":
        raise DataError(f"{path}: voxels are {voxels.dtype}, but numbers are needed; export it again")
    if not np.isfinite(voxels).all():
        raise DataError(f"{path}: has voxels that are not finite; replace them and export it again")
    return voxels


def _broken(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path}: not a readable NIfTI file ({reason[:80]}); copy the file again")


def _in_8_bits(contrast_xyz: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit voxels as they are; others from the darkest to BRIGHTEST_PERCENTILE on 0 to 255; 0 where all are alike."""
    if contrast_xyz.dtype == np.uint8:
        return contrast_xyz
    values = contrast_xyz.astype(np.float32)
    low = values.min()
    if not (values > low).any():
        return np.zeros(values.shape, np.uint8)
    high = np.percentile(values[values > low], BRIGHTEST_PERCENTILE)
    scaled: NDArray[np.float32] = (values - low) * np.float32(255 / (high - low))
    return scaled.clip(0, 255).round().astype(np.uint8)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
