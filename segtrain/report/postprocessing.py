"""The section on post-processing that `segtrain postprocess` chose: settings, evidence, DSC with it and without."""

import logging
import math
from collections.abc import Iterator, Sequence

from segtrain.data.people import values_by_person
from segtrain.errors import DAMAGED, RunError
from segtrain.evaluation.chosen_settings import in_words
from segtrain.evaluation.metrics import Summary, summarise
from segtrain.report.collect import Collected
from segtrain.report.tables import Cell, Table, number, word
from segtrain.report.texts import Say
from segtrain.run import ChosenPostprocessing, Effect, RegionChoice, read_effects, read_postprocessing

log = logging.getLogger(__name__)

HEADS = (
    "run", "region", "as_configured", "as_chosen", "chosen_by", "gain_held_out", "n", "dsc_configured", "dsc_chosen",
    "dsc_gain",
)  # fmt: skip


def postprocessing_table(runs: Sequence[Collected], say: Say) -> Table | None:
    """A row a run and region; None where no run has chosen anything."""
    rows = [row for run in runs for row in _rows(run, say)]
    return Table("postprocessing", [say(head) for head in HEADS], rows) if rows else None


def _rows(run: Collected, say: Say) -> Iterator[list[Cell]]:
    try:
        chosen = read_postprocessing(run.run.postprocessing_settings)
        effects = read_effects(run.run)
    except (RunError, *DAMAGED) as error:
        log.warning("%s: its post-processing is left out of the report (%s)", run.run.root, error)
        return
    if chosen is None:
        return
    name = run.name if _is_current(run, chosen) else say("older_choice", run=run.name)
    for region, choice in chosen.regions.items():
        own = [effect for effect in effects if effect.region == region]
        yield [
            word(name),
            word(region),
            word(in_words(choice.configured)),
            word(in_words(choice.settings)),
            word(say("chosen_by_folds", n=choice.people, folds=", ".join(map(str, chosen.folds)))),
            _held_out(choice),
            *_effect_cells(own, run),
        ]


def _is_current(run: Collected, chosen: ChosenPostprocessing) -> bool:
    """Whether it was chosen with a checkpoint that the run still points at."""
    return bool({member.checkpoint for member in chosen.members} & run.run.pointed_checkpoints())


def _held_out(choice: RegionChoice) -> Cell:
    low, high = (math.nan if end is None else end for end in (choice.gain_ci_low, choice.gain_ci_high))
    return _with_interval(choice.gain, low, high)


def _effect_cells(effects: Sequence[Effect], run: Collected) -> Iterator[Cell]:
    """n, and the DSC of the run's own patients as configured, as chosen, and its gain."""
    if not effects:
        yield from [word("")] * 4
        return
    without = _mean({effect.patient: effect.dsc_as_configured for effect in effects}, run)
    chosen = _mean({effect.patient: effect.dsc for effect in effects}, run)
    gain = _mean({effect.patient: effect.dsc - effect.dsc_as_configured for effect in effects}, run)
    yield from (number(gain.n, "d"), number(without.mean), number(chosen.mean))
    yield _with_interval(gain.mean, gain.ci_low, gain.ci_high)


def _mean(values: dict[str, float], run: Collected) -> Summary:
    return summarise(values_by_person(values, run.people), lowest=-1.0)  # of gains, too


def _with_interval(mean: float, low: float, high: float) -> Cell:
    interval = "" if math.isnan(low) else f" [{low:+.4f}, {high:+.4f}]"
    return Cell(f"{mean:+.4f}{interval}", mean)
