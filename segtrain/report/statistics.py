"""Variants compared with a baseline, patient by patient (L10). Pure functions."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from segtrain.evaluation.metrics import Summary, summarise

ALPHA = 0.05  # of all verdicts of one report together

Unit = tuple[str, int | None, int | None]  # patient, fold, seed
Scores = Mapping[Unit, float]
Pairing = Literal["fold and seed", "patients' means"]
Verdict = Literal["baseline", "better", "worse", "not distinguishable", "no patient in common"]


@dataclass(frozen=True)
class Difference:
    """A variant less the baseline, over the `summary.n` patients that both scored."""

    summary: Summary
    p: float  # Wilcoxon signed-rank, two-sided
    p_holm: float  # corrected for the number of variants compared
    verdict: Verdict
    pairing: Pairing


@dataclass(frozen=True)
class Row:
    """A variant's line: the mean over its patients, and how it differs from the baseline."""

    variant: str
    summary: Summary
    difference: Difference | None  # none: the baseline itself, or no patient in common
    verdict: Verdict


def per_patient(scores: Scores) -> dict[str, float]:
    """Each patient's mean over seeds (and over folds that both score it)."""
    values: dict[str, list[float]] = defaultdict(list)
    for (patient, _, _), value in sorted(scores.items(), key=str):
        values[patient].append(value)
    return {patient: math.fsum(of_patient) / len(of_patient) for patient, of_patient in sorted(values.items())}


def paired(scores: Scores, baseline: Scores) -> dict[str, float]:
    """Each common patient's difference: run against run of one fold and seed, then averaged.

    A seed that only one of the two has is left out, so a failed run does not tilt the other seeds' pairs. Where no
    fold and seed are common, the patients' means are compared.
    """
    if common := _common(scores, baseline):
        return per_patient({unit: scores[unit] - baseline[unit] for unit in common})
    own, theirs = per_patient(scores), per_patient(baseline)
    return {patient: own[patient] - theirs[patient] for patient in own if patient in theirs}


def _common(scores: Scores, baseline: Scores) -> set[Unit]:
    """What both scored; runs of unknown seeds are not of one."""
    return {(patient, fold, seed) for patient, fold, seed in scores.keys() & baseline.keys() if seed is not None}


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test; 1 where nothing differs.

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
    """A row a variant, in the given order; `baseline` is one of them."""
    found = {}
    for variant, scores in variants.items():
        differences = list(paired(scores, variants[baseline]).values()) if variant != baseline else []
        if differences:
            p, same = wilcoxon_p(differences), _common(scores, variants[baseline])
            pairing: Pairing = "fold and seed" if same else "patients' means"
            found[variant] = Difference(summarise(differences), p, p, "not distinguishable", pairing)
    corrected = dict(zip(found, holm([difference.p for difference in found.values()]), strict=True))
    rows = []
    for variant, scores in variants.items():
        difference, none = found.get(variant), "baseline" if variant == baseline else "no patient in common"
        if difference:
            difference = replace(
                difference, p_holm=corrected[variant], verdict=_verdict(difference.summary, corrected[variant])
            )
        verdict: Verdict = difference.verdict if difference else none  # type: ignore[assignment]
        rows.append(Row(variant, summarise(list(per_patient(scores).values())), difference, verdict))
    return rows


def _verdict(difference: Summary, p_holm: float) -> Verdict:
    """Both must agree; the interval of fewer than two patients has NaN ends and excludes nothing."""
    if p_holm <= ALPHA and difference.ci_low > 0:
        return "better"
    if p_holm <= ALPHA and difference.ci_high < 0:
        return "worse"
    return "not distinguishable"


def can_find(rows: Sequence[Row]) -> bool:
    """Whether the pairs are enough for any verdict: all of n on one side give p = 2 / 2^n, and no less."""
    smallest = [2 * 0.5**row.difference.summary.n for row in rows if row.difference]
    return any(p <= ALPHA for p in holm(smallest))
