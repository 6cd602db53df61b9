"""NIfTI volumes whose patients, contrasts and truths are found by the names of files and folders."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segtrain.config import LGG_CONTRASTS, canonical
from segtrain.config.regions import SPELLINGS
from segtrain.data.sources.base import TRUTH, Check, digest, first_few, no_check
from segtrain.data.sources.candidates import Candidates, Findings, VolumeFile, find_candidates
from segtrain.data.sources.cases import WHOLE, Case
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.listing import escaped, refuse_odd_names
from segtrain.data.sources.placed import VOLUME, placed_cases
from segtrain.data.sources.truths import choose_truth, is_automatic_alone, is_consensus_of_several
from segtrain.data.sources.volumes import VolumeSource
from segtrain.errors import DataError

SLABS = "SMIR.Brain"  # how names of ISLES 2018 begin


@dataclass(frozen=True)
class NiftiSource(VolumeSource):
    """Patients at any depth below `root`: a file a contrast, or one 4-D volume, and a truth.

    `<patient>_t1`, `_t1ce`, `_t2`, `_flair` and other spellings, the truth in `_seg`, `_mask` and others (see
    `naming.py`); a file named only `flair` belongs to the patient that its folder is named for; or as data.files says.
    Prediction with a network of the LGG contrasts takes t1, flair and t1ce for these.
    """

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which gets the cases, but not the candidates for them."""
        return {name: value for name, value in vars(self).items() if name != "_findings"}

    @property
    def label(self) -> str:
        return f"NIfTI volumes in {escaped(str(self.root))}"

    @property
    def rules(self) -> LabelRules:
        return LabelRules.of(self.cfg)

    @cached_property
    def contrasts(self) -> tuple[str, ...]:
        """By data.contrasts, by data.files, or of the four the ones that all patients have. Raises DataError."""
        placed = tuple(role for role in self.cfg.files or () if role not in (TRUTH, VOLUME))
        if self.cfg.contrasts or placed:
            return self.cfg.contrasts or placed
        if not self.for_training:
            return LGG_CONTRASTS
        counts, patients = self._counts
        if shared := tuple(contrast for contrast in SPELLINGS if counts[contrast] == patients > 0):
            return shared
        if whole := [file.path for candidates in self._findings.patients.values() for file in candidates.whole]:
            raise DataError(
                f"{whole[0]}: a file without a contrast in its name; if it holds several contrasts, name them in their "
                "order, as in data.contrasts='[flair, t1, t1ce, t2]'"
            )
        if not patients:
            there = ", ".join(f"{reason}: {len(paths)}" for reason, paths in self._findings.passed_over.items())
            raise DataError(
                f"{self.root}: 0 patients with {', '.join(SPELLINGS)} ({there or 'no files'}); name the contrasts that "
                "there are in data.contrasts, or say where files are in data.files"
            )
        there = ", ".join(f"{contrast} {count}" for contrast, count in counts.items())
        raise DataError(
            f"{self.root}: no contrast that all {patients} patients have ({there}); name some in data.contrasts, and "
            "in data.missing what stands in for missing ones"
        )

    @cached_property
    def cases(self) -> dict[str, Case]:
        if self.cfg.files:
            return self._placed(self.cfg.files)
        cases = {}
        for patient, candidates in self._findings.patients.items():
            case = self._chosen(patient, candidates)
            if case.images or case.problem:
                cases[patient] = case
        return cases

    def patients(self) -> list[str]:
        """All patient ids; for training without those that have no truth. Raises DataError when there are none."""
        if not self.cases:
            names = ", ".join(self.contrasts)
            raise DataError(
                f"{self.root}: 0 patients with {names} or one volume of all; add <patient>_{self.contrasts[0]}.nii.gz, "
                "or say where files are in data.files"
            )
        refuse_odd_names(self.cases, self.root)
        slab = next((path for path in self.files if path.name.startswith(SLABS)), None)
        if slab and self.for_training and self.cfg.groups is None:
            raise DataError(
                f"{slab}: of ISLES 2018, where two slabs of one person are two cases; say who is who in a file of "
                "lines patient,person, data.groups=FILE"
            )
        without = self._without_truth
        if len(without) == len(self.cases):
            unknown = [path.name for path in self._unknown]
            aside = f" (unknown files: {first_few(unknown)})" if unknown else ""
            raise DataError(
                f"{self.root}: 0 of {len(without)} patients have a truth{aside}; add <patient>_seg.nii.gz, or say "
                "where truths are in data.files"
            )
        return [patient for patient in self.cases if patient not in without]

    def person(self, patient: str) -> str | None:
        """The person whom the folders name; None where only the patient's id says it."""
        return self.cases[patient].person

    def fingerprint(self, check: Check = no_check) -> str:
        return self._with_people(super().fingerprint(check))

    def stamp(self) -> str:
        return self._with_people(super().stamp())

    def _with_people(self, digest_of_files: str) -> str:
        """Stores from before folders named people have other ids, or have them for so many people."""
        people = sorted(f"{patient} {case.person}" for patient, case in self.cases.items() if case.person)
        return digest([digest_of_files.encode(), *map(os.fsencode, people)]) if people else digest_of_files

    @property
    def _unknown(self) -> list[Path]:
        return [] if self.cfg.files else self._findings.passed_over.get("unknown", [])

    @property
    def _without_truth(self) -> set[str]:
        """The patients that training leaves out; of others it asks which file is their truth."""
        if not self.for_training:
            return set()
        return {
            patient
            for patient, case in self.cases.items()
            if not (case.truth or case.doubt or case.problem or case.is_lost)
        }

    def left_out(self) -> Mapping[str, str]:
        """The patients of which training has no use, each with the reason."""
        if not self.for_training:
            return {}
        without_contrast = set() if self.cfg.files else self._findings.patients.keys() - self.cases.keys()
        none = f"none of the contrasts {', '.join(self.contrasts)} among its files"
        reasons = dict.fromkeys(self._without_truth, "no truth among its files") | dict.fromkeys(without_contrast, none)
        return {patient: f"patient {patient}: {reason}" for patient, reason in sorted(reasons.items())}

    def passed_over(self) -> Mapping[str, Sequence[str]]:
        """What lies below the folder and is not read: paths by reason."""
        if self.cfg.files:
            return {}
        reasons = {reason: list(paths) for reason, paths in self._findings.passed_over.items()}
        used = set(self.files)
        for candidates in self._findings.patients.values():
            for contrast, files in candidates.images.items():
                reasons.setdefault(contrast, []).extend(file.path for file in files if file.path not in used)
            reasons.setdefault("other masks", []).extend(f.path for f in candidates.truths if f.path not in used)
        return {
            reason: sorted(escaped(str(path.relative_to(self.root))) for path in paths)
            for reason, paths in sorted(reasons.items())
            if paths
        }

    def remarks(self) -> tuple[str, ...]:
        """What was taken for what, where names left a choice."""
        if self.cfg.files:
            return super().remarks()
        counts, patients = self._counts
        used = {canonical(contrast) for contrast in self.contrasts}
        remarks = [f"contrasts: {', '.join(self.contrasts)}"]
        remarks += [
            f"{contrast} is passed over, {counts[contrast]} of {patients} patients have it{self._lacking(contrast)}; "
            "data.contrasts takes it, with data.missing for the others"
            for contrast in SPELLINGS
            if contrast not in used and counts[contrast]
        ]
        several = [p for p, of in self._findings.patients.items() if is_consensus_of_several(of, self.cfg.rater)]
        if several:
            remarks.append(f"of several masks the consensus is taken: {len(several)} patients ({first_few(several)})")
        automatic = [patient for patient, of in self._findings.patients.items() if is_automatic_alone(of)]
        if automatic and self.cfg.rater is None:
            remarks.append(
                f"automatic masks alone are no truth: {len(automatic)} patients ({first_few(automatic)}); data.rater "
                "takes them by name"
            )
        return (*remarks, *super().remarks())

    @cached_property
    def _findings(self) -> Findings:
        return find_candidates(self.root, self.cfg.contrasts or ())

    def _lacking(self, contrast: str) -> str:
        """The patients that lack what most have: a file of theirs may have another name."""
        names = [name for name, of in self._counted.items() if contrast not in of.images]
        return f", not {first_few(names)}" if len(names) < len(self._counted) / 2 else ""

    @property
    def _counts(self) -> tuple[Counter[str], int]:
        """Of the patients with a truth, or where none has one of all, how many have each contrast; and their number."""
        return Counter(contrast for of in self._counted.values() for contrast in of.images), len(self._counted)

    @property
    def _counted(self) -> dict[str, Candidates]:
        """The patients with a truth, or where none has one all of them."""
        everyone = {patient: of for patient, of in self._findings.patients.items() if of.lost is None}
        return {patient: of for patient, of in everyone.items() if of.truths} or everyone

    def _chosen(self, patient: str, candidates: Candidates) -> Case:
        if candidates.lost:
            return Case({self.contrasts[0]: candidates.lost}, is_lost=True)
        images: dict[str, Path] = {}
        problem = ""
        for contrast in self.contrasts:
            if files := _meant(candidates.images.get(canonical(contrast), ()), candidates):
                images[contrast] = files[0].path
                if len(files) > 1:
                    problem = problem or self._second(contrast, patient, files)
        if candidates.whole:
            if images:
                problem = f"{candidates.whole[0].path}: a volume beside files of contrasts; keep the one or the others"
            elif len(candidates.whole) > 1:
                problem = self._second("volume", patient, candidates.whole)
            images = {WHOLE: candidates.whole[0].path}
        truth, doubt = choose_truth(patient, candidates, self.cfg.rater)
        return Case(images, truth, doubt=doubt, problem=problem, person=candidates.person)

    def _second(self, contrast: str, patient: str, files: list[VolumeFile]) -> str:
        below = files[1].path.relative_to(self.root)
        parts = ["{patient}" if part == patient else part for part in below.parts]
        return (
            f"{files[1].path}: a second {contrast} of patient {patient}, beside {files[0].path}; keep one of them "
            f"here, or say which in data.files, as in data.files='{{{contrast}: \"{'/'.join(parts)}\"}}'"
        )

    def _placed(self, files: dict[str, str]) -> dict[str, Case]:
        """By data.files, with the names of data.contrasts."""
        name_of = {canonical(contrast): contrast for contrast in self.contrasts}
        if strange := [role for role in files if role not in (TRUTH, VOLUME) and canonical(role) not in name_of]:
            raise DataError(
                f"data.files has {strange[0]}, but data.contrasts is {', '.join(self.contrasts)}; name it there, or "
                "leave it out"
            )
        named = {role if role in (TRUTH, VOLUME) else name_of[canonical(role)]: glob for role, glob in files.items()}
        return placed_cases(self.root, named, needs_truth=self.for_training)


def _meant(files: Sequence[VolumeFile], candidates: Candidates) -> list[VolumeFile]:
    """Of several files of one contrast those that are meant: plain names before 3D ones, in the truth's space."""
    best = [file for file in files if file.name.rank == min(other.name.rank for other in files)]
    spaces = {truth.name.space for truth in candidates.truths}
    return [file for file in best if file.name.space in spaces] or best if len(best) > 1 else best
