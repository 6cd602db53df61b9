"""The post-processing that `segtrain postprocess` chose, kept in the run: postprocessing/settings.json and the others.

settings.json holds what was chosen without the patients of the run's own fold, all_folds.json what was chosen on the
patients of all folds. They are two files so that the masks of a fold leave no trace in the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segtrain.config import Postprocessing
from segtrain.errors import DAMAGED, DamagedFile, RunError
from segtrain.run.layout import RunLayout
from segtrain.run.stored import built, damaged, number_in, reading, table_in, tree_in
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text

VERSION = 1
EFFECT_COLUMNS = ("patient", "region", "dsc", "dsc_as_configured")


@dataclass(frozen=True)
class FoldMember:
    """A checkpoint of the run of a fold."""

    run: str  # the name of its folder
    fold: int
    checkpoint: str
    weights_sha256: str


@dataclass(frozen=True)
class RegionChoice:
    """One region's settings, and the evidence: mean DSC over the people on whom they were chosen.

    settings: those to use, which are `best` or `configured`; gain: of choosing, over what is configured, in people of
    folds that were left out of the choice, with its 95% interval.
    """

    settings: Postprocessing
    configured: Postprocessing
    best: Postprocessing
    people: int
    dsc_configured: float
    dsc_best: float
    gain: float
    gain_ci_low: float | None
    gain_ci_high: float | None


@dataclass(frozen=True)
class ChosenPostprocessing:
    """The choice for the ensemble of `members`, made on what `predictors` predicted for `patients`."""

    members: tuple[FoldMember, ...]
    predictors: tuple[FoldMember, ...]
    patients: tuple[str, ...]
    tta: str
    candidates: int
    rule: str
    regions: Mapping[str, RegionChoice]

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds whose patients took part."""
        return tuple(sorted({member.fold for member in self.predictors}))

    @property
    def folds_of_members(self) -> tuple[int, ...]:
        """The folds whose runs it is for."""
        return tuple(sorted({member.fold for member in self.members}))


@dataclass(frozen=True)
class Effect:
    """DSC of one patient and region, who took no part in the choice, with the chosen settings and as configured."""

    patient: str
    region: str
    dsc: float
    dsc_as_configured: float


def write_postprocessing(
    run: RunLayout, own: ChosenPostprocessing, all_folds: ChosenPostprocessing, effects: Sequence[Effect]
) -> None:
    """Write the three files into the run; settings.json last. Raises RunError."""
    folder = run.postprocessing
    try:
        files.make_folder(folder)
        rows = [
            {"patient": one.patient, "region": one.region, "dsc": f"{one.dsc:.6f}",
             "dsc_as_configured": f"{one.dsc_as_configured:.6f}"}
            for one in effects
        ]  # fmt: skip
        files.write_text(run.postprocessing_effect, csv_text(rows, EFFECT_COLUMNS))
        files.write_json(run.postprocessing_of_all_folds, {"version": VERSION, **asdict(all_folds)})
        files.write_json(run.postprocessing_settings, {"version": VERSION, **asdict(own)})
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); free the folder, and start again") from error


def read_postprocessing(path: Path) -> ChosenPostprocessing | None:
    """The choice in a file; None where there is none. Raises RunError."""
    remedy = "run segtrain postprocess again, or give --postprocessing configured"
    try:
        tree = tree_in(path, dict, remedy)
        if tree["version"] != VERSION:
            raise ValueError(f"version {tree['version']}, this segtrain reads {VERSION}")
        return _from_json(tree)
    except FileNotFoundError:
        return None
    except DamagedFile:
        raise
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise damaged(path, f"{type(error).__name__}: {reason}", remedy) from error


def read_effects(run: RunLayout) -> list[Effect]:
    """The effect on the run's own patients, none where nothing was chosen.

    Raises DamagedFile; OSError, LookupError.
    """
    if not run.postprocessing_effect.exists():
        return []
    with reading(run.postprocessing_effect):
        return [
            Effect(row["patient"], row["region"], number_in(row["dsc"]), number_in(row["dsc_as_configured"]))
            for row in table_in(run.postprocessing_effect)
        ]


def _from_json(tree: Mapping[str, Any]) -> ChosenPostprocessing:
    return ChosenPostprocessing(
        members=tuple(built(FoldMember, one) for one in tree["members"]),
        predictors=tuple(built(FoldMember, one) for one in tree["predictors"]),
        patients=tuple(map(str, tree["patients"])),
        tta=str(tree["tta"]),
        candidates=int(tree["candidates"]),
        rule=str(tree["rule"]),
        regions={name: _region(one) for name, one in tree["regions"].items()},
    )


def _region(tree: Mapping[str, Any]) -> RegionChoice:
    settings = {key: built(Postprocessing, tree[key]) for key in ("settings", "configured", "best")}
    return built(RegionChoice, {**tree, **settings})
