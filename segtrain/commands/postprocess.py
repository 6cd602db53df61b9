"""The command `segtrain postprocess`: thresholds and smallest lesions chosen by the evidence of the other folds."""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence

from segtrain.commands.arguments import EVALUATION_KEYS, POSTPROCESSING_KEYS, runs_and_overrides, runs_parser
from segtrain.data.people import values_by_person
from segtrain.data.prepare import ensure_store
from segtrain.errors import EXIT_FINISHED
from segtrain.evaluation.choice_by_fold import FoldChoice, choose_by_fold
from segtrain.evaluation.chosen_settings import in_words
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.trained_on import people_of_patients
from segtrain.run import ChosenPostprocessing, Effect, write_postprocessing
from segtrain.runtime.launcher import refuse_ranks
from segtrain.runtime.process import start_logging
from segtrain.runtime.terminal import show_table

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain postprocess runs/loss/dice-fold*-seed42
  segtrain postprocess runs/loss/dice-fold*-seed42 evaluate.tta=trained

The runs are folds of one variant. Each predicts the patients that it was not trained on; for each region a threshold, a
smallest size of components (ml where the spacing of all patients is known, voxels of the prepared slices else) and
"largest" or "all" components, or all from a share of the largest one's size, are chosen by mean DSC over people:

  for the run of a fold             on the patients of the other folds, so that its own can still score
  for the ensemble of several       on the patients of all folds, with the threshold as configured

The mean probability of several networks is another scale than that of one, so no threshold of one holds for it; and no
patient is left to test the others. They are used with --postprocessing chosen alone.

Settings that differ from the configured ones are kept if choosing them gained DSC in folds that had no part in the
choice. Three folds or more are needed; several seeds of a fold predict, and choose, as their ensemble. The choice lies
in postprocessing/ of the runs, and holds for these checkpoints and this evaluate.tta; segtrain evaluate and segtrain
predict use that of a fold unless they are given --postprocessing configured.
"""
KEYS = tuple(key for key in EVALUATION_KEYS if key not in POSTPROCESSING_KEYS)
HEADER = ("fold", "n", "chosen on the other folds", "DSC as configured", "DSC as chosen", "gain")


def command(argv: Sequence[str]) -> int:
    """Choose, write the choice into the runs, show it."""
    arguments = _parser().parse_intermixed_args(list(argv))
    start_logging()
    refuse_ranks()
    runs, overrides = runs_and_overrides(arguments.words, KEYS)
    checkpoints = select_checkpoints(runs, arguments.checkpoint, overrides)
    checkpoints[0].say_own_source()
    store = ensure_store(checkpoints[0].cfg.data)
    choices, all_folds = choose_by_fold(checkpoints, store)
    for choice in choices:
        for checkpoint in choice.fold.checkpoints:
            effects = sorted(choice.effects, key=lambda effect: (effect.patient, effect.region))
            write_postprocessing(checkpoint.run, choice.chosen, all_folds, effects)
    people = people_of_patients(all_folds.patients, checkpoints)
    for region in all_folds.regions:
        _show(region, choices, all_folds, people)
    log.info("candidates: %d; chosen: %s", all_folds.candidates, all_folds.rule)
    log.info("in postprocessing/ of each run; segtrain evaluate and segtrain predict use that of a fold from now on")
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    return runs_parser(
        "segtrain postprocess", "Choose thresholds and components by out-of-fold evidence.", EXAMPLES, KEYS
    )


def _show(
    region: str, choices: Sequence[FoldChoice], all_folds: ChosenPostprocessing, people: Mapping[str, str]
) -> None:
    """A line a fold, whose patients had no part in its settings; their mean; the settings of all folds."""
    rows = []
    everyone: list[Effect] = []
    for choice in choices:
        own = [effect for effect in choice.effects if effect.region == region]
        everyone += own
        rows.append(_line(str(choice.fold.number), in_words(choice.chosen.regions[region].settings), own, people))
    rows.append(_line("all folds, each by its own", "", everyone, people))
    configured = in_words(all_folds.regions[region].configured)
    show_table(f"{region}: configured {configured}; each fold's patients had no part in its settings", rows, HEADER)
    of_all = all_folds.regions[region]
    log.info(
        "%s, ensembles of several folds: %s, chosen on all %d people; gain of choosing in folds left out %+.4f",
        region,
        in_words(of_all.settings),
        of_all.people,
        of_all.gain,
    )


def _line(name: str, settings: str, effects: Sequence[Effect], people: Mapping[str, str]) -> tuple[str, ...]:
    columns = {
        "configured": {effect.patient: effect.dsc_as_configured for effect in effects},
        "chosen": {effect.patient: effect.dsc for effect in effects},
        "gain": {effect.patient: effect.dsc - effect.dsc_as_configured for effect in effects},
    }
    means = {column: summarise(values_by_person(values, people), lowest=-1.0) for column, values in columns.items()}
    gain = means["gain"]
    interval = f" ({gain.ci_low:+.4f} to {gain.ci_high:+.4f})" if math.isfinite(gain.ci_low) else ""
    return (
        name,
        str(gain.n),
        settings,
        f"{means['configured'].mean:.4f}",
        f"{means['chosen'].mean:.4f}",
        f"{gain.mean:+.4f}{interval}",
    )
