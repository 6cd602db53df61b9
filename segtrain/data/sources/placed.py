"""Files where data.files says that they are: globs with `{patient}` in them.

    {flair: '{patient}/anat/*_FLAIR.nii.gz', truth: 'derivatives/{patient}/*_mask.nii.gz'}

`*` stands for part of a name, `**` for any folders, `{patient}` for part of a name, the same wherever it is. A patient
of the same name in several folders that wildcards stand for is several patients; a date is a scan of its folder's.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from segtrain.data.sources.base import TRUTH
from segtrain.data.sources.cases import WHOLE, Case
from segtrain.data.sources.listing import entries_of, is_broken_link, is_folder
from segtrain.data.sources.naming import is_visit
from segtrain.errors import DataError

VOLUME = "volume"  # the key of 4-D files of all contrasts
PATIENT = "{patient}"
EXAMPLE = "as in data.files='{flair: \"{patient}/*_FLAIR.nii.gz\"}'"
Key = tuple[str, str]  # folders that wildcards before the patient stand for, the patient


def placed_cases(root: Path, files: Mapping[str, str], needs_truth: bool) -> dict[str, Case]:
    """The patients' files, by data.files. Raises DataError: no file for a pattern, or several for a patient."""
    paths = _below(root, "")
    by_role = {role: _matches(root, role, pattern, paths) for role, pattern in files.items()}
    for role, places in by_role.items():
        if not places and (role != TRUTH or needs_truth):
            raise DataError(
                f"{root}: no file matches data.files' {role}, {files[role]!r}; write it from this folder on, {EXAMPLE}"
            )
    images = {role: places for role, places in by_role.items() if role != TRUTH}
    keys = sorted({key for places in images.values() for key in places})
    of_patient = defaultdict(list)
    for key in keys:
        of_patient[key[1]].append(key)
    cases = {}
    for key in keys:
        above, patient = key
        is_only = len(of_patient[patient]) == 1
        folders = [folder for folder in above.split("/") if folder]
        # A date alone would not say that it is another scan of the same person.
        name = patient if is_only and not is_visit(patient) else "_".join((*folders, patient))
        truths = by_role.get(TRUTH, {})
        truth = truths.get(key) or (_only(truths, patient) if is_only else None)
        cases[name] = Case(
            {WHOLE if role == VOLUME else role: places[key] for role, places in images.items() if key in places}, truth
        )
    return dict(sorted(cases.items()))


def _only(places: Mapping[Key, Path], patient: str) -> Path | None:
    """The one file of the patient, in whatever folders."""
    paths = [path for (_, name), path in places.items() if name == patient]
    return paths[0] if len(paths) == 1 else None


def _below(root: Path, folder: str) -> list[str]:
    """All files below the folder, from `root`."""
    paths = []
    for entry in entries_of(root / folder):
        name = f"{folder}{entry.name}"
        if is_folder(entry) and not is_broken_link(root / name):
            paths += _below(root, f"{name}/")
        else:
            paths.append(name)
    return paths


def _matches(root: Path, role: str, pattern: str, paths: list[str]) -> dict[Key, Path]:
    if PATIENT not in pattern:
        raise DataError(
            f"data.files: {role} is {pattern!r}, without {PATIENT}; say where the patient's name is, {EXAMPLE}"
        )
    expression = _expression(pattern)
    places: dict[Key, Path] = {}
    for path in paths:
        if match := expression.fullmatch(path):
            groups = match.groupdict()
            key = "".join(text for name, text in groups.items() if name != "patient"), groups["patient"]
            if key in places:
                raise DataError(
                    f"{root / path}: a second {role} of patient {key[1]}, beside {places[key]}; make data.files' "
                    f"{pattern!r} match one of them, or where both are scans of one person put {PATIENT} where their "
                    f"names differ, as in '*/{PATIENT}_FLAIR.nii.gz'"
                )
            places[key] = root / path
    return places


def _expression(pattern: str) -> re.Pattern[str]:
    """The glob as a regular expression: groups `patient`, and those of whole folders before it."""
    expression, is_named, number = "", False, 0
    for part in re.split(r"(\{patient\}|\*\*/|\*/|\*|\?)", pattern.removeprefix("./")):
        if part == PATIENT:
            expression += r"(?P=patient)" if is_named else r"(?P<patient>[^/]+?)"
            is_named = True
        elif part in ("**/", "*/"):
            inner = r"(?:[^/]+/)*" if part == "**/" else r"[^/]*/"
            number += 1
            expression += inner if is_named else rf"(?P<above{number}>{inner})"
        else:
            expression += {"*": r"[^/]*", "?": r"[^/]"}.get(part, re.escape(part))
    return re.compile(expression)
