"""Made-up scores of recipes whose truth is known, for the simulations of benchmarks/statistics.py.

Legend: d data set, n patient, s seed. A world turns a patient's standard normal number and a training's effect into a
score in 0..1. `logit` is normal on the logit scale; `beta` has beta-distributed patients and scores and heavy-tailed
trainings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
Name = Literal["logit", "beta"]
SAMPLE = 400_000  # of patients, for true means
CENTRE, PATIENT, NOISE = 2.3, 0.60, 0.30  # of the logit of a score
BETA, PRECISION = (6.0, 1.1), 60.0  # of the patients' means; of a score around its patient's
INTERPLAY = 0.15  # share of a patient's variance that belongs to the recipe, where recipes differ by patient
GRID = np.linspace(-8, 8, 4001)


@dataclass(frozen=True)
class Design:
    """Patients, folds of (nearly) equal size, seeds of each fold; `own_seeds`: no seed is in two folds."""

    patients: int
    folds: int
    seeds: int
    own_seeds: bool = False

    @property
    def fold_n(self) -> NDArray[np.int64]:
        """The fold of each patient."""
        return np.arange(self.patients) * self.folds // self.patients

    def __str__(self) -> str:
        return f"{self.folds} x {self.seeds}"


@dataclass(frozen=True)
class Truth:
    """What differs between two recipes.

    tau: sd of a fold's mean between trainings; lasting, shared: the share of its variance that belongs to recipe and
    fold, whatever the seed, and to recipe and seed, whatever the fold; common: that belongs to the seed, whatever the
    recipe and fold, as of weights with which both begin; failures: rate of scores below 0.1, half of them
    by patient, half by training.
    """

    tau: float
    interplay: bool = False
    lasting: float = 0.0
    shared: float = 0.0
    common: float = 0.0
    failures: float = 0.0
    difference: float = 0.0


@dataclass(frozen=True)
class World:
    """A data model."""

    name: Name

    def draw(self, generator: np.random.Generator, patient: Array, effect: Array) -> Array:
        """Scores of patients in trainings of these effects."""
        if self.name == "logit":
            noise = NOISE * generator.standard_normal(np.broadcast_shapes(patient.shape, effect.shape))
            return np.asarray(special.expit(CENTRE + PATIENT * patient + effect + noise))
        mean = np.clip(self._mean_by_grid(patient + effect), 1e-3, 1 - 1e-3)
        return np.asarray(generator.beta(PRECISION * mean, PRECISION * (1 - mean)))

    def _mean_by_grid(self, latent: Array) -> Array:
        return np.asarray(np.interp(latent, GRID, self._quantiles))

    @cached_property
    def _quantiles(self) -> Array:
        return np.asarray(stats.beta.ppf(special.ndtr(GRID), *BETA))

    @cached_property
    def _sample(self) -> tuple[Array, Array]:
        generator = np.random.default_rng(1)
        return generator.standard_normal(SAMPLE), generator.standard_normal(SAMPLE)

    def mean(self, effect: Array | float = 0.0) -> float:
        """The true mean of trainings with this effect, or with these, one for each patient of the sample."""
        patient, noise = self._sample
        if self.name == "beta":
            return float(self._mean_by_grid(patient + effect).mean())
        return float(special.expit(CENTRE + PATIENT * patient + effect + NOISE * noise).mean())

    def effects(self, generator: np.random.Generator, shape: tuple[int, ...], tau: float) -> Array:
        """Effects of trainings that give a fold's mean this standard deviation."""
        if self.name == "logit":
            return generator.standard_normal(shape) * tau / self._slope
        return np.asarray(generator.standard_t(5, shape) * np.sqrt(3 / 5) * tau / self._slope)

    @cached_property
    def _slope(self) -> float:
        return (self.mean(0.01) - self.mean(-0.01)) / 0.02

    @cache  # noqa: B019 (two worlds, as long as the program)
    def true_mean(self, truth: Truth) -> float:
        """The expected score over new patients and trainings."""
        scored = self.mean(self.effects(np.random.default_rng(2), (SAMPLE,), truth.tau))
        rate = 1 - (1 - truth.failures / 2) ** 2
        return (1 - rate) * scored + rate * 0.05

    @cache  # noqa: B019 (two worlds, as long as the program)
    def shift(self, truth: Truth) -> float:
        """The effect that makes a recipe better by the true difference."""
        own = self.effects(np.random.default_rng(2), (SAMPLE,), truth.tau)
        wanted = self.mean(own) + truth.difference
        return bisected(lambda effect: self.mean(own + effect) - wanted)


def bisected(rising: Callable[[float], float], low: float = -3.0, high: float = 3.0) -> float:
    """Where a rising function is 0."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def recipes(
    world: World, generator: np.random.Generator, data_sets: int, design: Design, truth: Truth, count: int = 2
) -> list[Array]:
    """The scores [d, n, s] of so many recipes on the same patients; the last has the true difference to the others."""
    shape = data_sets, design.patients
    patient_dn = generator.standard_normal(shape)
    fails_dn = generator.random(shape) < truth.failures / 2
    of_seed = data_sets, design.folds if design.own_seeds else 1, design.seeds
    common = world.effects(generator, of_seed, truth.tau) if truth.common else np.zeros(of_seed)
    scores = []
    for number in range(count):
        latent_dn = patient_dn
        if truth.interplay:
            own_dn = generator.standard_normal(shape)
            latent_dn = np.sqrt(1 - INTERPLAY) * patient_dn + np.sqrt(INTERPLAY) * own_dn
        of_seeds = world.effects(generator, (data_sets, design.folds, design.seeds), truth.tau)
        of_folds = world.effects(generator, (data_sets, design.folds, 1), truth.tau)
        of_all = world.effects(generator, of_seed, truth.tau)
        rest = 1 - truth.lasting - truth.shared - truth.common
        effects = np.sqrt(rest) * of_seeds + np.sqrt(truth.lasting) * of_folds
        effects = effects + np.sqrt(truth.shared) * of_all + np.sqrt(truth.common) * common
        effect_dns = effects[:, design.fold_n] + (world.shift(truth) if truth.difference and number == count - 1 else 0)
        scores_dns = world.draw(generator, latent_dn[:, :, None], effect_dns)
        fails_dns = fails_dn[:, :, None] | (generator.random(scores_dns.shape) < truth.failures / 2)
        scores.append(np.where(fails_dns, 0.1 * generator.random(scores_dns.shape), scores_dns))
    return scores
