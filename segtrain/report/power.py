"""The difference that an ablation can find, from its people, folds and seeds, before it is trained. Pure functions.

The stronger verdicts need several tests of the same trainings at once; their power is simulated.

Source: J. Westfall, D. Kenny, C. Judd, "Statistical power and optimal design in experiments in which samples of
participants respond to samples of stimuli", JEP: General 143, 2014; the noncentral t distribution.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtrain.report.variance import FEWEST_FOLDS
from segtrain.report.verdicts import ALPHA, FEWEST_PEOPLE

POWER = 0.8
LARGEST = 1.0  # difference of two scores
DATA_SETS = 2000  # simulated for the power of stronger verdicts


@dataclass(frozen=True)
class Spreads:
    """The spreads that power depends on, and their origin.

    people: sd of the people's differences at `seeds` seeds; trainings: sd of a fold's mean between trainings; noise: sd
    of a single value beyond both, which more seeds reduce.
    """

    people: float
    trainings: float
    noise: float = 0.0
    seeds: float = 1
    origin: str = ""

    def of_people(self, seeds: int) -> float:
        """The sd of the people's differences at another number of seeds."""
        return math.sqrt(max(0.0, self.people**2 + 2 * self.noise**2 * (1 / seeds - 1 / self.seeds)))


LGG_LIKE = Spreads(0.15, 0.02, origin="as small runs on LGG had them: yours may differ")


@dataclass(frozen=True)
class Design:
    """A comparison that is planned: people, folds, seeds; and how many comparisons Holm's correction is over."""

    people: int
    folds: int
    seeds: int
    comparisons: int = 1

    @property
    def decidable(self) -> bool:
        """Whether it can give a verdict about recipes."""
        return self.people >= FEWEST_PEOPLE and (self.seeds > 1 or self.folds >= FEWEST_FOLDS)


def power(difference: float, design: Design, spreads: Spreads) -> float:
    """The probability that a true difference gets a verdict, by the form that the words "on these folds" go with."""
    from scipy import stats  # slow to import

    of_people = spreads.of_people(design.seeds) ** 2 / design.people
    of_trainings = 2 * spreads.trainings**2 / (design.folds * design.seeds)
    total = of_people + of_trainings
    if not design.decidable:
        return 0.0
    if total == 0:
        return float(difference != 0)
    if design.seeds == 1:
        df = float(design.folds - 1)
    else:
        df_trainings = design.folds * (design.seeds - 1)
        df = total**2 / (of_people**2 / (design.people - 1) + 2 * (of_trainings / 2) ** 2 / df_trainings)
    critical = float(stats.t.ppf(1 - ALPHA / 2 / design.comparisons, df))
    shift = abs(difference) / math.sqrt(total)
    power_of_test = float(stats.nct.sf(critical, df, shift)) + float(stats.nct.cdf(-critical, df, shift))
    # SciPy gives NaN far out in the tails, where the power is 1.
    return 1.0 if math.isnan(power_of_test) else power_of_test


def detectable(design: Design, spreads: Spreads, wanted: float = POWER) -> float | None:
    """The smallest true difference that is found with this power; None where not even LARGEST is."""
    if power(LARGEST, design, spreads) < wanted:
        return None
    low, high = 0.0, LARGEST
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, design, spreads) >= wanted else (middle, high)
    return high


def power_of_verdicts(difference: float, design: Design, spreads: Spreads, own_seeds: bool) -> dict[str, float]:
    """How often a true difference gets each verdict that the design allows, or a more general one, by its words.

    `own_seeds`: no two folds have a seed in common.
    """
    least = power(difference, design, spreads)
    margins = _margins(design, spreads, own_seeds or design.folds == 1)
    names = {"seeds": "on these folds and seeds", "folds": "on these folds", "strict": "without either"}
    if own_seeds or design.folds == 1:
        del names["seeds"]
    powers: dict[str, float] = {}
    for name, words in names.items():
        share = float((np.abs(margins["mean"] + difference) > margins[name]).mean()) if name in margins else 0.0
        powers[words] = least = min(least, share) if powers else least
    return powers


def _margins(design: Design, spreads: Spreads, own_seeds: bool) -> dict[str, NDArray[np.float64]]:
    """Of simulated data sets without a difference: the mean, and how large it has to be for each verdict.

    As segtrain/report tests balanced data, whose people and trainings are normal. Legend: d data set, n person,
    k fold, s seed.
    """
    from scipy import stats  # slow to import

    generator = np.random.default_rng(0)
    n, k, s = design.people, design.folds, design.seeds
    # What an earlier report calls the people's spread has a part of the trainings.
    between = math.sqrt(max(0.0, spreads.of_people(s) ** 2 - 2 * spreads.trainings**2 / s))
    people_dn = between * generator.standard_normal((DATA_SETS, n))
    effects_rdks = spreads.trainings * generator.standard_normal((2, DATA_SETS, k, s))
    fold_n = np.arange(n) * k // n
    shares_k = np.bincount(fold_n, minlength=k) / n
    effect_dk = effects_rdks[0].mean(axis=2) - effects_rdks[1].mean(axis=2)
    values_dn = people_dn + effect_dk[:, fold_n]
    mean_d = values_dn.mean(axis=1)
    of_people_d = values_dn.var(axis=1, ddof=1) / n
    means_dk = np.stack([values_dn[:, fold_n == fold].mean(axis=1) for fold in range(k)], axis=1)
    by_folds_d = k / max(1, k - 1) * ((shares_k * (means_dk - mean_d[:, None])) ** 2).sum(axis=1)

    def margin(variance_d: NDArray[np.float64], df: NDArray[np.float64] | float) -> NDArray[np.float64]:
        critical = stats.t.ppf(1 - ALPHA / 2 / design.comparisons, df)
        return np.asarray(critical * np.sqrt(variance_d))

    def with_trainings(parts_rd: NDArray[np.float64], df: int) -> NDArray[np.float64]:
        total_d = of_people_d + parts_rd.sum(axis=0)
        below_d = of_people_d**2 / (n - 1) + (parts_rd**2).sum(axis=0) / df
        return margin(total_d, np.maximum(1, total_d**2 / below_d))

    if s > 1:
        least_d = with_trainings(effects_rdks.var(axis=3, ddof=1).mean(axis=2) * (shares_k**2).sum() / s, k * (s - 1))
    else:
        least_d = margin(np.maximum(of_people_d, by_folds_d), np.where(by_folds_d >= of_people_d, k - 1, n - 1))
    margins = {"mean": mean_d, "seeds": least_d}
    if own_seeds:
        margins["folds"] = least_d
    elif s > 1:
        whole_rds = (effects_rdks * shares_k[:, None]).sum(axis=2)
        margins["folds"] = np.maximum(least_d, with_trainings(whole_rds.var(axis=2, ddof=1) / s, s - 1))
    if k >= FEWEST_FOLDS and "folds" in margins:
        margins["strict"] = np.maximum(margins["folds"], margin(by_folds_d, k - 1))
    return margins
