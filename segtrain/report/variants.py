"""The runs of each variant together: their scores, and their comparison with the baseline."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from segtrain.errors import RunError
from segtrain.evaluation.metrics import Summary
from segtrain.report.best_of import BestOf, best_of
from segtrain.report.collect import Collected
from segtrain.report.statistics import Row, compare, mean_of, per_patient
from segtrain.report.variance import Scores, Unit
from segtrain.run import Member, differences

Which = Literal["last", "best"]


def by_variant(runs: Sequence[Collected], baseline: str | None) -> tuple[str, dict[str, list[Collected]]]:
    """The baseline (unless named, the variant that began first) and the runs that count by variant, the baseline first.

    Raises RunError: the named baseline has no run that counts.
    """
    groups: dict[str, list[Collected]] = {}
    for run in runs:
        if run.counts:
            groups.setdefault(run.variant, []).append(run)
    first = baseline or (runs[0].variant if runs[0].variant in groups else next(iter(groups), ""))
    if groups and first not in groups:
        raise RunError(f"--baseline {first}: no finished run of it; choose one of {', '.join(groups)}")
    return first, {variant: groups[variant] for variant in sorted(groups, key=lambda variant: variant != first)}


def scores(runs: Sequence[Collected], which: Which = "last", region: str = "") -> Scores:
    """Every patient's DSC by fold and seed, at the `last` or the `best` epoch of these runs of one variant.

    Without a region it is the mean over all. Raises RunError: two of the runs score a patient in one fold and with one
    seed, or have other regions.
    """
    by_unit: dict[Unit, float] = {}
    for run in runs:
        scored = run.last if which == "last" else run.best
        assert scored is not None, "a run that counts has been evaluated"
        if set(run.regions) != set(runs[0].regions):
            raise RunError(
                f"{run.run.root}: has other regions ({', '.join(run.regions) or 'one'}) than another run of "
                f"{run.variant} ({', '.join(runs[0].regions) or 'one'}); leave one of the two out"
            )
        own = {(patient, run.fold, run.seed): dsc for patient, dsc in scored.scores(region).items()}
        if doubled := sorted(own.keys() & by_unit.keys(), key=str):
            raise RunError(
                f"{run.run.root}: patient {doubled[0][0]} was also scored by another run of {run.variant} with the "
                "same fold and seed; leave one of the two out"
            )
        by_unit |= own
    return by_unit


def compared(groups: Mapping[str, Sequence[Collected]], baseline: str) -> list[Row]:
    """The variants, each with its regions, compared with the baseline at their last epochs."""
    means = {variant: scores(runs) for variant, runs in groups.items()}
    regions = {
        variant: {region: scores(runs, "last", region) for region in runs[0].regions}
        for variant, runs in groups.items()
    }
    people = next(iter(groups.values()))[0].people
    return compare(means, baseline, people, regions)


def best_variant(groups: Mapping[str, Sequence[Collected]]) -> BestOf | None:
    """The best of the variants that have the baseline's regions, which comes first."""
    first = next(iter(groups.values()))
    alike = {name: scores(runs) for name, runs in groups.items() if set(runs[0].regions) == set(first[0].regions)}
    return best_of(alike, first[0].people)


def mean_of_variant(
    runs: Sequence[Collected], which: Which = "last", region: str = ""
) -> tuple[Mapping[str, float], Summary]:
    """Each patient's DSC, averaged over the runs of one variant, and the mean over their people and trainings."""
    of_runs = scores(runs, which, region)
    return per_patient(of_runs), mean_of(of_runs, runs[0].people).summary


def changes(run: Collected, baseline: Collected) -> Mapping[str, Any]:
    """The settings in which two runs differ; empty where a config cannot be read."""
    if run.config is None or baseline.config is None:
        return {}
    one, other = (Member(r.variant, r.fold, r.seed or 0, r.config) for r in (run, baseline) if r.config)
    unimportant = ("runs_dir", "data.store", "data.split_version")
    return {key: value for key, value in differences(one, other).items() if key not in unimportant}
