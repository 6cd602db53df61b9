"""The choice of a search: its best variant by the scores of its report, and who took part in choosing it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain.config import Config, DataConfig
from segtrain.config.paths import expanded
from segtrain.data.folds import BEFORE_VERSIONS
from segtrain.data.people import people_of
from segtrain.errors import BaselineIsBest, RunError
from segtrain.report.collect import Collected, collect
from segtrain.report.measurement import Comparable, comparables
from segtrain.report.texts import first_names
from segtrain.report.variants import best_variant

log = logging.getLogger(__name__)

Deal = tuple[str, int, int, str | None]


@dataclass(frozen=True)
class Choice:
    """The best variant of a search.

    variants: how many have a score; folds: of all its runs; patients: whom any run has scored, with their persons;
    everybody: all patients of its data, likewise; deals: the settings that dealt them to folds; version: of the
    definition of the split.
    """

    variant: str
    variants: int
    folds: frozenset[int]
    patients: Mapping[str, str]
    everybody: Mapping[str, str]
    deals: frozenset[Deal]
    version: int
    config: Config  # of a run of that variant


def deal_of(data: DataConfig) -> Deal:
    """The settings by which people are dealt to folds."""
    return data.split, data.split_seed, data.folds, data.groups


def choose(folder: Path, runs_by_variant: Mapping[str, Sequence[str]]) -> Choice:
    """The choice among variants, the baseline first, each with the names of its runs in the folder.

    Variants with a run that has failed, or of another measurement than the first that is complete, are left out.
    Raises BaselineIsBest; RunError: runs that have not ended, or no variant beside the baseline.
    """
    runs = collect([folder])
    by_name = {run.run.root.name: run for run in runs}
    _refuse_unfinished(folder, by_name, [name for names in runs_by_variant.values() for name in names])
    complete = {
        variant: [by_name[name] for name in names]
        for variant, names in runs_by_variant.items()
        if all(by_name[name].counts for name in names)
    }
    for variant in runs_by_variant.keys() - complete.keys():
        log.warning("%s: %s is left out of the choice, since a run of it has failed", folder, variant)
    parts = comparables([run for of_variant in complete.values() for run in of_variant])
    alike = _alike(parts, next(iter(complete), ""))
    for variant in complete.keys() - alike:
        log.warning("%s: %s is left out of the choice, since its scores are of another measurement", folder, variant)
    groups = {variant: of_variant for variant, of_variant in complete.items() if variant in alike}
    best = best_variant(groups) if len(groups) > 1 else None
    if best is None:
        raise RunError(f"{folder}: has no two variants to choose from, all of whose runs have finished")
    baseline = next(iter(runs_by_variant))
    if best.variant == baseline:
        raise BaselineIsBest(
            f"{folder}: {baseline}, the baseline, is the best of {len(groups)}; there is nothing to confirm"
        )
    return _choice(best.variant, runs, groups[best.variant][0], folder)


def _refuse_unfinished(folder: Path, by_name: Mapping[str, Collected], names: Sequence[str]) -> None:
    unfinished = [
        name for name in names if name not in by_name or by_name[name].state in ("none", "running", "stopped")
    ]
    if unfinished:
        raise RunError(
            f"{folder}: {len(unfinished)} runs have not ended ({first_names(unfinished)}); finish them by the same "
            "command without --confirm, or take their variants off the spec"
        )


def _alike(parts: Sequence[Comparable], variant: str) -> set[str]:
    """The variants that are in one part alone, that of this variant."""
    of_part = [{run.variant for run in part.runs} for part in parts]
    own = next((variants for variants in of_part if variant in variants), set())
    return {name for name in own if sum(name in variants for variants in of_part) == 1}


def _choice(variant: str, runs: Sequence[Collected], best: Collected, folder: Path) -> Choice:
    """With all who took part: in runs of variants that were taken off the spec, too."""
    scored = [run for run in runs if run.last]
    without_split = [run.name for run in scored if run.split is None]
    if without_split:
        raise RunError(
            f"{folder}: the split of {without_split[0]} cannot be read, so who took part is not known; restore the file"
        )
    versions = {run.split.version or BEFORE_VERSIONS for run in scored if run.split}
    if len(versions) > 1:
        raise RunError(f"{folder}: its runs follow several definitions of the split; confirm a search of one")
    assert best.config is not None, "a run without a config is of no measurement"
    known = dict(best.people)
    groups = best.config.data.groups
    patients = sorted({patient for run in scored if run.split for patient in run.split.patients})
    everybody = people_of(patients, expanded(groups) if groups else None, known)
    took_part = {patient for run in scored for one in (run.last, run.best) if one for patient in one.by_patient}
    return Choice(
        variant=variant,
        variants=len({run.variant for run in scored}),
        folds=frozenset(run.fold for run in runs if run.fold is not None and run.last),
        patients={patient: everybody.get(patient, patient) for patient in sorted(took_part)},
        everybody=everybody,
        deals=frozenset(deal_of(run.config.data) for run in scored if run.config),
        version=versions.pop(),
        config=best.config,
    )
