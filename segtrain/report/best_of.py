"""The best of several variants without the optimism of the choice: each fold is scored by the best on the others.

Sources: S. Varma, R. Simon, "Bias in error estimation when using cross-validation for model selection", BMC
Bioinformatics 7, 2006; I. Tsamardinos, E. Greasidou, G. Borboudakis, "Bootstrapping the out-of-sample predictions",
Machine Learning 107, 2018. Pure functions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from segtrain.evaluation.intervals import CONFIDENCE
from segtrain.evaluation.metrics import Summary
from segtrain.report.statistics import mean_of
from segtrain.report.variance import FEWEST_FOLDS, NOBODY, Fold, OfTrainings, People, Scores, by_training, folds, means
from segtrain.report.verdicts import difference

NEIGHBOURS = 20  # to each side, of whom a variant's pairs are taken; of up to 41 variants all pairs


@dataclass(frozen=True)
class BestOf:
    """The variant with the best mean, on the people whom all variants scored, and what is left without the choice.

    summary: its mean, the interval's lower end at a level divided by the number of variants; honest: the mean scored on
    the fold that took no part in the choice, or, `by_folds` false, the mean without the expected luck; choices: the
    variant of each fold.
    """

    variant: str
    variants: int
    summary: Summary
    honest: float
    by_folds: bool
    choices: Mapping[Fold, str]

    @property
    def same(self) -> int:
        """In how many folds the choice on the others is the best variant of all."""
        return sum(chosen == self.variant for chosen in self.choices.values())


def best_of(variants: Mapping[str, Scores], people: People = NOBODY) -> BestOf | None:
    """The best of these variants; None where they are fewer than two, or share no patient."""
    patients = [{unit[0] for unit, value in scores.items() if math.isfinite(value)} for scores in variants.values()]
    if len(variants) < 2 or not (common := set.intersection(*patients)):
        return None
    trainings = {name: by_training(scores, people, common) for name, scores in variants.items()}
    values = {name: means(of) for name, of in trainings.items()}
    best = max(values, key=lambda name: fmean(values[name].values()))
    low_level = (1 - CONFIDENCE) / 2 / len(variants)
    of_best = {unit: value for unit, value in variants[best].items() if unit[0] in common}
    summary = mean_of(of_best, people, low_level).summary
    choices = _choices(values, list(trainings.values()))
    if choices is None:
        honest = summary.mean - _luck(variants, people)
        return BestOf(best, len(variants), summary, honest, by_folds=False, choices={})
    fold_of, chosen = choices
    honest = fmean(values[chosen[fold]][person] for person, fold in fold_of.items())
    return BestOf(best, len(variants), summary, honest, by_folds=True, choices=chosen)


def _choices(
    values: Mapping[str, Mapping[str, float]], trainings: list[OfTrainings]
) -> tuple[Mapping[str, Fold], dict[Fold, str]] | None:
    """Each person's fold, and each fold's variant, chosen on the others; None of fewer than five folds."""
    fold_of = folds(*trainings)
    if fold_of is None or len(set(fold_of.values())) < FEWEST_FOLDS:
        return None
    chosen: dict[Fold, str] = {}
    for fold in dict.fromkeys(fold_of.values()):
        others = [person for person, own in fold_of.items() if own != fold]
        chosen[fold] = max(values, key=lambda name: fmean(values[name][person] for person in others))
    return fold_of, chosen


def _luck(variants: Mapping[str, Scores], people: People) -> float:
    """By how much the best of equal variants is expected to exceed their mean: E max of K normals, times their sd."""
    scores = list(variants.values())
    pairs = (difference(scores[one], scores[other], people) for one, other in neighbours(len(scores)))
    totals = [pair.variance.total for pair in pairs if pair]
    return expected_maximum(len(variants)) * math.sqrt(fmean(totals) / 2) if totals else 0.0


def neighbours(count: int) -> list[tuple[int, int]]:
    """Pairs in a ring, each with the next ones: all pairs of a few, and of many as many pairs of each."""
    away = range(1, min(NEIGHBOURS, count // 2) + 1)
    ring = ((one, (one + d) % count) for one in range(count) for d in away)
    return sorted({(min(pair), max(pair)) for pair in ring})


def expected_maximum(count: int) -> float:
    """The expected largest of so many standard normal numbers."""
    from scipy import integrate, stats  # slow to import

    def density(x: float) -> float:
        return float(x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1))

    return float(integrate.quad(density, -10, 10)[0])
