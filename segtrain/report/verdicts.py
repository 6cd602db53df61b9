"""The difference of two recipes, its test and its verdict. Pure functions.

The t test of the mean paired difference, with people and trainings as sources of variance; Holm's correction over all
comparisons of a report; by the strict form the means of five folds or more, and the seeds as wholes, must show the
difference, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from segtrain.evaluation.intervals import CONFIDENCE
from segtrain.evaluation.metrics import Summary
from segtrain.report.variance import (
    FEWEST_FOLDS,
    NOBODY,
    People,
    Scores,
    Spread,
    Variance,
    by_training,
    fold_means,
    folds,
    means,
    spread,
    variance,
    variance_by_folds,
    variance_by_seeds,
)

ALPHA = 0.05  # for all verdicts of one report together; for those of a confirmation in it by themselves
FEWEST_PEOPLE = 4  # whose scores may give a verdict
FEW_PEOPLE = 8  # fewer cannot stand for others
FEW_DF = 4  # with fewer degrees of freedom the trainings are too few, however many people there are
UNEQUAL = 3.0  # times the other's spread between trainings

Verdict = Literal[
    "baseline", "better", "worse", "better on these folds", "worse on these folds", "better on these folds and seeds",
    "worse on these folds and seeds", "not distinguishable", "no verdict", "no patient in common", "other regions",
]  # fmt: skip
Remark = Literal["one_fold", "few_trainings", "few_people", "seeds_alike", "unequal_spreads"]


@dataclass(frozen=True)
class Folds:
    """The folds of a comparison, in how many the variant is ahead, and p of the t test over their means.

    p is NaN of fewer than five folds, and where the two recipes have other folds.
    """

    number: int
    ahead: int
    p: float


@dataclass(frozen=True)
class Difference:
    """The difference of a variant to the baseline, over `summary.n` people, whose `patients` both scored.

    own, baseline: the spreads of their trainings; p_seeds: the larger of p and that of seeds which act alike in
    all folds, 1 of one seed; p_strict: the larger of that and the folds' p. A p after Holm's correction is NaN where no
    verdict can be given.
    """

    summary: Summary
    patients: int
    variance: Variance
    own: Spread
    baseline: Spread
    folds: Folds | None  # None: the two recipes have other folds
    p: float
    p_seeds: float
    p_strict: float
    p_holm: float = math.nan
    p_seeds_holm: float = math.nan
    p_strict_holm: float = math.nan
    verdict: Verdict = "no verdict"

    @property
    def decidable(self) -> bool:
        """Whether a verdict about the recipes can be given at all."""
        return self.variance.basis != "patients" and self.summary.n >= FEWEST_PEOPLE

    @property
    def sd(self) -> float:
        """The standard deviation of the people's differences."""
        return math.sqrt(self.variance.people * self.summary.n)

    @property
    def sd_noise(self) -> float:
        """The standard deviation of one person's score from seed to seed; NaN where no fold has two seeds."""
        noise = [one.noise for one in (self.own, self.baseline) if one.df]
        return math.sqrt(math.fsum(noise) / len(noise)) if noise else math.nan

    @property
    def tolerated_sd(self) -> float:
        """tau*: the largest sd between trainings of one recipe with which the difference would hold; 0: with none."""
        from scipy import stats  # slow to import

        n = self.summary.n
        if n < 2:
            return 0.0
        reach = self.summary.mean / float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
        return math.sqrt(max(0.0, reach**2 - self.variance.people) / (self.own.weights + self.baseline.weights))

    @property
    def remarks(self) -> list[Remark]:
        """What a reader of the verdict has to know."""
        remarks: list[Remark] = []
        if self.folds is not None and self.folds.number == 1:
            remarks.append("one_fold")
        if self.variance.basis in ("trainings", "borrowed") and self.variance.df < FEW_DF:
            remarks.append("few_trainings")
        if self.summary.n < FEW_PEOPLE:
            remarks.append("few_people")
        if self.folds is not None and self.folds.number > 1 and self.p <= ALPHA < self.p_seeds:
            remarks.append("seeds_alike")
        spreads = sorted(one.sd for one in (self.own, self.baseline) if one.df)
        if len(spreads) == 2 and spreads[1] > UNEQUAL * spreads[0]:
            remarks.append("unequal_spreads")
        return remarks


def difference(scores: Scores, baseline: Scores, people: People = NOBODY) -> Difference | None:
    """The difference before Holm's correction; None without a patient in common.

    People are paired, seeds are not: each person's value is the mean over the recipe's own trainings.
    """
    ours, theirs = ({unit[0] for unit, value in one.items() if math.isfinite(value)} for one in (scores, baseline))
    if not (common := ours & theirs):
        return None
    own, other = (by_training(one, people, common) for one in (scores, baseline))
    of_own, of_other = means(own), means(other)
    values = {person: of_own[person] - of_other[person] for person in of_own}
    fold_of = folds(own, other)
    spreads = spread(own), spread(other)
    whole = variance(values, spreads, fold_of)
    mean = math.fsum(values.values()) / len(values)
    margin, p = _test(mean, whole.total, whole.df)
    summary = Summary(mean, float(np.median(list(values.values()))), len(values), mean - margin, mean + margin)
    of_folds = None
    p_seeds = p
    if any(one.shares_seeds for one in spreads):
        by_seeds = variance_by_seeds(values, spreads)
        p_seeds = max(p, _test(mean, *by_seeds)[1]) if by_seeds else 1.0
    p_strict = 1.0
    if fold_of is not None:
        by_folds, k = variance_by_folds(values, fold_of)
        ahead = sum(of_fold > 0 for _, of_fold in fold_means(values, fold_of).values())
        of_folds = Folds(k, ahead, _test(mean, by_folds, k - 1)[1] if k >= FEWEST_FOLDS else math.nan)
        if k >= FEWEST_FOLDS:
            p_strict = max(p_seeds, of_folds.p)
    return Difference(summary, len(common), whole, *spreads, of_folds, p, p_seeds, p_strict)


def _test(mean: float, of_mean: float, df: float) -> tuple[float, float]:
    """Half the width of the t interval, and the two-sided p; NaN and 1 where nothing varies."""
    if not of_mean > 0:
        return math.nan, 1.0
    from scipy import stats  # slow to import

    error = math.sqrt(of_mean)
    return error * float(stats.t.ppf((1 + CONFIDENCE) / 2, df)), 2 * float(stats.t.sf(abs(mean) / error, df))


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """With p corrected over those that can have a verdict, and with the verdicts."""
    decidable = [one for one in differences if one.decidable]
    p_values = (
        holm([one.p for one in decidable]),
        holm([one.p_seeds for one in decidable]),
        holm([one.p_strict for one in decidable]),
    )
    done = iter(
        replace(
            one,
            p_holm=p,
            p_seeds_holm=p_seeds,
            p_strict_holm=p_strict,
            verdict=_verdict(one.summary.mean, p, p_seeds, p_strict),
        )
        for one, p, p_seeds, p_strict in zip(decidable, *p_values, strict=True)
    )
    return [next(done) if one.decidable else one for one in differences]


def _verdict(mean: float, p_holm: float, p_seeds_holm: float, p_strict_holm: float) -> Verdict:
    """As general as the three tests allow: for all folds, on these folds, on these folds and seeds."""
    if p_holm > ALPHA or mean == 0:
        return "not distinguishable"
    if p_strict_holm <= ALPHA:
        return "better" if mean > 0 else "worse"
    if p_seeds_holm <= ALPHA:
        return "better on these folds" if mean > 0 else "worse on these folds"
    return "better on these folds and seeds" if mean > 0 else "worse on these folds and seeds"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    in_order = np.minimum(np.maximum.accumulate(steps), 1.0)
    of_each = np.empty(len(p_values))
    of_each[order] = in_order
    return [float(p) for p in of_each]
