"""nnU-Net's raw layout, versions 1 and 2, and the Medical Segmentation Decathlon: a dataset.json says what is what."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from segtrain.config import canonical
from segtrain.config.label_names import DATASET_JSON, IGNORE
from segtrain.config.regions import MOST_REGIONS
from segtrain.data.people import people_of
from segtrain.data.sources.base import Volume, first_few
from segtrain.data.sources.cases import WHOLE, Case
from segtrain.data.sources.dataset_json import DatasetJson, Listed, dataset_json_of, ending_of, read_dataset_json
from segtrain.data.sources.grids import Grid, grid_of
from segtrain.data.sources.headers import SAME_GRID_MM
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.listing import escaped, refuse_odd_names, with_suffix
from segtrain.data.sources.volumes import VolumeSource
from segtrain.errors import LEAVE_OUT, DataError

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)
# What ids of one person's scans differ in: sessions, time points, follow-ups.
SCAN = re.compile(r"(?P<stem>.*\d.*)[-_](?:\d{1,3}|[a-z]|(?:T|FU|ses-?)\d+)", re.DOTALL | re.IGNORECASE)
MOST_SCANS = 20  # of a person; more ids of one stem are of a site or a year


@dataclass(frozen=True)
class Files:
    """A case's images by channel, or the one file of all channels; its label."""

    images: Mapping[int, Path]
    label: Path | None = None
    is_whole: bool = False


@dataclass(frozen=True)
class NnunetSource(VolumeSource):
    """The training cases of the data set `root`; or, without a dataset.json in it, all images in the folder `root`.

    The latter are as in imagesTs, for prediction, with labels in a folder beside, such as labelsTs. Their channels are
    those of the dataset.json beside the folder, or else of the data that the run was trained on.
    """

    @property
    def label(self) -> str:
        return f"nnU-Net cases in {escaped(str(self.root))}"

    @cached_property
    def about(self) -> DatasetJson:
        """What dataset.json says. Raises DataError."""
        path = dataset_json_of(self.root, self.cfg.root)
        if self.for_training and (path is None or path.parent != self.root):
            raise DataError(f"{self.root}: no {DATASET_JSON} in it; set data.root to the folder of the data set")
        if path is None:
            raise DataError(
                f"{self.root}: no {DATASET_JSON} in it or beside it, so nobody knows its channels; copy that of the "
                "training data into it"
            )
        return read_dataset_json(path)

    @property
    def is_data_set(self) -> bool:
        """Whether the folder is a data set, not one of images."""
        return self.about.path.parent == self.root

    @property
    def contrasts(self) -> tuple[str, ...]:
        """By name, in the order of dataset.json or of data.contrasts."""
        channels = self.about.channels
        if self.cfg.contrasts is None:
            return channels
        contrasts = tuple(map(canonical, self.cfg.contrasts))
        if unknown := [name for name in contrasts if name not in channels]:
            raise DataError(
                f"{self.about.path}: has the channels {', '.join(channels)}, but data.contrasts names {unknown[0]}; "
                "choose among the channels"
            )
        return contrasts

    @property
    def rules(self) -> LabelRules:
        """Those of the config; where it is silent, a region for each name in dataset.json."""
        rules = LabelRules.of(self.cfg)
        regions, ignore = rules.regions or self.about.regions, rules.ignore or self.about.ignore
        if not 1 <= len(regions) <= MOST_REGIONS:
            raise DataError(
                f"{self.about.path}: names {len(regions)} labels besides background, but from 1 to {MOST_REGIONS} "
                "regions can be trained together; say which labels make which, as in data.regions='{lesion: [1, 2]}'"
            )
        if both := [(label, name) for name, labels in regions.items() for label in labels if label in ignore]:
            raise DataError(
                f"{self.about.path}: label {both[0][0]} is {IGNORE}, but data.regions has it in {both[0][1]}; leave it "
                "out of the region"
            )
        return replace(rules, regions=regions, ignore=ignore)

    @cached_property
    def _found(self) -> dict[str, Files]:
        """Each case's files, sorted by case. Raises DataError."""
        about = self.about
        images = self.root / "imagesTr" if self.is_data_set else self.root
        labels = self.root / "labelsTr" if self.is_data_set else _labels_beside(self.root)
        if self.is_data_set and about.listed:
            in_folder = {} if all(files.images for files in about.listed.values()) else self._in_folder(images)
            cases = {case: _listed(case, files, in_folder) for case, files in about.listed.items()}
        else:
            cases = self._in_folder(images)
            cases = {case: replace(files, label=self._label(labels, case)) for case, files in cases.items()}
        if self.for_training and about.count not in (None, len(cases)):
            raise DataError(
                f"{about.path}: numTraining is {about.count}, but {len(cases)} cases are there "
                f"({first_few(sorted(cases))}); restore the others, or correct it"
            )
        return dict(sorted(cases.items()))

    def _in_folder(self, folder: Path) -> dict[str, Files]:
        """The cases of a folder of images, without their labels. Raises DataError for other names."""
        about = self.about
        images: dict[str, dict[int, Path]] = defaultdict(dict)
        for path in with_suffix(folder, about.endings):
            stem = path.name.removesuffix(ending_of(path.name, about.endings))
            if about.is_whole:
                images[stem][0] = path
            elif match := CHANNEL.fullmatch(stem):
                images[match["case"]][int(match["channel"])] = path
            else:
                raise DataError(
                    f"{path}: not named <case>_<channel of 4 digits>{about.endings[0]}; rename it, as in {stem}_0000, "
                    "or move it elsewhere"
                )
        return {case: Files(paths, is_whole=about.is_whole) for case, paths in images.items()}

    def _label(self, folder: Path, case: str) -> Path | None:
        paths = [folder / f"{case}{ending}" for ending in self.about.endings]
        there = next((path for path in paths if path.exists() or path.is_symlink()), None)
        return there or (paths[-1] if self.for_training else None)

    def _problem(self, case: str, files: Files) -> str:
        """What is wrong with a case's files by their names; empty where nothing is."""
        channels = self.about.channels
        if absent := [path for path in (*files.images.values(), files.label) if path and not _is_there(path)]:
            return f"{absent[0]}: is not there, but it is a file of case {case}; restore it or {LEAVE_OUT}"
        if files.is_whole:
            return ""
        if strange := sorted(files.images.keys() - set(range(len(channels)))):
            return (
                f"{files.images[strange[0]]}: channel {strange[0]}, but {self.about.path} names {len(channels)}: "
                f"{', '.join(channels)}; add its name there or move the file elsewhere"
            )
        if missing := sorted(set(range(len(channels))) - files.images.keys()):
            return (
                f"{self.about.path}: case {case} has no file of channel {missing[0]} ({channels[missing[0]]}); "
                f"restore {case}_{missing[0]:04d}{self.about.endings[0]} or {LEAVE_OUT}"
            )
        return ""

    @cached_property
    def cases(self) -> dict[str, Case]:
        return {case: self._as_case(case, files) for case, files in self._found.items()}

    def _as_case(self, case: str, files: Files) -> Case:
        channels, problem = self.about.channels, self._problem(case, files)
        if files.is_whole and len(channels) > 1:
            return Case({WHOLE: files.images[0]}, files.label, channels, problem=problem)
        by_name = {channels[c]: path for c, path in files.images.items() if c < len(channels)}
        images = {name: by_name[name] for name in self.contrasts if name in by_name}
        return Case(images, files.label, problem=problem)

    @property
    def files(self) -> Iterable[Path]:
        return [self.about.path, *super().files]

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(path.name for path in self.files)

    def takes(self, name: str) -> bool:
        return name in self._names

    def patients(self) -> list[str]:
        """The cases' ids. Raises DataError: none, or several that may be scans of one person."""
        if not self.cases:
            raise DataError(f"{self.root}: 0 cases of {self.about.path}; add <case>_0000{self.about.endings[0]}")
        refuse_odd_names(list(self.cases), self.root)
        if self.for_training and self.cfg.groups is None and (scans := _of_one_stem(self.cases)):
            raise DataError(
                f"{self.root}: {first_few(scans)} may be scans of one person, whom no split may part; say who is who "
                "in a CSV of lines patient,person (only its heading, where they are not): data.groups=FILE"
            )
        return list(self.cases)

    def read(self, patient: str) -> Volume:
        volume = super().read(patient)
        return replace(volume, remarks=(*volume.remarks, *self._apart(self.cases[patient])))

    def write_labels(self, patient: str, labels_shw: NDArray[Any], folder: Path) -> list[Path]:
        """One file named as nnU-Net names its predictions."""
        return [self._save(patient, labels_shw, folder / f"{patient}{self._ending(patient)}")]

    def _is_same(self, one: Grid, other: Grid) -> bool:
        """As nnU-Net's check has it: another size or spacing is an error, another origin or direction is not."""
        if self.cfg.resample:
            return super()._is_same(one, other)
        return one.shape == other.shape and np.allclose(
            voxel_sizes(one.affine), voxel_sizes(other.affine), rtol=0, atol=SAME_GRID_MM
        )

    def _apart(self, case: Case) -> list[str]:
        """Remarks on files of another origin or direction than the first one's, whose voxels are taken all the same."""
        if self.cfg.resample:
            return []
        first, *others = (grid_of(path)[0] for path in case.files)
        return [
            f"{other.path.name}: another origin or direction than {first.path.name} ({other.apart(first)}); voxels are "
            "matched by their place in the files, as in nnU-Net"
            for other in others
            if not other.is_same(first)
        ]


def _listed(case: str, files: Listed, in_folder: Mapping[str, Files]) -> Files:
    images = dict(enumerate(files.images)) or (in_folder[case].images if case in in_folder else {})
    return Files(images, files.label, files.is_whole)


def _labels_beside(images: Path) -> Path:
    """labelsTs of imagesTs."""
    return images.parent / images.name.replace("images", "labels", 1) if "images" in images.name else images / "labels"


def _is_there(path: Path) -> bool:
    """Opening a link names what it lacks."""
    return path.exists() or path.is_symlink()


def _of_one_stem(cases: Iterable[str]) -> list[str]:
    """Ids that differ in what is likely a scan's number, where no pattern of a public set knows the person."""
    stems: dict[str, list[str]] = defaultdict(list)
    for case, person in people_of(cases, None).items():
        if (match := SCAN.fullmatch(case)) and person == case:
            stems[match["stem"]].append(case)
    several = [ids for ids in stems.values() if len(ids) > 1]
    is_person = len(stems) > 1 and all(len(ids) <= MOST_SCANS for ids in several)
    return several[0] if several and is_person else []
