"""The intervals and tests of a report for many balanced data sets at once, and older ones to compare with.

Legend: d data set, n patient, s seed, b resample. A test holds them together with segtrain/report, one by one.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.worlds import Array, Design
from segtrain.evaluation.intervals import FEWEST_RESAMPLED, RESAMPLES
from segtrain.report.variance import FEWEST_FOLDS
from segtrain.report.verdicts import ALPHA

LEVELS = ALPHA / 2, 1 - ALPHA / 2


@dataclass(frozen=True)
class Total:
    """Of each data set: the variance of a mean, its degrees of freedom, the part of the patients, that of the folds."""

    variance_d: Array
    df_d: Array
    patients_d: Array
    folds_d: Array | None


def by_fold(values_dn: Array, design: Design) -> Array:
    """The mean of each fold [d, k]."""
    return np.stack([values_dn[:, design.fold_n == fold].mean(axis=1) for fold in range(design.folds)], axis=1)


def spread(scores_dns: Array, design: Design) -> tuple[Array, Array, int]:
    """The trainings' part, the overlap, the degrees of freedom."""
    sizes = np.bincount(design.fold_n)
    seeds, n = design.seeds, design.patients
    df = design.folds * (seeds - 1)
    squares_d = residuals_d = np.zeros(len(scores_dns))
    for fold in range(design.folds):
        centred = scores_dns[:, design.fold_n == fold]
        centred = centred - centred.mean(axis=2, keepdims=True)
        effects_ds = centred.mean(axis=1)
        squares_d = squares_d + (effects_ds**2).sum(axis=1)
        residuals_d = residuals_d + ((centred - effects_ds[:, None]) ** 2).sum(axis=(1, 2))
    weights = float(((sizes / n) ** 2).sum() / seeds)
    residual_df = int((sizes - 1).sum()) * (seeds - 1)
    overlap_d = residuals_d / residual_df / (n * seeds) if residual_df else np.zeros(len(scores_dns))
    return squares_d / df * weights, overlap_d, df


def total(values_dn: Array, recipes: list[Array], design: Design) -> Total:
    """The variance of the mean of patients' values, each of these recipes' trainings."""
    n, k = design.patients, design.folds
    patients_d = values_dn.var(axis=1, ddof=1) / n
    folds_d = None
    if k >= FEWEST_FOLDS:
        shares = np.bincount(design.fold_n) / n
        off_dk = by_fold(values_dn, design) - values_dn.mean(axis=1, keepdims=True)
        folds_d = k / (k - 1) * ((shares * off_dk) ** 2).sum(axis=1)
    if design.seeds > 1:
        parts = [spread(scores, design) for scores in recipes]
        trainings_d = np.sum([part for part, _, _ in parts], axis=0)
        overlap_d = np.sum([overlap for _, overlap, _ in parts], axis=0)
        variance_d = np.maximum.reduce([patients_d, trainings_d, patients_d + trainings_d - overlap_d])
        below_d = patients_d**2 / (n - 1) + np.sum([part**2 / df for part, _, df in parts], axis=0)
        return Total(variance_d, np.maximum(1, variance_d**2 / below_d), patients_d, folds_d)
    if folds_d is not None:
        df_d = np.where(folds_d >= patients_d, k - 1.0, n - 1.0)
        return Total(np.maximum(patients_d, folds_d), df_d, patients_d, folds_d)
    return Total(patients_d, np.full(len(values_dn), n - 1.0), patients_d, folds_d)


def by_seeds(recipes: list[Array], patients_d: Array, design: Design) -> tuple[Array, Array]:
    """The variance of the mean difference and its degrees of freedom if seeds act alike in all folds."""
    n, df = design.patients, design.seeds - 1
    parts = [scores.mean(axis=1).var(axis=1, ddof=1) / design.seeds for scores in recipes]
    overlap_d = np.sum([spread(scores, design)[1] for scores in recipes], axis=0)
    trainings_d = np.sum(parts, axis=0)
    variance_d = np.maximum.reduce([patients_d, trainings_d, patients_d + trainings_d - overlap_d])
    below_d = patients_d**2 / (n - 1) + np.sum([part**2 / df for part in parts], axis=0)
    return variance_d, np.maximum(1, variance_d**2 / below_d)


def t_p(mean_d: Array, variance_d: Array, df_d: Array | float) -> Array:
    """The two-sided p of the t test."""
    return np.asarray(2 * stats.t.sf(np.abs(mean_d) / np.sqrt(variance_d), df_d))


def p_values(own_dns: Array, other_dns: Array, design: Design) -> dict[str, Array]:
    """p of each data set by each test; those that a design does not allow are left out."""
    values_dn = own_dns.mean(axis=2) - other_dns.mean(axis=2)
    mean_d, n = values_dn.mean(axis=1), design.patients
    whole = total(values_dn, [own_dns, other_dns], design)
    p = {
        "Wilcoxon": np.asarray(stats.wilcoxon(values_dn, axis=1, method="approx").pvalue),
        "paired t": t_p(mean_d, whole.patients_d, n - 1),
    }
    if design.seeds > 1 or whole.folds_d is not None:
        p["folds and seeds"] = p["folds"] = t_p(mean_d, whole.variance_d, whole.df_d)
    if design.folds > 1 and not design.own_seeds:
        p.pop("folds", None)
        if design.seeds > 1:
            variance_d, df_d = by_seeds([own_dns, other_dns], whole.patients_d, design)
            p["folds"] = np.maximum(p["folds and seeds"], t_p(mean_d, variance_d, df_d))
    if "folds" in p and whole.folds_d is not None:
        p["strict"] = np.maximum(p["folds"], t_p(mean_d, whole.folds_d, design.folds - 1))
    return p


@cache
def _counts(n: int) -> Array:
    """How often each patient is in each resample [b, n]: the same resamples as a report's."""
    drawn_bn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    places_bn = drawn_bn + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(places_bn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(float)


def intervals(scores_dns: Array, design: Design) -> dict[str, NDArray[np.float64]]:
    """The ends [2, d] of each interval of the mean."""
    values_dn = np.sort(scores_dns.mean(axis=2), axis=1)
    n, mean_d = design.patients, values_dn.mean(axis=1)
    whole = total(scores_dns.mean(axis=2), [scores_dns], design)
    error_d = np.sqrt(whole.patients_d)
    over_patients_d = stats.t.ppf(LEVELS[1], n - 1) * error_d
    arm_d = stats.t.ppf(LEVELS[1], whole.df_d) * np.sqrt(whole.variance_d)
    centred_dn = values_dn - mean_d[:, None]
    resampled_db = centred_dn @ _counts(n).T / n
    squares_db = centred_dn**2 @ _counts(n).T / n
    variance_db = np.maximum(squares_db - resampled_db**2, 0) / (n - 1)
    same_db = variance_db * n <= 1e-18 * centred_dn.var(axis=1)[:, None]
    studentised_db = np.where(same_db, np.nan, resampled_db / np.sqrt(np.where(same_db, 1, variance_db)))
    quantiles = np.nanquantile(studentised_db, LEVELS, axis=1)
    factor_d = np.maximum(1, arm_d / over_patients_d)
    ends = {
        "percentile": mean_d + np.quantile(resampled_db, LEVELS, axis=1),
        "t over patients": np.stack([mean_d - over_patients_d, mean_d + over_patients_d]),
        "bootstrap-t over patients": mean_d - quantiles[::-1] * error_d,
        "ours": mean_d - quantiles[::-1] * error_d * factor_d,
    }
    if n < FEWEST_RESAMPLED:
        ends["ours"] = np.stack([mean_d - arm_d, mean_d + arm_d])
    return {name: np.clip(both, 0, 1) for name, both in ends.items()}
