"""The choice among candidates for post-processing by mean DSC over people, and what the choice is worth. No torch.

Scoring the people who chose would make any choice look good. So the gain is estimated fold by fold: the best candidate
of the other folds is scored on the fold that was left out, against the configured settings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segtrain.config import Postprocessing
from segtrain.data.people import groups_of
from segtrain.evaluation.metrics import summarise
from segtrain.run import RegionChoice

FEWEST_FOLDS = 3  # one is left out of all, another for the gain; the third chooses
RULE = (
    "the candidate of the best mean DSC over people, if choosing on the other folds gained DSC over the configured "
    "settings in the fold left out, on average; else the configured settings"
)


@dataclass(frozen=True)
class Scored:
    """One patient's DSC with each candidate, in one region, predicted by a run that was not trained on the person."""

    patient: str
    fold: int
    dsc: Sequence[float]


@dataclass(frozen=True)
class _Person:
    fold: int
    dsc: Sequence[float]  # the mean over the person's scans


def choose(scored: Sequence[Scored], candidates: Sequence[Postprocessing], people: Mapping[str, str]) -> RegionChoice:
    """The settings for people of other folds than these; the first candidate is what is configured.

    Each person's scans are in one fold, as splits never part them.
    """
    persons = _persons(scored, people)
    best = _best(persons)
    gains = []
    for fold in sorted({person.fold for person in persons}):
        place = _best([person for person in persons if person.fold != fold])
        gains += [person.dsc[place] - person.dsc[0] for person in persons if person.fold == fold]
    gain = summarise(gains, lowest=-1.0)
    is_adopted = gain.mean > 0
    return RegionChoice(
        settings=candidates[best if is_adopted else 0],
        configured=candidates[0],
        best=candidates[best],
        people=len(persons),
        dsc_configured=_mean(persons, 0),
        dsc_best=_mean(persons, best),
        gain=gain.mean,
        gain_ci_low=gain.ci_low if math.isfinite(gain.ci_low) else None,
        gain_ci_high=gain.ci_high if math.isfinite(gain.ci_high) else None,
    )


def _persons(scored: Sequence[Scored], people: Mapping[str, str]) -> list[_Person]:
    by_patient = {one.patient: one for one in scored}
    persons = []
    for patients in groups_of(by_patient, people):
        scans = [by_patient[patient] for patient in patients]
        means = [math.fsum(values) / len(values) for values in zip(*(scan.dsc for scan in scans), strict=True)]
        persons.append(_Person(scans[0].fold, means))
    return persons


def _best(persons: Sequence[_Person]) -> int:
    """The place of the candidate with the best mean; the first of equals."""
    means = [_mean(persons, place) for place in range(len(persons[0].dsc))]
    return means.index(max(means))


def _mean(persons: Sequence[_Person], place: int) -> float:
    return math.fsum(person.dsc[place] for person in persons) / len(persons)
