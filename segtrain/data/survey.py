"""What of a source is taken for what: patients and people, contrasts, truth, files passed over; nothing is written.

An overview takes names and headers alone; a survey also reads a few patients, for sizes, labels and what is wrong with
them. Legend: s slice, h height, w width, c channel.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segtrain.config import DataConfig, name_of
from segtrain.config.paths import expanded
from segtrain.data.people import groups_of, people_of
from segtrain.data.sources import Source, Volume, first_few, make_source, not_taken, read_with_mask
from segtrain.data.sources.base import TRUTH, AsksForTruths, KnowsPeople, LeavesOut, ListsFiles, ListsRest, Remarks
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.open import detected
from segtrain.data.splits import refuse_impossible
from segtrain.errors import LEAVE_OUT, DataError

SAMPLED = 3  # patients whose voxels are read
IMAGE = "image"  # the role of files that hold all contrasts
Row = tuple[str, str]


@dataclass(frozen=True)
class Overview:
    """A source by names and headers.

    people: the person of each patient; files: of the patients whose files fit together, by role; broken: the reasons of
    the others; left_out: the reasons of patients that are not trained on; passed_over: names by reason; doubts: of
    patients of whom it has to be asked which file is the truth, the questions.
    """

    layout: str
    label: str
    contrasts: tuple[str, ...]
    people: Mapping[str, str]
    files: Mapping[str, Mapping[str, tuple[Path, ...]]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def rows(self) -> list[Row]:
        """Rows (name, value) of a table."""
        rows = [("data", self.label), ("layout", self.layout), ("patients", self._patients())]
        rows += [("contrasts", text) for text in self._contrasts()]
        if self.files:
            with_truth = {patient: files[TRUTH] for patient, files in self.files.items() if TRUTH in files}
            example = f", such as {_shown(next(iter(with_truth.values())))}" if with_truth else ""
            rows.append(("truth", f"{len(with_truth)} of {len(self.people)} patients{example}"))
        if self.left_out:
            rows.append(("without truth", f"{len(self.left_out)} left out: {first_few(list(self.left_out))}"))
        for reason, names in self.passed_over.items():
            rows.append(("passed over", f"{reason}: {len(names)} ({first_few(names)})"))
        return rows + [("remark", remark) for remark in self._remarks]

    def refusals(self, cfg: DataConfig) -> list[str]:
        """What preparing the data would refuse, by names alone."""
        reasons = [] if cfg.skip_bad else list(self.broken.values())
        reasons += [] if cfg.skip_bad else self._without_truth()
        lacking: dict[str, list[str]] = {}
        for patient, files in self.files.items():
            for contrast in () if IMAGE in files else self.contrasts:
                if contrast not in files:
                    lacking.setdefault(contrast, []).append(patient)
        for contrast, patients in lacking.items() if cfg.missing is None else ():
            have = "1 patient has" if len(patients) == 1 else f"{len(patients)} patients have"
            reasons.append(
                f"{have} no {contrast} ({first_few(patients)}); leave it out of data.contrasts, or say what stands in, "
                "as in data.missing=zeros"
            )
        try:
            refuse_impossible(cfg, groups_of(self.people, self.people), self.people)
        except DataError as error:
            reasons.append(str(error))
        return reasons

    def _without_truth(self) -> list[str]:
        """A reason for the patients without a mask, and the question on those whose mask is not clear."""
        patients = [patient for patient, files in self.files.items() if TRUTH not in files]
        reasons = []
        if asked := [patient for patient in patients if patient in self.doubts]:
            others = f" (and likewise for {len(asked) - 1} more: {first_few(asked[1:])})" if asked[1:] else ""
            reasons.append(f"{self.doubts[asked[0]]}{others}")
        lacking = [patient for patient in patients if patient not in self.doubts]
        if len(lacking) == 1:
            reasons.append(f"patient {lacking[0]}: has no mask in {self.label}; add its masks or {LEAVE_OUT}")
        elif lacking:
            reasons.append(
                f"{len(lacking)} patients have no mask in {self.label} ({first_few(lacking)}); add their masks, or "
                "leave them out by data.skip_bad=true"
            )
        return reasons

    def lines(self) -> list[str]:
        """The rows in short, for a log: without files passed over, which are told once the data are prepared."""
        rows = [row for row in self.rows() if row[0] not in ("data", "contrasts", "passed over", "remark")]
        return [*(f"{name}: {text}" for name, text in rows), self._contrasts_line, *self._remarks]

    @property
    def _contrasts_line(self) -> str:
        return f"contrasts: {', '.join(self.contrasts)}"

    @property
    def _remarks(self) -> list[str]:
        """The source's remarks but that on what is told anyhow."""
        return [remark for remark in self.remarks if remark != self._contrasts_line]

    @property
    def _counts(self) -> Counter[str]:
        """The number of patients that have files of each role."""
        return Counter(role for files in self.files.values() for role in files if role != TRUTH)

    def _patients(self) -> str:
        people = len(set(self.people.values()))
        if people == len(self.people):
            return f"{people:,} patients"
        return f"{len(self.people):,} scans of {people:,} people"

    def _contrasts(self) -> list[str]:
        """Each contrast with the number of patients that have it, where files say it."""
        counts = self._counts
        if not counts or counts[IMAGE]:
            names = ", ".join(self.contrasts)
            return [f"{names}: the channels, in this order" if len(self.contrasts) > 1 else names]
        texts = []
        for name in self.contrasts:
            example = next((_shown(files[name]) for files in self.files.values() if name in files), "no file")
            texts.append(f"{name}: {counts[name]} of {len(self.people)} patients, such as {example}")
        return texts


def overview(cfg: DataConfig, source: Source) -> Overview:
    """The source by names and headers. Raises DataError where even patients or contrasts cannot be told."""
    patients = source.patients()
    files: dict[str, Mapping[str, tuple[Path, ...]]] = {}
    broken: dict[str, str] = {}
    if isinstance(source, ListsFiles):
        for patient in patients:
            try:
                files[patient] = source.files_of(patient)
            except DataError as error:
                broken[patient] = str(error)
    known = {}
    if isinstance(source, KnowsPeople):
        known = {patient: person for patient in patients if (person := source.person(patient))}
    return Overview(
        layout=layout_of(cfg),
        label=source.label,
        contrasts=source.contrasts,
        people=people_of(patients, expanded(cfg.groups) if cfg.groups else None, known),
        files=files,
        broken=broken,
        left_out=source.left_out() if isinstance(source, LeavesOut) else {},
        passed_over=_passed_over(cfg, source),
        doubts=source.doubts() if isinstance(source, AsksForTruths) else {},
        remarks=source.remarks() if isinstance(source, Remarks) else (),
    )


def layout_of(cfg: DataConfig) -> str:
    """The layout and why it is that."""
    layout = detected(cfg)
    return f"{layout.layout}: {layout.why}" if layout else f"{name_of(cfg.source)}, as data.source says"


def _passed_over(cfg: DataConfig, source: Source) -> Mapping[str, Sequence[str]]:
    if isinstance(source, ListsRest):
        return source.passed_over()
    names = not_taken(expanded(cfg.root), source) if cfg.root else []
    return {"no part of the layout": names} if names else {}


@dataclass(frozen=True)
class Survey:
    """An overview, what reading a few patients shows, and what preparing the data would refuse."""

    overview: Overview
    samples: Mapping[str, Volume]
    rules: LabelRules
    refusals: Sequence[str]

    def rows(self) -> list[Row]:
        """Rows (name, value) of a table."""
        rows = self.overview.rows()
        if self.overview.files:
            patient, files = next(iter(self.overview.files.items()))
            rows += [("example", f"{patient}, {role}: {_shown(paths)}") for role, paths in files.items()]
        for patient, volume in self.samples.items():
            slices, height, width = volume.image_shwc.shape[:3]
            size = f"{slices} slices of {height}x{width}, {volume.image_shwc.dtype}"
            spacing = volume.spacing_mm and f", {' x '.join(f'{mm:.3g}' for mm in volume.spacing_mm)} mm"
            rows.append(("read", f"{patient}: {size}{spacing or ', spacing not known'}"))
            rows += [("remark", f"{patient}: {remark}") for remark in volume.remarks]
        rows += self._labels()
        return rows + [("would be refused", reason) for reason in self.refusals]

    def _labels(self) -> list[Row]:
        voxels: Counter[int] = Counter()
        for volume in self.samples.values():
            voxels.update(volume.label_voxels)
        found = ", ".join(f"{label}: {count:,} voxels" for label, count in sorted(voxels.items()))
        rows = [("labels in these", found)] if found else []
        for name, labels in (self.rules.regions or {}).items():
            rows.append(("region", f"{name}: labels {', '.join(map(str, labels))}"))
        if self.rules.regions is None:
            rows.append(("region", "lesion: white in masks of black and white"))
        if self.rules.ignore:
            rows.append(("ignored", f"labels {', '.join(map(str, self.rules.ignore))}"))
        return rows


def survey(cfg: DataConfig) -> Survey:
    """What preparing the data would take for what. Raises DataError where nothing can be told."""
    layout = detected(cfg)
    as_found = replace(cfg, source=layout.layout) if layout else cfg
    source = make_source(as_found)
    seen = overview(cfg, source)
    samples: dict[str, Volume] = {}
    unreadable = []
    readable = [patient for patient in seen.people if patient not in seen.broken and patient not in seen.doubts]
    for patient in readable[:SAMPLED]:
        try:
            samples[patient], _ = read_with_mask(source, patient)
        except DataError as error:
            unreadable.append(str(error))
    refusals = seen.refusals(as_found)
    refusals += [reason for reason in unreadable if reason not in refusals and not cfg.skip_bad]
    return Survey(seen, samples, source.rules, refusals)


def _shown(paths: Sequence[Path]) -> str:
    """The first file by its name and folder, and how many there are."""
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0].parent.name}/{paths[0].name}{more}"
