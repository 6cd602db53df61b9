"""The sentences of a report on its method: what is estimated, by which intervals and tests, against which baseline."""

from collections.abc import Iterator, Sequence

from segtrain.evaluation.metrics import EMPTY_RULE
from segtrain.report.collect import Collected
from segtrain.report.statistics import Row, lines_of
from segtrain.report.texts import Say
from segtrain.report.verdicts import ALPHA


def notes(runs: Sequence[Collected], rows: Sequence[Row], say: Say, over: str = "") -> Iterator[str]:
    """All that apply to these rows. `over`: what Holm's correction is over, where it is not these rows alone."""
    rules = sorted({run.empty_rule for run in runs if run.empty_rule})
    words = [say("empty_rule") if rule == EMPTY_RULE else rule for rule in rules]
    yield say("method_estimand")
    yield say("method_ci")
    yield say("method_mean", rule=" / ".join(words))
    if any(row.patients != row.summary.n for row in rows):
        yield say("method_people")
    parts = max((len(row.parts) for row in rows), default=0)
    if parts:
        yield say("method_regions")
    if len(rows) > 1:
        compared = sum(line.difference is not None for line in lines_of(rows))
        over = over or say("over_lines" if parts else "over_variants", n=compared)
        share_seeds = any(row.mean.spread.shares_seeds for row in rows)
        yield say("method_test", m=over, alpha=ALPHA)
        yield say("method_seeds_alike" if share_seeds else "method_own_seeds")
        yield say("method_strict")
        yield say("method_evidence")
        yield say("method_baseline", baseline=rows[0].variant)
    yield say("method_hours")
