"""Which scores may be compared: those of one measurement, that is of the same truth, in the same pixels, by one rule.

A patient's DSC at 64 px and one at 96 px are of two different masks; so are those of made-up patients of two seeds,
which have the same names. Runs of different measurements are told apart, and never paired or averaged. So are the runs
of a confirmation: with them those that chose would be in one mean, and in one verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from segtrain.config import POSTPROCESSING, Config, flatten
from segtrain.report.collect import Collected
from segtrain.report.confirmation import confirming

SIZE, SPACING, SOURCE = "data.image_size", "data.spacing_mm", "data.source"
GEOMETRY = (SIZE, SPACING)  # settings that change the pixels and not the truth in the source
# How the truth is read and prepared, and what makes a mask of probabilities; regions are compared one by one.
KEYS = (
    SOURCE, *GEOMETRY, "data.ignore", "data.remap", "data.soft_above", "data.rater", "data.resample",
    *(f"evaluate.{key}" for key in POSTPROCESSING),
)  # fmt: skip
PHANTOM = "data.phantom."
Voxels = tuple[str, str]  # slices and lesion voxels of a patient's region, as a table of scores has them


@dataclass(frozen=True)
class Measurement:
    """The settings, as text by key, and the fingerprint of the data; empty in a run from before it was recorded."""

    settings: Mapping[str, str]
    data: str = ""

    @classmethod
    def of(cls, cfg: Config, data: str) -> "Measurement":
        """That of a run's scores."""
        values = dict(flatten(asdict(cfg)))
        settings = {key: _text(values, key) for key in KEYS}
        if cfg.data.source == "phantom":
            settings |= {key: str(value) for key, value in values.items() if key.startswith(PHANTOM)}
        return cls(settings, data)

    def without_geometry(self) -> Mapping[str, str]:
        """The settings that must agree where scores are in the source's geometry."""
        return {key: value for key, value in self.settings.items() if key not in GEOMETRY}


def _text(values: Mapping[str, object], key: str) -> str:
    """A setting; of one that has a value a region, all of them."""
    if key in values:
        return str(values[key])
    return str({name: value for name, value in values.items() if name.startswith(f"{key}.")})


@dataclass(frozen=True)
class Comparable:
    """The runs of one measurement, in their order, and what tells it from the others of the report.

    confirmation: the folder of the confirmation whose runs these are; measured: the title without it.
    """

    measurement: Measurement | None
    runs: Sequence[Collected] = ()
    truth: Mapping[tuple[str, str], Voxels] = field(default_factory=dict)  # by patient and region
    title: str = ""
    measured: str = ""
    confirmation: Path | None = None

    @property
    def counts(self) -> bool:
        """Whether any of its runs enters a comparison."""
        return any(run.counts for run in self.runs)

    def takes(self, run: Collected, measurement: Measurement | None) -> bool:
        """Whether a run's scores are of this measurement, as far as the run says what they are of."""
        mine = self.measurement
        if measurement is None and self.truth.keys().isdisjoint(truth_of(run)):
            return False
        if mine is not None and measurement is not None:
            if mine.settings != measurement.settings:
                return False
            if mine.data and measurement.data and mine.data != measurement.data:
                return False
        return self.conflict(truth_of(run)) is None

    def conflict(self, truth: Mapping[tuple[str, str], Voxels]) -> tuple[str, str] | None:
        """The first patient and region whose truth has another number of voxels."""
        both = [key for key in truth if key in self.truth]
        return next((key for key in both if truth[key] != self.truth[key]), None)

    def plus(self, run: Collected, measurement: Measurement | None) -> "Comparable":
        """With one more run."""
        mine = self.measurement or measurement
        if mine is not None and measurement is not None:
            mine = replace(mine, data=mine.data or measurement.data)
        return replace(self, measurement=mine, runs=[*self.runs, run], truth={**truth_of(run), **self.truth})


def truth_of(run: Collected) -> dict[tuple[str, str], Voxels]:
    """The size of every patient's truth; empty where no table says it."""
    rows = [row for row in run.last.rows if "voxels" in row] if run.last else []
    return {(row["patient"], row.get("region", "")): (row.get("slices", ""), row["voxels"]) for row in rows}


def comparables(runs: Sequence[Collected]) -> list[Comparable]:
    """The runs by measurement, those of each confirmation apart, in the order of their first runs.

    A run whose config cannot be read is with the runs that score the same patients; where it does not count, else with
    those of its variant, of its folder, or the first.
    """
    groups: list[Comparable] = []
    confirmations = confirming(runs)
    for run in sorted(runs, key=lambda run: run.config is None):
        measurement = None if run.config is None else Measurement.of(run.config, run.data)
        confirmation = run.run.root.parent if run.run.root.parent in confirmations else None
        alike = {place: one for place, one in enumerate(groups) if one.confirmation == confirmation}
        place = next((place for place, one in alike.items() if one.takes(run, measurement)), None)
        if place is None and measurement is None and not run.counts:
            place = _place_of_stray(run, alike)
        if place is None:
            groups.append(Comparable(None, confirmation=confirmation))
            place = len(groups) - 1
        groups[place] = groups[place].plus(run, measurement)
    order = {run.run.root: place for place, run in enumerate(runs)}
    groups = [replace(one, runs=sorted(one.runs, key=lambda run: order[run.run.root])) for one in groups]
    groups.sort(key=lambda one: order[one.runs[0].run.root])
    groups = [replace(one, measured=title) for one, title in zip(groups, _titles(groups), strict=True)]
    return [replace(one, title=", ".join([one.measured, *_confirmation_name(one, confirmations)])) for one in groups]


def _confirmation_name(one: Comparable, confirmations: Sequence[Path]) -> list[str]:
    """The name of its folder, or the folder where two have that name; none of what is no confirmation."""
    folder = one.confirmation
    if folder is None:
        return []
    alone = sum(other.name == folder.name for other in confirmations) == 1
    return [folder.name if alone else str(folder)]


def _place_of_stray(run: Collected, groups: Mapping[int, Comparable]) -> int | None:
    """The group with a run of the same variant, else of the same folder, else the first; None without any."""
    for alike in (
        lambda other: other.variant == run.variant,
        lambda other: other.run.root.parent == run.run.root.parent,
    ):
        for place, one in groups.items():
            if any(map(alike, one.runs)):
                return place
    return next(iter(groups), None)


def _titles(groups: Sequence[Comparable]) -> list[str]:
    """What each is of: the source, the size, and what else tells it from the others."""
    settings = [one.measurement.settings if one.measurement else {} for one in groups]
    keys = dict.fromkeys(key for each in settings for key in each if key not in (SOURCE, SIZE))
    differing = [key for key in keys if len({each[key] for each in settings if key in each}) > 1]
    usual = Measurement.of(Config(), "").settings
    data = {one.measurement.data for one in groups if one.measurement and one.measurement.data}
    titles: list[str] = []
    for one, each in zip(groups, settings, strict=True):
        words = [each[SOURCE], f"{each[SIZE]} px"] if each else [one.runs[0].name]
        unusual = [key for key in differing if key in each and each[key] != usual.get(key)]
        words += [f"{key.partition('.')[2]}={each[key]}" for key in unusual]
        if len(data) > 1 and one.measurement and one.measurement.data:
            words.append(f"data {one.measurement.data[:8]}")
        title = ", ".join(words)
        for other, theirs in zip(groups, titles, strict=False):
            if title == theirs and (key := other.conflict(one.truth)):
                title += f", {key[0]} of {one.truth[key][1]} voxels"
        titles.append(title)
    return titles
