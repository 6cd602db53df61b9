"""What was trained, as tables: the facts that all variants share, then those in which they differ (L15)."""

import math
from collections.abc import Sequence
from datetime import datetime

from segtrain.report.collect import Collected
from segtrain.report.facts import Facts, facts_of, together
from segtrain.report.tables import Table, word
from segtrain.report.texts import Say


def trained_tables(runs: Sequence[Collected], say: Say) -> list[Table]:
    """A line for each shared fact, with the dates and cost of all runs; then a row for each variant."""
    by_variant: dict[str, list[Facts]] = {}
    for run in runs:
        if run.config:
            by_variant.setdefault(run.variant, []).append(facts_of(run, run.config, say))
    variants = {variant: _of_variant(of_runs) for variant, of_runs in by_variant.items()}
    keys = list(dict.fromkeys(key for facts in variants.values() for key in facts))
    different = [key for key in keys if len({facts.get(key, "") for facts in variants.values()}) > 1]
    shared = {key: facts[key] for facts in variants.values() for key in keys if key not in different and key in facts}
    lines = {**shared, **_dates_and_cost(runs)}
    rows = [[word(say(key)), word(value)] for key, value in lines.items() if value]
    tables = [Table("trained", [say("fact"), say("value")], rows)] if variants else []
    if different:
        rows = [[word(name), *(word(facts.get(key, "")) for key in different)] for name, facts in variants.items()]
        tables.append(Table("trained_differing", [say("variant"), *(say(key) for key in different)], rows))
    return tables


def _of_variant(of_runs: Sequence[Facts]) -> Facts:
    keys = dict.fromkeys(key for facts in of_runs for key in facts)
    return {key: together(facts.get(key, "") for facts in of_runs) for key in keys}


def _dates_and_cost(runs: Sequence[Collected]) -> Facts:
    """When the first run began and the last event was written, in the first's zone; the sums of hours and energy."""
    costs = [run.cost for run in runs if run.cost]
    first = min(runs, key=lambda run: run.began_s, default=None)
    begun = datetime.fromisoformat(first.begun) if first and math.isfinite(first.began_s) else None
    if begun and begun.tzinfo is None:
        begun = begun.astimezone()
    ended_s = max((cost.ended_s for cost in costs), default=0.0)
    ended = datetime.fromtimestamp(ended_s, begun.tzinfo if begun else None) if ended_s else None
    if ended and ended.tzinfo is None:
        ended = ended.astimezone()
    dates = [date.isoformat(" ", "minutes") for date in (begun, ended) if date]
    known = [cost.gpu_kwh for cost in costs if cost.gpu_kwh is not None]
    return {
        "fact_dates": " / ".join(dates),
        "hours": f"{sum(cost.hours for cost in costs):.2f}" if costs else "",
        "gpu_hours": f"{sum(cost.gpu_hours for cost in costs):.2f}" if costs else "",
        "gpu_kwh": f"{sum(known):.2f}" if known else "",
    }
