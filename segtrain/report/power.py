"""The difference that an ablation can find, from its people, folds and seeds, before it is trained. Pure functions.

Source: J. Westfall, D. Kenny, C. Judd, "Statistical power and optimal design in experiments in which samples of
participants respond to samples of stimuli", JEP: General 143, 2014; the noncentral t distribution.
"""

import math
from dataclasses import dataclass

from segtrain.report.variance import FEWEST_FOLDS
from segtrain.report.verdicts import ALPHA, FEWEST_PEOPLE

POWER = 0.8
LARGEST = 1.0  # difference of two scores


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
    """The smallest true difference that is power_of_test with this power; None where not even LARGEST is."""
    if power(LARGEST, design, spreads) < wanted:
        return None
    low, high = 0.0, LARGEST
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, design, spreads) >= wanted else (middle, high)
    return high
