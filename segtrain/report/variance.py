"""The variance of a mean over people and trainings: the part of the people, that of the trainings, their overlap.

Sources: A. Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 1, 2007; C. Judd, J. Westfall, D. Kenny,
"Treating Stimuli as a Random Factor", JPSP 103, 2012. For balanced data it is the mixed model with crossed random
effects of people and trainings, with the degrees of freedom of F. Satterthwaite, Biometrics Bulletin 2, 1946, in closed
form. Pure functions; docs/statistics.md has the formulas.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from segtrain.evaluation.intervals import variance_of_mean

Unit = tuple[str, int | None, int | None]  # patient, fold, seed
Scores = Mapping[Unit, float]
People = Mapping[str, str]
NOBODY: People = MappingProxyType({})

Fold = int | None
Training = tuple[Fold, int | None]  # fold, seed
OfTrainings = Mapping[Training, Mapping[str, float]]  # each training's value of each person

FEWEST_FOLDS = 5  # whose means may stand for the trainings where each has one
# trainings: several of each recipe; borrowed: of one of two recipes, which stands for both; folds: one training a fold,
# five folds or more; patients: the spread of the trainings is not known.
Basis = Literal["trainings", "borrowed", "folds", "patients"]


@dataclass(frozen=True)
class Spread:
    """The spread between one recipe's trainings.

    between: the variance of a fold's mean from training to training, with df degrees of freedom, NaN without any;
    noise: the variance of one person's value beyond that; weights: the sum of the squared weights of the trainings in
    the recipe's mean; overlap: what both the people's part and that of the trainings count. by_seeds: the trainings'
    part if a seed acts alike in all folds, which begin with the same weights, with seeds_df degrees of freedom; NaN of
    one seed in all folds.
    """

    between: float
    df: int
    noise: float
    weights: float
    overlap: float
    by_seeds: float
    seeds_df: int
    shares_seeds: bool  # a seed is in several folds

    @property
    def part(self) -> float:
        """The trainings' part of the variance of the recipe's mean."""
        return self.between * self.weights

    @property
    def sd(self) -> float:
        """The standard deviation between trainings; NaN if no fold has two of them."""
        return math.sqrt(self.between)


@dataclass(frozen=True)
class Variance:
    """The variance of a mean, its degrees of freedom, and what it rests on; `people` is the people's part alone."""

    total: float
    df: float
    basis: Basis
    people: float

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.total)


def by_training(scores: Scores, people: People = NOBODY, patients: Collection[str] | None = None) -> OfTrainings:
    """The people's values in each training: the mean over the scans of each; `patients` alone, where they are given.

    What is not finite is left out, like a training that failed.
    """
    scans: dict[Training, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (patient, fold, seed), value in sorted(scores.items(), key=str):
        if math.isfinite(value) and (patients is None or patient in patients):
            scans[fold, seed][people.get(patient, patient)].append(value)
    return {
        training: {person: math.fsum(own) / len(own) for person, own in of_people.items()}
        for training, of_people in scans.items()
    }


def means(trainings: OfTrainings) -> dict[str, float]:
    """Each person's mean over the trainings that scored it, in the order of the names."""
    values: dict[str, list[float]] = defaultdict(list)
    for of_people in trainings.values():
        for person, value in of_people.items():
            values[person].append(value)
    return {person: math.fsum(own) / len(own) for person, own in sorted(values.items())}


def spread(trainings: OfTrainings) -> Spread:
    """The spread between a recipe's trainings, from the folds with several, of people whom all of them scored."""
    by_fold: dict[Fold, list[Mapping[str, float]]] = defaultdict(list)
    for (fold, _), of_people in trainings.items():
        by_fold[fold].append(of_people)
    squares = residuals = 0.0
    df = residual_df = 0
    for of_fold in by_fold.values():
        common = sorted(set(of_fold[0]).intersection(*of_fold))
        if len(of_fold) < 2 or not common:
            continue
        values_ts = np.array([[of_people[person] for person in common] for of_people in of_fold])
        values_ts = values_ts - values_ts.mean(axis=0)  # of a person over the trainings
        effects = values_ts.mean(axis=1)
        squares += float((effects**2).sum())
        df += len(of_fold) - 1
        residuals += float(((values_ts - effects[:, None]) ** 2).sum())
        residual_df += (len(common) - 1) * (len(of_fold) - 1)
    noise = residuals / residual_df if residual_df else 0.0
    weights, overlap = _weights(trainings)
    between = squares / df if df else math.nan
    seeds, seeds_df = _by_seeds(trainings)
    if seeds_df is None:  # each fold has seeds of its own
        return Spread(between, df, noise, weights, noise * overlap, between * weights, df, shares_seeds=False)
    return Spread(between, df, noise, weights, noise * overlap, seeds, seeds_df, shares_seeds=True)


def _by_seeds(trainings: OfTrainings) -> tuple[float, int | None]:
    """The variance of the mean over seeds, from the seeds that all folds have; None where folds share no seed."""
    of_seed: dict[int | None, set[Fold]] = defaultdict(set)
    for fold, seed in trainings:
        of_seed[seed].add(fold)
    every = set().union(*of_seed.values())
    if len(every) < 2 or all(len(own) == 1 for own in of_seed.values()):
        return math.nan, None
    common = [seed for seed, own in of_seed.items() if own == every]
    if len(common) < 2:
        return math.nan, 0
    means_of_seeds = []
    for seed in common:
        values = means({training: own for training, own in trainings.items() if training[1] == seed})
        means_of_seeds.append(math.fsum(values.values()) / len(values))
    return float(np.var(means_of_seeds, ddof=1)) / len(common), len(common) - 1


def _weights(trainings: OfTrainings) -> tuple[float, float]:
    """The sums of the squared weights in the mean over people: of the trainings, and of the single values."""
    scored: dict[str, int] = defaultdict(int)
    for of_people in trainings.values():
        for person in of_people:
            scored[person] += 1
    n = len(scored)
    if not n:
        return 0.0, 0.0
    of_trainings = (math.fsum(1 / scored[person] for person in of_people) / n for of_people in trainings.values())
    return math.fsum(weight**2 for weight in of_trainings), math.fsum(1 / times for times in scored.values()) / n**2


def folds(*recipes: OfTrainings) -> dict[str, Fold] | None:
    """The fold of each person; None where a person is in several, within a recipe or between recipes."""
    of_person: dict[str, Fold] = {}
    for trainings in recipes:
        for (fold, _), of_people in trainings.items():
            for person in of_people:
                if of_person.setdefault(person, fold) != fold:
                    return None
    return of_person


def fold_means(values: Mapping[str, float], fold_of: Mapping[str, Fold]) -> dict[Fold, tuple[float, float]]:
    """Each fold's share of the people and mean of their values."""
    by_fold: dict[Fold, list[float]] = defaultdict(list)
    for person, value in values.items():
        by_fold[fold_of[person]].append(value)
    return {fold: (len(own) / len(values), math.fsum(own) / len(own)) for fold, own in by_fold.items()}


def variance_by_folds(values: Mapping[str, float], fold_of: Mapping[str, Fold] | None) -> tuple[float, int]:
    """The variance of the mean from the means of the folds, and how many folds there are; NaN of fewer than five."""
    of_folds = fold_means(values, fold_of) if fold_of is not None else {}
    k = len(of_folds)
    if k < FEWEST_FOLDS:
        return math.nan, k
    mean = math.fsum(values.values()) / len(values)
    return k / (k - 1) * math.fsum((share * (own - mean)) ** 2 for share, own in of_folds.values()), k


def variance(
    values: Mapping[str, float], spreads: Sequence[Spread], fold_of: Mapping[str, Fold] | None = None
) -> Variance:
    """The variance of the mean of people's values: means, or differences of means, of these recipes' trainings."""
    n, of_people = len(values), variance_of_mean(list(values.values()))
    if n < 2:
        return Variance(0.0, math.nan, "patients", 0.0)
    known = [one for one in spreads if one.df > 0]
    if len(known) == len(spreads):
        parts = [one.part for one in known]
        trainings, overlap = math.fsum(parts), math.fsum(one.overlap for one in known)
        total = max(of_people, trainings, of_people + trainings - overlap)
        terms = [(of_people, n - 1), *zip(parts, (one.df for one in known), strict=True)]
        return Variance(total, max(1.0, _satterthwaite(total, terms)), "trainings", of_people)
    if known:
        between, df = known[0].between, known[0].df
        trainings = between * math.fsum(one.weights for one in spreads)
        total = of_people + trainings
        return Variance(
            total, max(1.0, _satterthwaite(total, [(of_people, n - 1), (trainings, df)])), "borrowed", of_people
        )
    by_folds, k = variance_by_folds(values, fold_of)
    if k >= FEWEST_FOLDS:
        df = k - 1 if by_folds >= of_people else n - 1
        return Variance(max(of_people, by_folds), df, "folds", of_people)
    return Variance(of_people, n - 1, "patients", of_people)


def variance_by_seeds(values: Mapping[str, float], spreads: Sequence[Spread]) -> tuple[float, float] | None:
    """The variance of the mean and its degrees of freedom if seeds act alike in all folds; None of one seed."""
    if len(values) < 2 or not all(one.seeds_df for one in spreads):
        return None
    of_people = variance_of_mean(list(values.values()))
    trainings = math.fsum(one.by_seeds for one in spreads)
    total = max(of_people, trainings, of_people + trainings - math.fsum(one.overlap for one in spreads))
    terms = [(of_people, len(values) - 1), *((one.by_seeds, one.seeds_df) for one in spreads)]
    return total, max(1.0, _satterthwaite(total, terms))


def _satterthwaite(total: float, terms: Sequence[tuple[float, int]]) -> float:
    below = math.fsum(part**2 / df for part, df in terms)
    return total**2 / below if below > 0 else 1.0
