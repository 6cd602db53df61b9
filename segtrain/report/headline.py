"""The main finding of a report in a sentence, for a reader who knows no column of its tables."""

import math
from collections.abc import Sequence

from segtrain.evaluation.metrics import Summary
from segtrain.report.statistics import FAILED, Mean, Row
from segtrain.report.texts import Say
from segtrain.report.verdicts import Difference, Verdict

# From the most general verdict to the most particular.
BETTER: tuple[Verdict, ...] = ("better", "better on these folds", "better on these folds and seeds")
WORSE: tuple[Verdict, ...] = ("worse", "worse on these folds", "worse on these folds and seeds")
Compared = tuple[Row, Difference]


def headline(rows: Sequence[Row], say: Say) -> str:
    """Of one variant its mean; of several what the verdicts say of the baseline's clearest rival."""
    if len(rows) == 1:
        return _mean(rows[0], say)
    compared = [(row, row.difference) for row in rows if row.difference]
    if not compared:
        return say("head_nothing_common", baseline=rows[0].variant)
    sentence = _clearest(compared, rows[0].variant, say)
    if len(compared) == 1 or all(row.verdict == "no verdict" for row, _ in compared):
        return sentence
    clear = sum(row.verdict in (*BETTER, *WORSE) for row, _ in compared)
    return say("head_of_several", sentence=sentence, clear=clear, m=len(compared), baseline=rows[0].variant)


def _mean(row: Row, say: Say) -> str:
    failures = row.mean.failures
    below = say("head_failures" if failures else "head_no_failures", failures=failures, least=FAILED)
    interval = _interval(row.summary, say)
    return say(
        "head_mean_of_regions" if row.parts else "head_mean",
        variant=row.variant,
        mean=f"{row.summary.mean:.3f}",
        interval=interval and f" ({interval})",
        n=_patients(row.summary.n, row.patients, say),
        design=_design(row.mean, say),
        below=below,
    )


def _clearest(compared: Sequence[Compared], baseline: str, say: Say) -> str:
    """The sentence on the best that is better, else on the worst that is worse, else on the largest with a verdict."""
    for verdict in (*BETTER, *WORSE):
        if alike := [one for one in compared if one[0].verdict == verdict]:
            return _difference(verdict, max(alike, key=_size), baseline, say)
    alike = [one for one in compared if one[0].verdict == "not distinguishable"]
    return _difference("alike" if alike else "no verdict", max(alike or compared, key=_size), baseline, say)


def _size(one: Compared) -> float:
    return abs(one[1].summary.mean)


def _difference(kind: str, one: Compared, baseline: str, say: Say) -> str:
    row, difference = one
    summary, sign = difference.summary, "+"
    if kind in WORSE:
        summary = Summary(-summary.mean, -summary.median, summary.n, -summary.ci_high, -summary.ci_low)
    if kind in (*BETTER, *WORSE):
        sign = ""
    n = _patients(summary.n, difference.patients, say)
    details = "; ".join(filter(None, (_interval(summary, say, sign), f"{n}, {_design(row.mean, say)}")))
    return say(
        f"head_{kind}",
        variant=row.variant,
        baseline=baseline,
        by=f"{summary.mean:{sign}.3f}",
        details=details,
    )


def _interval(summary: Summary, say: Say, sign: str = "") -> str:
    if math.isnan(summary.ci_low):
        return ""
    return say("head_interval", low=f"{summary.ci_low:{sign}.3f}", high=f"{summary.ci_high:{sign}.3f}")


def _patients(people: int, patients: int, say: Say) -> str:
    if people != patients:
        return say("people_n", people=people, patients=patients)
    return say("one_patient") if people == 1 else say("patients_n", n=people)


def _design(mean: Mean, say: Say) -> str:
    """The trainings: how many folds and seeds."""
    seeds, rest = divmod(mean.trainings, mean.folds)
    if mean.trainings == 1:
        key = "one"
    elif rest:
        key = "other"
    else:
        key = "seeds" if mean.folds == 1 else "folds" if seeds == 1 else "both"
    return say(f"design_{key}", folds=mean.folds, seeds=seeds, trainings=mean.trainings)
