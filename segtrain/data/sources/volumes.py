"""Sources of NIfTI volumes: read as axial slices oriented like the published ones, masks written on the same grid.

nibabel permutes and flips whole axes as the affine says: slices from inferior to superior, rows from anterior to
posterior, columns from the patient's right to left. Nothing is interpolated unless data.resample asks for it, so an
oblique or anisotropic volume comes back exactly.

Legend: x, y, z the file's own axes; s slice, h height, w width, c channel.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from segtrain.config import DataConfig, canonical
from segtrain.data.sources.base import TRUTH, Check, Volume, first_few, no_check, plain_slice_names
from segtrain.data.sources.cases import WHOLE, Case
from segtrain.data.sources.grids import Grid, brought_onto, differences, grid_of
from segtrain.data.sources.headers import doubt_of_orientation, open_volume, size_of, voxels_of
from segtrain.data.sources.labels import LabelRules, ReadMask
from segtrain.data.sources.listing import digest_of_contents, digest_of_states
from segtrain.data.sources.naming import stem_of
from segtrain.data.sources.remarks import LibraryRemarks
from segtrain.errors import DataError

MOST_CONTRASTS = 8  # a 4-D file of more volumes is a time series


@dataclass(frozen=True)
class VolumeSource(ABC):
    """Volumes below `root`. A subclass says which files are whose (`cases`), what contrasts and masks' values are.

    for_training: patients need a truth; else one is taken where there is one.
    """

    root: Path
    cfg: DataConfig = field(default_factory=DataConfig)
    for_training: bool = False

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

    def files_of(self, patient: str) -> Mapping[str, tuple[Path, ...]]:
        """The patient's files by role: contrasts by name, or `image` for all in one, and TRUTH."""
        case = self._case(patient)
        files = {name or "image": (path,) for name, path in case.images.items()}
        return files if case.truth is None else {**files, TRUTH: (case.truth,)}

    def patients(self) -> list[str]:
        return list(self.cases)

    def slices(self, patient: str) -> int:
        return self._grid(self._case(patient)).slices

    def doubts(self) -> Mapping[str, str]:
        """The patients of whom training has to ask which file is the truth, each with the question."""
        if not self.for_training:
            return {}
        return {patient: case.doubt for patient, case in self.cases.items() if case.doubt and not case.problem}

    def fingerprint(self, check: Check = no_check) -> str:
        return digest_of_contents(self.root, self.files, check)

    def stamp(self) -> str:
        return digest_of_states(self.root, self.files)

    def takes(self, name: str) -> bool:
        return any(path.name == name for path in self.files)

    def remarks(self) -> tuple[str, ...]:
        """What differs between the headers of its patients, as far as these can be read."""
        grids = {}
        for patient in self.patients():
            with suppress(DataError):  # told when the patient is read
                grids[patient] = grid_of(self._reference(self._case(patient)))[0]
        return tuple(differences(grids))

    def institution(self, patient: str) -> str:
        return "unknown"

    def read(self, patient: str) -> Volume:
        case = self._case(patient)
        if case.doubt and self.for_training:
            raise DataError(case.doubt)
        grid = self._grid(case)
        library = LibraryRemarks()
        for path in case.files:
            open_volume(path, library)
        contrasts, remarks = self._contrasts(case, grid)
        nothing = np.zeros(grid.shape, np.uint8)
        image_xyzc = np.stack([contrasts.get(name, nothing) for name in self.contrasts], axis=-1)
        mask_shw = None
        label_voxels: Mapping[int, int] = {}
        if case.truth is not None:
            truth = self._mask(case.truth)
            label_voxels = truth.voxels
            mask_shw = grid.to_slices(truth.bits)
            remarks += truth.remarks
        elif case.doubt:
            remarks.append(f"without truth: {case.doubt}")
        doubts = [doubt for path in case.files if (doubt := doubt_of_orientation(path))]
        return Volume(
            image_shwc=grid.to_slices(image_xyzc),
            mask_shw=mask_shw,
            slice_names=plain_slice_names(grid.slices),
            slice_numbers=tuple(range(1, grid.slices + 1)),
            remarks=(*remarks, *grid.doubts(), *doubts, *library.lines()),
            has_one_range=all(contrast.dtype == np.uint8 for contrast in contrasts.values()),
            absent=tuple(name for name in self.contrasts if name not in contrasts),
            spacing_mm=grid.spacing_mm,
            label_voxels=label_voxels,
        )

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """One file, 0 and 1, with the affine and header of the patient's reference file."""
        return [self._save(patient, mask_shw.astype(np.uint8), folder / f"{patient}_mask{self._ending(patient)}")]

    def write_labels(self, patient: str, labels_shw: NDArray[Any], folder: Path) -> list[Path]:
        """One file of labels, with the affine and header of the patient's reference file."""
        return [self._save(patient, labels_shw, folder / f"{patient}_labels{self._ending(patient)}")]

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return self._save(patient, probability_shw, folder / f"{patient}.nii.gz")

    def _save(self, patient: str, volume_shw: NDArray[Any], file: Path) -> Path:
        grid = self._grid(self._case(patient))
        image = open_volume(grid.path)
        header = image.header.copy()
        header.set_data_dtype(volume_shw.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # the image's range of display
        file.parent.mkdir(parents=True, exist_ok=True)
        with LibraryRemarks().on(file):
            nibabel.save(type(image)(grid.to_file(volume_shw), image.affine, header), file)
        return file

    def _ending(self, patient: str) -> str:
        path = self._reference(self._case(patient))
        return path.name[len(stem_of(path)) :]

    def _case(self, patient: str) -> Case:
        case = self.cases[patient]
        if case.problem:
            raise DataError(case.problem)
        return case

    def _reference(self, case: Case) -> Path:
        """The file whose grid is the patient's: the truth where images are brought onto it.

        Else FLAIR, which lesions are drawn on, or the first.
        """
        if self.cfg.resample and case.truth:
            return case.truth
        in_order = [case.images[name] for name in (WHOLE, *self.contrasts) if name in case.images]
        flair = next((path for name, path in case.images.items() if canonical(name) == "flair"), None)
        return in_order[0] if self.cfg.resample or flair is None else flair

    def _grid(self, case: Case) -> Grid:
        """Raises DataError: another shape than is needed, files on different grids, an affine without volume."""
        grid, _ = grid_of(self._reference(case))
        roles = [*case.images.items(), *([(TRUTH, case.truth)] if case.truth else [])]
        for name, path in roles:
            other, volumes = grid_of(path)
            self._refuse_other_count(path, volumes, case.names_in(name, self.contrasts))
            if not self.cfg.resample and not self._is_same(other, grid):
                raise DataError(
                    f"{path}: not on the grid of {grid.path.name} ({other.apart(grid)}); resample the patient's files "
                    "to one grid, or set data.resample=truth, which brings images onto the truth's"
                )
        return grid

    def _is_same(self, one: Grid, other: Grid) -> bool:
        """Whether voxels of the same place in two files are taken for the same place in the head."""
        return one.is_same(other)

    def _refuse_other_count(self, path: Path, volumes: int, names: tuple[str, ...]) -> None:
        """Raises DataError for a file that does not hold a volume for each name."""
        needed = len(names)
        if volumes == needed:
            return
        size = size_of(open_volume(path).shape)
        if volumes > MOST_CONTRASTS:
            raise DataError(f"{path}: {size} voxels, a time series of {volumes} volumes; export one volume of it")
        wanted = "one contrast [x, y, z]"
        if needed > 1:
            wanted = f"a volume [x, y, z, {needed}] of {', '.join(names)}"
        raise DataError(
            f"{path}: {size} voxels, but {wanted} is needed; export it again, or name its contrasts in data.contrasts"
        )

    def _contrasts(self, case: Case, grid: Grid) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """The contrasts that the case has, [x, y, z] on the grid, and remarks."""
        contrasts, remarks = {}, []
        for name, path in case.images.items():
            own, volumes = grid_of(path)
            voxels_xyzc = voxels_of(path).reshape(*own.shape, volumes)
            is_there = self._is_same(own, grid)
            if not is_there:
                remarks.append(f"{path.name}: brought onto the grid of {grid.path.name} ({own.apart(grid)}), linearly")
            for c, contrast in enumerate(case.names_in(name, self.contrasts)):
                voxels_xyz = voxels_xyzc[..., c]
                contrasts[contrast] = voxels_xyz if is_there else brought_onto(voxels_xyz, own, grid)
        return contrasts, remarks

    def _mask(self, path: Path) -> ReadMask:
        """A truth's file, [x, y, z]. Raises DataError for labels that nothing names."""
        grid, _ = grid_of(path)
        truth = self.rules.read_any(path, voxels_of(path).reshape(grid.shape))
        labels = self.rules.lesion_labels(truth.voxels)
        if self.for_training and self.rules.regions is None and len(labels) > 1:
            raise DataError(
                f"{path}: mask has labels {first_few(labels)}; say which are what in data.regions, as in "
                f"data.regions='{{lesion: {labels}}}'"
            )
        return truth
