"""Variants compared with a baseline, patient by patient (L10). Pure functions.

Several patients may be scans of one person: `people` has the person of each of them. A person's value is the mean over
these scans, and n, intervals and tests are over people.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from segtrain.evaluation.intervals import CONFIDENCE, Reach, interval
from segtrain.evaluation.metrics import Summary
from segtrain.report.variance import (
    NOBODY,
    People,
    Scores,
    Spread,
    Variance,
    by_training,
    folds,
    means,
    spread,
    variance,
)
from segtrain.report.verdicts import Difference, Verdict, corrected, difference

FAILED = 0.1  # a DSC below it is a failure, which is counted apart
PLAIN: Mapping[str, Mapping[str, Scores]] = MappingProxyType({})


@dataclass(frozen=True)
class Mean:
    """The mean of a variant over people and trainings. `failures`: how many people are below FAILED."""

    summary: Summary
    variance: Variance
    spread: Spread
    trainings: int
    folds: int
    failures: int

    @property
    def failure_limit(self) -> float:
        """The upper end of the 95% interval of the rate of failures.

        Source: C. Clopper, E. Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
        """
        from scipy import stats  # slow to import

        n = self.summary.n
        if self.failures >= n:
            return 1.0 if n else math.nan
        return float(stats.beta.ppf((1 + CONFIDENCE) / 2, self.failures + 1, n - self.failures))


@dataclass(frozen=True)
class Row:
    """The mean of a variant over its people, and its difference to the baseline.

    Of several regions it is the mean over them, and `parts` has a row for each.
    """

    variant: str
    mean: Mean
    patients: int
    difference: Difference | None  # None: the baseline itself, or nothing to compare
    verdict: Verdict
    region: str = ""  # of a part
    parts: Sequence["Row"] = ()

    @property
    def summary(self) -> Summary:
        """The mean with its n and interval."""
        return self.mean.summary

    @property
    def lines(self) -> list["Row"]:
        """The row and its parts: a mean over regions is never told without them."""
        return [self, *self.parts]


def per_patient(scores: Scores) -> dict[str, float]:
    """Each patient's mean over seeds (and over folds that both score it); what is not finite is left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for (patient, _, _), value in sorted(scores.items(), key=str):
        if math.isfinite(value):
            values[patient].append(value)
    return {patient: math.fsum(of_patient) / len(of_patient) for patient, of_patient in sorted(values.items())}


def mean_of(scores: Scores, people: People = NOBODY, low_level: float = (1 - CONFIDENCE) / 2) -> Mean:
    """The mean over people and trainings, with the interval of new people and, where it can be known, new trainings."""
    trainings = by_training(scores, people)
    values, of_trainings = means(trainings), spread(trainings)
    whole = variance(values, [of_trainings], folds(trainings))
    every = list(values.values())
    if not every:
        nothing = Summary(math.nan, math.nan, 0, math.nan, math.nan)
        return Mean(nothing, whole, of_trainings, 0, 0, 0)
    lowest = 0.0 if min(every) >= 0 else -math.inf
    ends = interval(every, lowest, 1.0, Reach(whole.error, whole.df, low_level))
    summary = Summary(math.fsum(every) / len(every), float(np.median(every)), len(every), *ends)
    failures = sum(value < FAILED for value in every)
    return Mean(summary, whole, of_trainings, len(trainings), len({fold for fold, _ in trainings}), failures)


def compare(
    variants: Mapping[str, Scores],
    baseline: str,
    people: People = NOBODY,
    regions: Mapping[str, Mapping[str, Scores]] = PLAIN,
) -> list[Row]:
    """A row per variant, in the given order; `baseline` is one of them. p is corrected over all of the rows' lines.

    `regions`: the scores of each region, of the variants that have several, whose mean over them is in `variants`.
    """
    by_line = {(variant, ""): scores for variant, scores in variants.items()}
    by_line |= {(variant, region): scores for variant, own in regions.items() for region, scores in own.items()}
    differences: dict[tuple[str, str], Difference] = {}
    for (variant, region), scores in by_line.items():
        theirs = by_line.get((baseline, region))
        comparable = region or _names(regions, variant) == _names(regions, baseline)
        if variant == baseline or theirs is None or not comparable:
            continue
        if of_line := difference(scores, theirs, people):
            differences[variant, region] = of_line
    differences = dict(zip(differences, corrected(list(differences.values())), strict=True))

    def row(variant: str, region: str = "", parts: Sequence[Row] = ()) -> Row:
        scores, own = by_line[variant, region], differences.get((variant, region))
        verdict: Verdict = "no patient in common"
        if variant == baseline:
            verdict = "baseline"
        elif own:
            verdict = own.verdict
        elif _names(regions, variant) != _names(regions, baseline):
            verdict = "other regions"
        return Row(variant, mean_of(scores, people), len(per_patient(scores)), own, verdict, region, parts)

    return [row(variant, parts=[row(variant, region) for region in regions.get(variant, ())]) for variant in variants]


def lines_of(rows: Sequence[Row]) -> list[Row]:
    """The rows and their parts: the means over regions first, then region by region."""
    regions = dict.fromkeys(line.region for row in rows for line in row.lines)
    return [line for region in regions for row in rows for line in row.lines if line.region == region]


def _names(regions: Mapping[str, Mapping[str, Scores]], variant: str) -> set[str]:
    return set(regions.get(variant, ()))
