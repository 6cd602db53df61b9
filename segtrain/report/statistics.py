"""Variants compared with a baseline, patient by patient (L10). Pure functions."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from segtrain.evaluation.metrics import Summary, summarise

ALPHA = 0.05  # for all verdicts of one report together

Unit = tuple[str, int | None, int | None]  # patient, fold, seed
Scores = Mapping[Unit, float]
Pairing = Literal["fold and seed", "patients' means"]
Verdict = Literal["baseline", "better", "worse", "not distinguishable", "no patient in common"]


@dataclass(frozen=True)
class Difference:
    """The difference of a variant to the baseline, over the `summary.n` patients that both scored."""

    summary: Summary
    p: float  # Wilcoxon signed-rank, two-sided
    p_holm: float  # corrected for the number of variants compared
    verdict: Verdict
    pairing: Pairing


@dataclass(frozen=True)
class Row:
    """The mean of a variant over its patients, and its difference to the baseline."""

    variant: str
    summary: Summary
    difference: Difference | None  # None: the baseline itself, or no patient in common
    verdict: Verdict


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


def compare(variants: Mapping[str, Scores], baseline: str) -> list[Row]:
    """A row per variant, in the given order; `baseline` is one of them."""
    differences: dict[str, Difference] = {}
    for variant, scores in variants.items():
        if variant != baseline and (difference := _difference(scores, variants[baseline])):
            differences[variant] = difference
    p_holm = holm([difference.p for difference in differences.values()])
    for (variant, difference), p in zip(list(differences.items()), p_holm, strict=True):
        differences[variant] = replace(difference, p_holm=p, verdict=_verdict(difference.summary, p))
    rows = []
    for variant, scores in variants.items():
        own = differences.get(variant)
        verdict: Verdict = "no patient in common"
        if variant == baseline:
            verdict = "baseline"
        elif own:
            verdict = own.verdict
        rows.append(Row(variant, summarise(list(per_patient(scores).values())), own, verdict))
    return rows


def _difference(scores: Scores, baseline: Scores) -> Difference | None:
    """The difference before the correction of p; None without a patient in common."""
    differences = list(paired(scores, baseline).values())
    if not differences:
        return None
    p = wilcoxon_p(differences)
    pairing: Pairing = "fold and seed" if _common(scores, baseline) else "patients' means"
    return Difference(summarise(differences), p, p, "not distinguishable", pairing)


def _verdict(difference: Summary, p_holm: float) -> Verdict:
    """Test and interval must agree; the interval of fewer than two patients has NaN ends and excludes nothing."""
    if p_holm <= ALPHA and difference.ci_low > 0:
        return "better"
    if p_holm <= ALPHA and difference.ci_high < 0:
        return "worse"
    return "not distinguishable"


def can_find(rows: Sequence[Row]) -> bool:
    """Whether there are enough pairs for any verdict: if all n differences have one sign, p is 2 / 2^n, its minimum."""
    smallest = [2 * 0.5**row.difference.summary.n for row in rows if row.difference]
    return any(p <= ALPHA for p in holm(smallest))
