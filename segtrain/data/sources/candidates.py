"""The volumes below a folder, grouped by patient: which files there are for each contrast and for the truth.

A file's patient is what its name says before the contrast, else the folder that it is in, without folders that only
sort files (orig, anat, masks). Names alone decide; no file is opened. Imports no nibabel.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segtrain.data.people import person_of
from segtrain.data.sources.images import NIFTI_SUFFIXES
from segtrain.data.sources.listing import entries_of, folders_of, is_broken_link, patiently_read, with_suffix
from segtrain.data.sources.naming import (
    BIDS,
    NEVER_FOLDERS,
    SERIES,
    FileName,
    Role,
    is_time_point,
    is_visit,
    read_name,
    stem_of,
)
from segtrain.errors import DataError

# Folders that sort a patient's files and name no patient.
SORTING = re.compile(
    r"anat|dwi|perf|orig|pre|raw|raw_?data|preprocessed(_data)?|coregistered|derivatives|additional_annotations|"
    r"images?(tr|ts)?|imgs|labels?(tr|ts)?|masks?|segmentations?|annotations|gt|"
    r"images_structural|images_segm|automated_segm|observer_o?\d+",
    re.IGNORECASE,
)
OF_TRUTH = re.compile(r"labels?(tr|ts)?|masks?|segmentations?|annotations|gt", re.IGNORECASE)
OF_RATER = re.compile(r"observer_o?\d+", re.IGNORECASE)
# Beside a folder for training these are not for training.
FOR_TRAINING = re.compile(r"train.*|imagestr", re.IGNORECASE)
FOR_TESTS = re.compile(r"test.*|valid.*|imagests|labelsts", re.IGNORECASE)
# The T1 of T1_gado and the T2 of T2_FLAIR, which are no part of the patient's name, by the contrasts that follow them.
WEIGHTED = re.compile(r"(?:(?P<patient>.+)[_.\- ])?(?P<weighting>T[12])", re.IGNORECASE)
CONTINUED = {"t1": ("t1", "t1ce"), "t2": ("flair",)}

Home = tuple[str, ...]  # folders below the root, without those that only sort


@dataclass(frozen=True)
class VolumeFile:
    """A file: where it is, the folders that may name its patient, and what its name says."""

    path: Path
    home: Home
    name: FileName


@dataclass
class Candidates:
    """A patient's files. odd: those of which nobody can say what they are; whole: 4-D files of all contrasts."""

    images: dict[str, list[VolumeFile]] = field(default_factory=lambda: defaultdict(list))
    truths: list[VolumeFile] = field(default_factory=list)
    whole: list[VolumeFile] = field(default_factory=list)
    odd: list[Path] = field(default_factory=list)
    lost: Path | None = None  # a link to a folder that is not there
    person: str | None = None  # whose scan it is, where folders say it and the id alone may not


@dataclass
class Findings:
    """The patients' candidates, sorted by patient, and what was passed over: files by reason."""

    patients: dict[str, Candidates]
    passed_over: dict[str, list[Path]]


def find_candidates(root: Path, wanted: tuple[str, ...]) -> Findings:
    """What lies below `root`; `wanted`: contrasts that are asked for besides the four. Raises DataError."""
    passed_over: dict[str, list[Path]] = defaultdict(list)
    files, lost = [], {}
    for path, folders, stem in _walk(root, (), set(), passed_over):
        if stem is None:
            lost[path.name] = Candidates(lost=path)
        else:
            files.append(_volume_file(path, folders, stem, wanted))
    patients = _grouped(_weighted(files), root, passed_over) | lost
    return Findings(dict(sorted(patients.items())), passed_over)


def has_volumes(root: Path) -> bool:
    """Whether there are volumes in the folder or below it, at any depth. Raises DataError."""
    return any(path.name.lower().endswith(NIFTI_SUFFIXES) for path, *_ in _walk(root, (), set(), defaultdict(list)))


def _walk(
    folder: Path, folders: Home, seen: set[tuple[int, int]], passed_over: dict[str, list[Path]]
) -> Iterator[tuple[Path, Home, str | None]]:
    """Each volume below the folder: its path, the folders between, its stem; None for a link to a lost folder."""
    state = patiently_read(folder, folder.stat)
    if (state.st_dev, state.st_ino) in seen:  # a link to a folder above
        return
    seen.add((state.st_dev, state.st_ino))
    entries = entries_of(folder)  # once: a network file system takes its time for each listing
    volumes, below = with_suffix(folder, NIFTI_SUFFIXES, entries), folders_of(folder, entries)
    yield from ((path, folders, stem_of(path)) for path in volumes)
    read = {path.name for path in (*volumes, *below)}
    if rest := [folder / entry.name for entry in entries if entry.name not in read]:
        passed_over["no NIfTI volumes"] += rest
    has_training = any(FOR_TRAINING.fullmatch(path.name) for path in below)
    for path in below:
        if is_broken_link(path):
            yield path, folders, None
        elif path.name.lower().endswith(NIFTI_SUFFIXES) or SERIES.match(path.name):
            yield from _folder_of_one(path, folders)
        elif NEVER_FOLDERS.fullmatch(path.name):
            passed_over["folders of other versions"].append(path)
        elif has_training and FOR_TESTS.fullmatch(path.name):
            passed_over["folders of tests"].append(path)
        else:
            yield from _walk(path, (*folders, path.name), seen, passed_over)


def _folder_of_one(folder: Path, folders: Home) -> Iterator[tuple[Path, Home, str]]:
    """The volume of a folder that has the name of a file, as some programs unpack them. Raises DataError for two."""
    volumes = with_suffix(folder, NIFTI_SUFFIXES)
    if len(volumes) > 1:
        names = " and ".join(path.name for path in volumes[:2])
        raise DataError(f"{folder}: a folder for one file holds {len(volumes)}, {names}; keep one of them here")
    for path in volumes:
        yield path, folders, stem_of(folder)


def _volume_file(path: Path, folders: Home, stem: str, wanted: tuple[str, ...]) -> VolumeFile:
    name = read_name(stem, wanted)
    if rater := next((folder for folder in folders if OF_RATER.fullmatch(folder)), None):
        name = replace(name, role=Role.RATER, what=rater)
    elif name.role is Role.UNKNOWN and folders and OF_TRUTH.fullmatch(folders[-1]):
        name = FileName(name.patient or stem, Role.TRUTH, folders[-1], rank=1)
    return VolumeFile(path, tuple(folder for folder in folders if not SORTING.fullmatch(folder)), name)


def _weighted(files: Sequence[VolumeFile]) -> list[VolumeFile]:
    """The files, with the T1 of `pat_T1_gado` and the T2 of `pat_T2_FLAIR` taken for part of the contrast.

    They are time points where other contrasts, or a truth, have them before their names, as in P1_T2_T1 of MSLesSeg.
    """
    of_patient: dict[tuple[Home, str], list[bool]] = defaultdict(list)
    for file in files:
        if match := WEIGHTED.fullmatch(file.name.patient):
            of_patient[file.home, match["patient"] or ""].append(_continues(file, match["weighting"].lower()))
    parted = []
    for file in files:
        match = WEIGHTED.fullmatch(file.name.patient)
        if match and all(of_patient[file.home, match["patient"] or ""]):
            file = replace(file, name=replace(file.name, patient=match["patient"] or ""))
        parted.append(file)
    return parted


def _continues(file: VolumeFile, weighting: str) -> bool:
    """Whether the file is of a contrast that T1 or T2 is often written before, as another word."""
    word = stem_of(file.path)[len(file.name.patient) + 1 :].lower()
    is_contrast = file.name.role is Role.CONTRAST and file.name.what in CONTINUED[weighting]
    return is_contrast and not word.startswith(weighting)


def _grouped(files: Sequence[VolumeFile], root: Path, passed_over: dict[str, list[Path]]) -> dict[str, Candidates]:
    images = [file for file in files if file.name.role is Role.CONTRAST]
    case_folders = {file.home for file in images if not file.name.patient}
    strays = [file for file in images if file.name.patient and file.home and file.home in case_folders]
    images = [file for file in images if not (file.name.patient and file.home and file.home in case_folders)]
    names = _Names(images, root)
    patients: dict[str, Candidates] = defaultdict(Candidates)
    for file in images:
        patients[names.of(file)].images[file.name.what].append(file)
    for patient, person in names.people(images).items():
        patients[patient].person = person
    rest = strays
    for file in files:
        match file.name.role:
            case Role.OTHER | Role.NEVER:
                passed_over[file.name.what if file.name.role is Role.OTHER else "never image or truth"].append(
                    file.path
                )
            case Role.TRUTH | Role.RATER | Role.AUTOMATIC:
                if (patient := names.of(file)) in patients:
                    patients[patient].truths.append(file)
                else:
                    rest.append(file)
            case Role.UNKNOWN:
                rest.append(file)
    _add_whole(patients, [file for file in rest if file.name.role is Role.UNKNOWN], images)
    _add_rest(patients, rest, passed_over)
    return patients


class _Names:
    """The patients' ids: of a name, of a folder, or of the folders where an id recurs in several."""

    def __init__(self, images: Sequence[VolumeFile], root: Path) -> None:
        self._root = root.resolve().name
        homes = {file.home for file in images if not file.name.patient}
        last = Counter(home[-1] for home in homes if home)
        self._are_folders_told = any(count > 1 or is_visit(name) for name, count in last.items())
        self._common = _common(homes)
        self._recurring = _recurring(images)
        by_home = defaultdict(set)
        for file in images:
            by_home[file.home].add(file.name.patient)
        self._of_one = {home for home, patients in by_home.items() if len(patients) == 1}

    def of(self, file: VolumeFile) -> str:
        patient, home = file.name.patient, file.home
        if not patient:
            if not home:
                return self._root
            return "_".join(home[self._common :] or home[-1:]) if self._are_folders_told else home[-1]
        if not home or not (patient in self._recurring or is_visit(patient)):
            return patient
        return "_".join(home) if home in self._of_one else "_".join((*home, patient))

    def people(self, images: Iterable[VolumeFile]) -> dict[str, str]:
        """The person of each patient that a visit's folder is of: anna of anna/2010-01-01, and of baseline/anna.

        Without those whose id says it, and nobody where all would be one: that is the folder of all data.
        """
        people, patients = dict[str, str](), set[str]()
        for file in images:
            patient, words = self.of(file), self._words(file)
            patients.add(patient)
            rest = [word for word in words if not is_visit(word)]
            if rest and len(rest) < len(words):
                person = person_of("_".join(rest))
                is_known = person_of(patient) == person and all(is_time_point(w) for w in words if w not in rest)
                people[patient] = "" if is_known else person
        if len(set(people.values())) == 1 and len(people) == len(patients):
            return {}
        return {patient: person for patient, person in people.items() if person}

    def _words(self, file: VolumeFile) -> Home:
        """The folders and the name of which the patient's id is made; none where it is the file's name alone."""
        patient, home = file.name.patient, file.home
        if not patient:
            return home[self._common :] if self._are_folders_told else ()
        if self.of(file) == patient:
            return ()
        return home if patient in home else (*home, patient)


def _common(homes: Collection[Home]) -> int:
    """The number of folders that all homes begin with, less the last of each."""
    shortest = min((len(home) - 1 for home in homes if home), default=0)
    return next((k for k in range(shortest) if len({home[k] for home in homes}) > 1), shortest)


def _recurring(images: Sequence[VolumeFile]) -> set[str]:
    """Patients by name of whom a contrast is in several homes: these are several patients."""
    homes = defaultdict(set)
    for file in images:
        if file.name.patient and not BIDS.fullmatch(file.name.patient):
            homes[file.name.patient, file.name.what, file.name.rank].add(file.home)
    return {patient for (patient, *_), places in homes.items() if len(places) > 1}


def _add_whole(patients: dict[str, Candidates], unknown: Sequence[VolumeFile], images: Sequence[VolumeFile]) -> None:
    """Files without a word for what they are, away from the patients' folders, are volumes of all contrasts."""
    homes = {file.home for file in images} - {()}
    places = defaultdict(set)
    for file in unknown:
        places[file.path.name].add(file.home)
    for file in unknown:
        stem = stem_of(file.path)
        is_inside = any(file.home[:depth] in homes for depth in range(1, len(file.home) + 1))
        if not is_inside and not any(stem != patient and stem.startswith(f"{patient}_") for patient in patients):
            by_folder = "_".join(file.home) if len(places[file.path.name]) > 1 else ""
            patients[file.name.patient or by_folder or stem].whole.append(file)


def _add_rest(patients: dict[str, Candidates], rest: Sequence[VolumeFile], passed_over: dict[str, list[Path]]) -> None:
    """Truths of the volumes that have just been added; what is left is odd, to its folder's only patient."""
    in_home: dict[Home, set[str]] = defaultdict(set)
    taken = set()
    for patient, candidates in patients.items():
        for file in (*candidates.whole, *(file for same in candidates.images.values() for file in same)):
            in_home[file.home].add(patient)
            taken.add(file.path)
    for file in rest:
        if file.path in taken:
            continue
        only = next(iter(in_home[file.home])) if file.home and len(in_home[file.home]) == 1 else None
        is_truth = file.name.role in (Role.TRUTH, Role.RATER, Role.AUTOMATIC)
        if is_truth and (file.name.patient in patients or (only and not file.name.patient)):
            patients[file.name.patient or only or ""].truths.append(file)
            continue
        passed_over["unknown"].append(file.path)
        if only:
            patients[only].odd.append(file.path)
