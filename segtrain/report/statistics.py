"""Variants compared with a baseline, patient by patient (L10). Pure functions.

Several patients may be scans of one person: `people` has the person of each of them. A person's value is the mean over
these scans, and n, intervals and tests are over people.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from segtrain.data.people import values_by_person
from segtrain.evaluation.metrics import Summary, summarise

ALPHA = 0.05  # for all verdicts of one report together

Unit = tuple[str, int | None, int | None]  # patient, fold, seed
Scores = Mapping[Unit, float]
Pairing = Literal["fold and seed", "patients' means"]
Verdict = Literal["baseline", "better", "worse", "not distinguishable", "no patient in common", "other regions"]
People = Mapping[str, str]
NOBODY: People = MappingProxyType({})
PLAIN: Mapping[str, Mapping[str, Scores]] = MappingProxyType({})


@dataclass(frozen=True)
class Difference:
    """The difference of a variant to the baseline, over `summary.n` people, whose `patients` both scored."""

    summary: Summary
    patients: int
    p: float  # Wilcoxon signed-rank, two-sided
    p_holm: float  # corrected for the number of variants compared
    verdict: Verdict
    pairing: Pairing


@dataclass(frozen=True)
class Row:
    """The mean of a variant over its people, and its difference to the baseline.

    Of several regions it is the mean over them, and `parts` has a row for each.
    """

    variant: str
    summary: Summary
    patients: int
    difference: Difference | None  # None: the baseline itself, or nothing to compare
    verdict: Verdict
    region: str = ""  # of a part
    parts: Sequence["Row"] = ()

    @property
    def lines(self) -> list["Row"]:
        """The row and its parts: a mean over regions is never told without them."""
        return [self, *self.parts]


def per_patient(scores: Scores) -> dict[str, float]:
    """Each patient's mean over seeds (and over folds that both score it)."""
    values: dict[str, list[float]] = defaultdict(list)
    for (patient, _, _), value in sorted(scores.items(), key=str):
        values[patient].append(value)
    return {patient: math.fsum(of_patient) / len(of_patient) for patient, of_patient in sorted(values.items())}


def paired(scores: Scores, baseline: Scores) -> dict[str, float]:
    """Each common patient's difference between runs of one fold and seed, averaged over these pairs of runs.

    A seed that only one of the two has is left out, so that a failed run does not bias the comparison. Where no fold
    and seed are common, the patients' means are compared.
    """
    if common := _common(scores, baseline):
        return per_patient({unit: scores[unit] - baseline[unit] for unit in common})
    own, theirs = per_patient(scores), per_patient(baseline)
    return {patient: own[patient] - theirs[patient] for patient in own if patient in theirs}


def _common(scores: Scores, baseline: Scores) -> set[Unit]:
    """The units that both scored. Two runs whose seeds are unknown do not share a seed."""
    return {(patient, fold, seed) for patient, fold, seed in scores.keys() & baseline.keys() if seed is not None}


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test; 1 where there is no difference.

    Source: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945; patients without a
    difference are left out, as there.
    """
    nonzero = [value for value in differences if value != 0]
    if not nonzero:
        return 1.0
    from scipy import stats  # slow to import

    return float(stats.wilcoxon(np.asarray(nonzero)).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in corrected]


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
        if difference := _difference(scores, theirs, people):
            differences[variant, region] = difference
    p_holm = holm([difference.p for difference in differences.values()])
    for (line, difference), p in zip(list(differences.items()), p_holm, strict=True):
        differences[line] = replace(difference, p_holm=p, verdict=_verdict(difference.summary, p))

    def row(variant: str, region: str = "", parts: Sequence[Row] = ()) -> Row:
        scores, own = by_line[variant, region], differences.get((variant, region))
        verdict: Verdict = "no patient in common"
        if variant == baseline:
            verdict = "baseline"
        elif own:
            verdict = own.verdict
        elif _names(regions, variant) != _names(regions, baseline):
            verdict = "other regions"
        values = per_patient(scores)
        return Row(variant, summarise(values_by_person(values, people)), len(values), own, verdict, region, parts)

    return [row(variant, parts=[row(variant, region) for region in regions.get(variant, ())]) for variant in variants]


def _names(regions: Mapping[str, Mapping[str, Scores]], variant: str) -> set[str]:
    return set(regions.get(variant, ()))


def _difference(scores: Scores, baseline: Scores, people: People) -> Difference | None:
    """The difference before the correction of p; None without a patient in common."""
    by_patient = paired(scores, baseline)
    if not by_patient:
        return None
    differences = values_by_person(by_patient, people)
    p = wilcoxon_p(differences)
    pairing: Pairing = "fold and seed" if _common(scores, baseline) else "patients' means"
    return Difference(summarise(differences), len(by_patient), p, p, "not distinguishable", pairing)


def _verdict(difference: Summary, p_holm: float) -> Verdict:
    """Test and interval must agree; the interval of fewer than two people has NaN ends and excludes nothing."""
    if p_holm <= ALPHA and difference.ci_low > 0:
        return "better"
    if p_holm <= ALPHA and difference.ci_high < 0:
        return "worse"
    return "not distinguishable"


def can_find(rows: Sequence[Row]) -> bool:
    """Whether there are enough pairs for any verdict: if all n differences have one sign, p is 2 / 2^n, its minimum."""
    lines = [line for row in rows for line in row.lines]
    smallest = [2 * 0.5**line.difference.summary.n for line in lines if line.difference]
    return any(p <= ALPHA for p in holm(smallest))
