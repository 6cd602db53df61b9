"""The evidence beside the verdicts: sentences on failures, seeds, folds and choices; a table of what they rest on."""

from collections.abc import Iterator, Mapping, Sequence

from segtrain.evaluation.intervals import FEWEST_RESAMPLED
from segtrain.report.best_of import BestOf
from segtrain.report.statistics import FAILED, Row
from segtrain.report.tables import Cell, Table, mean_text, number, p_cell, region_name, word
from segtrain.report.texts import Say
from segtrain.report.verdicts import Difference, Remark, Verdict

FEW_TRAININGS = 3  # of one fold: the interval of the mean is then known to be too short
COUNTS: Mapping[str, tuple[Verdict, ...]] = {
    "better": ("better",),
    "worse": ("worse",),
    "on_folds": ("better on these folds", "worse on these folds"),
    "on_seeds": ("better on these folds and seeds", "worse on these folds and seeds"),
    "rest": ("not distinguishable",),
    "none": ("no verdict",),
}


def counts(lines: Sequence[Row], say: Say) -> Iterator[str]:
    """The verdicts counted, of the mean over regions and of each region."""
    by_region: dict[str, list[Row]] = {}
    for line in lines:
        if line.difference:
            by_region.setdefault(region_name(line, say), []).append(line)
    for region, of_region in by_region.items():
        numbers = {key: sum(line.verdict in verdicts for line in of_region) for key, verdicts in COUNTS.items()}
        key = "verdicts_of" if region else "verdicts"
        yield say(key, region=region, baseline=lines[0].variant, **numbers)


def notes(lines: Sequence[Row], best: BestOf | None, say: Say) -> Iterator[str]:
    """Failures beside every mean, and what remains of the best of several variants."""
    failures = [
        say("failures_of", line=_name(line, say), failures=of.failures, n=of.summary.n, limit=f"{of.failure_limit:.0%}")
        for line in lines
        for of in [line.mean]
        if of.summary.n and (not line.region or of.failures)
    ]
    yield say("failures", least=FAILED, lines="; ".join(failures))
    if best:
        how = say("best_by_luck", honest=f"{best.honest:.4f}")
        if best.by_folds:
            how = say("best_by_folds", honest=f"{best.honest:.4f}", same=best.same, folds=len(best.choices))
        mean = mean_text(best.summary, best.summary.n, say)
        yield say("best_of", k=best.variants, n=best.summary.n, variant=best.variant, mean=mean, how=how)


def warnings(lines: Sequence[Row], say: Say) -> Iterator[str]:
    """What is known to make intervals too short or verdicts uncertain."""
    compared = [line for line in lines if line.difference]
    if compared and not any(line.difference.decidable for line in compared if line.difference):
        yield say("no_verdict_possible")
    rows = [line for line in lines if not line.region and line.mean.summary.n]
    of_these = [row.variant for row in rows if row.mean.variance.basis == "patients"]
    if of_these:
        yield say("of_these_trainings", variants=", ".join(of_these))
    few = [
        row.variant
        for row in rows
        if row.mean.variance.basis == "trainings" and row.mean.folds == 1 and row.mean.trainings <= FEW_TRAININGS
    ]
    if few:
        yield say("covers_little_trainings", variants=", ".join(few))
    if failed := list(dict.fromkeys(line.variant for line in lines if line.mean.failures)):
        yield say("covers_little_failures", variants=", ".join(failed))
    if any(row.mean.summary.n < FEWEST_RESAMPLED for row in rows):
        yield say("covers_little_people", least=FEWEST_RESAMPLED)
    remarks: dict[Remark, list[str]] = {}
    for line in compared:
        if line.difference and line.difference.decidable:
            for remark in line.difference.remarks:
                remarks.setdefault(remark, []).append(_name(line, say))
    yield from (say(f"remark_{remark}", lines=", ".join(names)) for remark, names in remarks.items())


def _name(line: Row, say: Say) -> str:
    region = region_name(line, say)
    return f"{line.variant} ({region})" if region else line.variant


def table(lines: Sequence[Row], say: Say) -> Table | None:
    """A line per comparison: its people, folds and trainings, where its variance comes from, and all p values."""
    compared = [(line, line.difference) for line in lines if line.difference]
    if not compared:
        return None
    by_region = any(line.region for line, _ in compared)
    means = {(line.variant, line.region): line.mean for line in lines}
    heads = [say("variant"), *([say("region")] if by_region else [])]
    keys = (
        "trainings",
        "ahead",
        "sd_patients",
        "sd_trainings",
        "error",
        "df",
        "basis",
        "p",
        "p_holm",
        "p_seeds",
        "p_strict",
    )
    rows = []
    for line, difference in compared:
        both = [means[key] for key in ((line.variant, line.region), (lines[0].variant, line.region))]
        rows.append(
            [
                word(line.variant),
                *([word(region_name(line, say))] if by_region else []),
                word(say("and", own=both[0].trainings, baseline=both[1].trainings)),
                *_cells(difference, say),
            ]
        )
    return Table("evidence", [*heads, *(say(f"evidence_{key}") for key in keys)], rows)


def _cells(difference: Difference, say: Say) -> Iterator[Cell]:
    of_folds = difference.folds
    yield Cell(f"{of_folds.ahead}/{of_folds.number}", of_folds.ahead / of_folds.number) if of_folds else word("")
    yield number(difference.sd)
    own, baseline = (f"{one.sd:.4f}" if one.df else "?" for one in (difference.own, difference.baseline))
    yield word(say("and", own=own, baseline=baseline))
    yield number(difference.variance.error)
    yield number(difference.variance.df, ".1f")
    yield word(say(f"basis_{difference.variance.basis}"))
    yield p_cell(difference.p)
    yield p_cell(difference.p_holm)
    yield p_cell(difference.p_seeds_holm)
    yield p_cell(difference.p_strict_holm)
