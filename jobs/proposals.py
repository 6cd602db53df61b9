"""Settings drawn from a search's space by Optuna's sampler, a function of the search's seed and of the scores so far.

Nothing of Optuna is stored: a search that was killed draws again what it would have drawn.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segtrain.errors import ConfigError
from segtrain.run.search import Choices, Interval, SearchSpec, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DIGITS = 3  # of a number that is drawn by its logarithm
PARTS = 1000  # of an interval, between which other numbers are not told apart
ASKS = 30  # for each trial of a round, until the space counts as exhausted
Scores = Mapping[str, float | None]  # by the trial's name, of those that a stage has trained; None: it failed


def draw(
    spec: SearchSpec, count: int, before: Sequence[Trial], scores: Sequence[Scores], fits: Callable[[Trial], bool]
) -> list[Trial]:
    """The trials of the next round, fewer where the space has no more. `before`: of earlier ones; `scores` by stage.

    `fits`: whether a trial can be trained; others are passed over.

    The sampler is TPE (Bergstra et al., NeurIPS 2011). It learns from one stage, as BOHB does (Falkner et al., ICML
    2018), since scores of different epochs are not compared: the last that has scored as many trials as a round has,
    and more than the space has keys. Those of fewer would say less than the many of the stage before.

    Raises ConfigError: Optuna is missing.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("segtrain search needs optuna, which is not installed; pip install optuna") from error
    number = 1 + max((trial.round for trial in before), default=-1)
    distributions = {key: _distribution(choices) for key, choices in spec.space.items()}
    lessons = list(_lessons(spec, before, scores))
    with _quiet():
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=min(spec.at_once, len(lessons) or 1),  # it draws at random where it has fewer lessons
            multivariate=True,
            constant_liar=True,
            seed=_seed(spec.seed, number),
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial, score in lessons:
            known_parameters = _parameters(spec, trial)
            study.add_trial(
                optuna.trial.create_trial(params=known_parameters, distributions=distributions, value=score or 0.0)
            )
        known, new = {trial.name for trial in before}, []
        for _ in range(ASKS * count):
            parameters = study.ask(distributions).params
            trial = Trial(number, {key: _value(spec.space[key], value) for key, value in parameters.items()})
            if trial.name not in known:
                known.add(trial.name)
                new += [trial] if fits(trial) else []
            if len(new) == count:
                break
        return new


def _lessons(
    spec: SearchSpec, before: Sequence[Trial], scores: Sequence[Scores]
) -> Iterator[tuple[Trial, float | None]]:
    """What the sampler learns from: the trials that the last stage with enough of them has trained, or lost before."""
    least = max(spec.at_once, len(spec.space) + 1)
    enough = [stage for stage, of_stage in enumerate(scores) if len(_scored(of_stage)) >= least]
    last = enough[-1] if enough else 0
    for trial in before:
        lost = any(trial.name in of_stage and of_stage[trial.name] is None for of_stage in scores[:last])
        if lost or (scores and trial.name in scores[last]):
            yield trial, None if lost else scores[last][trial.name]


def _scored(scores: Scores) -> list[float]:
    return [score for score in scores.values() if score is not None]


def _seed(seed: int, number: int) -> int:
    digest = hashlib.sha256(json.dumps([seed, number]).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _distribution(choices: Choices) -> "BaseDistribution":
    """Choices by their place, since Optuna knows no lists or mappings."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(choices, Interval):
        return CategoricalDistribution(range(len(choices.values)))
    if choices.whole:
        return IntDistribution(int(choices.low), int(choices.high), log=choices.log, step=int(choices.step or 1))
    return FloatDistribution(choices.low, choices.high, log=choices.log, step=choices.step)


def _value(choices: Choices, parameter: Any) -> Any:
    """What a config gets for what Optuna drew."""
    if not isinstance(choices, Interval):
        return choices.values[parameter]
    if choices.whole:
        return int(parameter)
    return min(max(_rounded(choices, float(parameter)), choices.low), choices.high)


def _rounded(choices: Interval, number: float) -> float:
    """As few digits as the interval needs, so that a person can read it, and on the grid of a step to the last one."""
    if choices.step is not None:
        return float(f"{number:.12g}")
    if choices.log:
        return float(f"{number:.{DIGITS}g}")
    return round(number, math.ceil(-math.log10((choices.high - choices.low) / PARTS)))


def _parameters(spec: SearchSpec, trial: Trial) -> dict[str, Any]:
    """What Optuna is told of a trial."""
    return {
        key: trial.settings[key] if isinstance(choices, Interval) else choices.place(trial.settings[key])
        for key, choices in spec.space.items()
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's lines on each trial, and its warnings that what is used here is new."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
