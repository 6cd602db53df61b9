"""The person whom each patient id is a scan of: no split parts the scans of one person, and statistics count them once.

Public sets give a person several ids, for sessions, time points and follow-ups: BraTS 2024 has 1,350 cases of 613
people. Known patterns are recognised; a file of `patient,person` lines overrides them.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from segtrain.errors import DataError
from segtrain.runtime.cells import unquoted
from segtrain.text_file import text_of

# The group `person` of the first pattern that matches a whole id is the person. Sources: the sets' pages.
PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # An id that lies in several folders has these before it.
        r"(?:.*_)?(?P<person>BraTS-[A-Z]+(?:-RT)?-\d{4,5})-\d{1,3}",  # BraTS 2023 and later: -000, -001 are exams
        r"(?:.*_)?(?P<person>TCGA[-_]\w{2}[-_]\w{4})(?:[-_].*)?",  # the date of the study follows
        r"(?:.*_)?(?P<person>UPENN-GBM-\d{5})_\d{2}",  # _11 before treatment, _21 follow-up
        r"(?:.*_)?(?P<person>UCSF-PDGM-\d{3,4})(?:_FU\d+d)?(?:_nifti)?",
        r"(?:.*_)?(?P<person>RHUH-\d{4})_\d",  # before, within 72 hours after surgery, follow-up
        r"(?P<person>(?:training|test)\d{2})_\d{2}",  # ISBI 2015: time points
        r"(?P<person>sub-[A-Za-z0-9]+)(?:_.*)?",  # BIDS
        r"(?P<person>.+?)[-_](?:ses|session|time|timepoint|tp|visit|followup|fu|study)[-_]?\d+d?",
        r"(?:(?:ses|session|time|timepoint|tp|visit|followup|fu|t)[-_]?\d+|baseline|follow-?up)_(?P<person>.*\d.*)",
        r"(?P<person>.+?)[-_](?:baseline|bl|follow[-_]?up|fu|pre[-_]?op|post[-_]?op)",
        r"(?P<person>.*\d.*?)[-_](?:19|20)\d\d(?P<sep>[-_.]?)\d\d(?P=sep)\d\d",  # the date of a study
        r"(?P<person>.+?)[-_]T[1-9]",  # MSLesSeg: T1, T2 are time points
    )
)
# Of any person, a word without a number too: whether it is one, or just `scan`, a whole set of ids tells.
DATED = re.compile(r"(?P<stem>.+?)[-_](?:19|20)\d\d(?P<sep>[-_.]?)\d\d(?P=sep)\d\d")
COLUMNS = ("patient", "person")

# Cases of BraTS 2021, and of BraTS 2023 GLI under the same numbers, that are TCGA-LGG patients under another name: 95
# of them are among the 110 of the public LGG set. Who is who is in BraTS2021_MappingToTCIA.xlsx of TCIA.
BRATS_2021 = re.compile(r"(?:BraTS2021_|BraTS-GLI-)(?P<number>\d{5})(?:-\d{3})?", re.IGNORECASE)
TCGA_LGG = (range(1476, 1537), range(1663, 1667), range(1717, 1756), range(1773, 1777))


def person_of(patient: str, dated: Collection[str] = ()) -> str:
    """The person of a patient id, by the patterns of public sets; the id itself where none matches.

    dated: the people of `dated_people` of the set that the patient is of.
    """
    for pattern in PATTERNS:
        if match := pattern.fullmatch(patient):
            return _plain(match["person"])
    match = DATED.fullmatch(patient)
    return match["stem"] if match and match["stem"] in dated else patient


def dated_people(patients: Iterable[str]) -> frozenset[str]:
    """The people whom the ids of a set name before a date: of `anna_20230412` and `bert_20240101` anna and bert.

    None where all name the same, as `scan_20230412` and `scan_20240101` do: that is a word, and no person.
    """
    stems = frozenset(match["stem"] for patient in patients if (match := DATED.fullmatch(patient)))
    return stems if len(stems) > 1 else frozenset()


def _plain(person: str) -> str:
    """One spelling of a person whom sets write in several: TCGA_CS_4941 and TCGA-CS-4941, UCSF-PDGM-004 and -0004."""
    if re.match(r"TCGA[-_]", person, re.IGNORECASE):
        return person.upper().replace("_", "-")
    if match := re.fullmatch(r"(UCSF-PDGM)-(\d+)", person, re.IGNORECASE):
        return f"{match[1].upper()}-{int(match[2]):04d}"
    return person


def may_be_same(patients: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of the patients that are TCGA-LGG patients under a number of BraTS 2021, where the others have TCGA ids.

    And the other way round. Which of them it is cannot be known from the ids.
    """
    mine, theirs = sorted(patients), list(others)
    names = {patient for patient in mine if person_of(patient).startswith("TCGA-")}
    numbers = {patient for patient in mine if is_tcga_lgg(patient)}
    have_names = any(person_of(other).startswith("TCGA-") for other in theirs)
    have_numbers = any(map(is_tcga_lgg, theirs))
    return [p for p in mine if (have_names and p in numbers) or (have_numbers and p in names)]


def is_tcga_lgg(patient: str) -> bool:
    """Whether the id is a number of BraTS 2021 under which a TCGA-LGG patient is."""
    match = BRATS_2021.fullmatch(patient)
    return match is not None and any(int(match["number"]) in numbers for numbers in TCGA_LGG)


def people_of(patients: Iterable[str], groups: Path | None, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The person of each patient: by `groups`, else as the source names it (`known`), else by its id.

    Raises DataError: a file that is not of that form, or whose lines name none of the patients.
    """
    ids = list(patients)
    in_file = {} if groups is None else read_groups(groups)
    strangers = strangers_in(in_file, ids)
    if strangers and len(strangers) == len(in_file):
        raise DataError(
            f"{groups}: none of its {len(in_file)} lines names a patient of the data (the first names {strangers[0]}, "
            f"a patient is {min(ids)}); write the patients' ids, as segtrain prepare --dry-run shows them"
        )
    named = {**(known or {}), **in_file}
    dated = dated_people(ids)
    return {patient: named.get(patient) or person_of(patient, dated) for patient in ids}


def strangers_in(people: Mapping[str, str], patients: Iterable[str]) -> list[str]:
    """The names in a file of people that are no patient's of the data, in the file's order: they may be misspelled.

    None where the file names slices, whose people the patients are.
    """
    ids = set(patients)
    return [] if ids <= set(people.values()) else [name for name in people if name not in ids]


def read_groups(path: Path) -> dict[str, str]:
    """The person of each patient: lines `patient,person`, with or without a heading. Raises DataError."""
    remedy = "write a line patient,person for each patient"
    try:
        rows = list(csv.reader(text_of(path).removeprefix("\ufeff").splitlines()))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); set data.groups to a file that can") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table of people ({error}); {remedy}") from error
    people: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        cells = [unquoted(cell.strip()) for cell in row]  # a name may be copied from a table of ours
        if not any(cells) or (number == 1 and cells[1:2] == [COLUMNS[1]]):
            continue
        if len(cells) != len(COLUMNS) or not all(cells):
            raise DataError(f"{path}, line {number}: {','.join(row)!r} is not patient,person; {remedy}")
        if people.setdefault(cells[0], cells[1]) != cells[1]:
            raise DataError(f"{path}, line {number}: {cells[0]} is {people[cells[0]]} above; give it one person")
    return people


def groups_of(patients: Iterable[str], people: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The patients, person by person, each sorted, in the order of the people's first patients."""
    members: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(patients):
        members[people.get(patient, patient)].append(patient)
    return [tuple(of_person) for of_person in members.values()]


def several(people: Mapping[str, str]) -> dict[str, str]:
    """The people with more than one patient, by patient: what a reader cannot know from the ids alone."""
    count: dict[str, int] = defaultdict(int)
    for person in people.values():
        count[person] += 1
    return {patient: person for patient, person in sorted(people.items()) if count[person] > 1}


def values_by_person(values: Mapping[str, float], people: Mapping[str, str]) -> list[float]:
    """A value a person, the mean over the person's patients, in the order of the people's first values."""
    of_person: dict[str, list[float]] = defaultdict(list)
    for patient, value in values.items():
        of_person[people.get(patient, patient)].append(value)
    return [sum(of_one) / len(of_one) for of_one in of_person.values()]


def refuse_parted(sides: Sequence[tuple[str, Collection[str]]], people: Mapping[str, str], where: str) -> None:
    """Raise DataError where two sides of a split have patients of one person (L1)."""
    seen: dict[str, tuple[str, str]] = {}
    for side, patients in sides:
        for patient in sorted(patients):
            other, other_side = seen.setdefault(people.get(patient, patient), (patient, side))
            if other_side != side and other != patient:
                raise DataError(
                    f"{where}: {other} in {other_side} and {patient} in {side} are scans of one person, "
                    f"{people[patient]}; put them on one side, or say in data.groups who is who"
                )
