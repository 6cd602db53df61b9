"""The command `segtrain predict`: masks of a folder of patients, in their own geometry and format, and pictures."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from segtrain.commands.arguments import add_choice, add_weights_config, runs_or_weights, runs_parser
from segtrain.data.sources import LAYOUTS, find_source, first_few, not_taken
from segtrain.errors import DataError
from segtrain.evaluation.bars import bars_of, mean_over, means_of
from segtrain.evaluation.chosen_settings import POSTPROCESSING_SOURCES, with_postprocessing
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.evaluation.lesion_places import SORTS
from segtrain.evaluation.predictions import Outcome, predict_source, refuse_folder
from segtrain.evaluation.region_scores import MASK_RULES
from segtrain.evaluation.trained_on import UNKNOWN
from segtrain.run.model_archive import unpacked
from segtrain.runtime.launcher import refuse_ranks
from segtrain.runtime.process import start_logging

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain predict runs/lgg --images /data/new --out predictions
  segtrain predict lgg.zip --images /data/new --out predictions    # of segtrain export
  segtrain predict runs/a runs/b --images /data/new --out predictions --probabilities evaluate.tta=flips
  segtrain predict unet.pt --images /data/new --out predictions
  segtrain predict runs/a runs/b runs/c --images /data/new --out predictions --uncertainty

DIR holds one of
  the LGG layout   <patient>/<patient>_<k>.tif, three channels (pre-contrast, FLAIR, post-contrast), k from 1
  slices           .tif or .png of 8 or 16 bits, in the order of their numbers: each folder is a volume, or DIR itself;
                   all contrasts in one file, or <slice>_flair.png, <slice>_t1.png, or a folder for each contrast
  NIfTI volumes    <patient>_pre, _flair, _post.nii.gz (or _t1, _flair, _t1ce), or one [x, y, z, 3] for each patient; in
                   DIR or in folders below it; turned to axial slices by the affine (needs nibabel)
and beside them masks, if there are any: <slice>_mask.tif (or _seg, _segmentation, _gt, or folders images and masks),
<patient>_mask.nii.gz (or _seg). Where pre- or post-contrast
is missing or blank, FLAIR stands in for it, as in the data that networks are trained on, and a message says so.
Masks of several labels are read as in training: a run with data.regions='{lesion: [1, 2, 4]}' knows these alone.
A run of several regions writes masks of each, in a folder named for it, and for NIfTI volumes also one map of labels.

In place of a run a file of weights may stand: .pt of the public reference program, .safetensors of a checkpoint. Its
tensors say network, width, channels and regions; the rest is as the reference program does, which is logged first:
change it by any key of the config, as data.contrasts=[t1,flair], or give the config of the training with --config F.
"""


def command(argv: Sequence[str]) -> int:
    """Predict every patient of the folder. Raises DataError at the end for those that are broken."""
    arguments = parser().parse_intermixed_args(list(argv))
    start_logging()
    refuse_ranks()
    runs, overrides = runs_or_weights(arguments.words, arguments.weights_config)
    runs = [unpacked(run) for run in runs]
    selected = select_checkpoints(runs, arguments.checkpoint, overrides, arguments.weights_config)
    checkpoints = with_postprocessing(selected, arguments.postprocessing, overrides).checkpoints
    if arguments.layout == "auto":
        checkpoints[0].say_own_source()
    source = find_source(arguments.images, arguments.layout, checkpoints[0].cfg.data)
    refuse_folder(arguments.out, arguments.images)
    if ignored := not_taken(arguments.images, source):
        log.warning("not predicted, no part of %s: %s", source.label, first_few(ignored))
    rule = arguments.empty_masks
    outcome = predict_source(
        checkpoints,
        source,
        arguments.out,
        arguments.probabilities,
        rule,
        sort=arguments.sort,
        uncertainty=arguments.uncertainty,
    )
    _log_means(outcome, MASK_RULES[rule])
    log.info("predictions: %s", arguments.out.resolve())
    if broken := outcome.not_predicted:
        patient, reason = next(iter(broken.items()))
        others = f" and {len(broken) - 1} more (not_predicted.csv lists them)" if len(broken) > 1 else ""
        raise DataError(f"patient {patient}{others} is not predicted, the other patients are: {reason}")
    return 0


def _log_means(outcome: Outcome, rule: str) -> None:
    """The mean DSC over people that were not trained on, as far as is known, and of several regions each one's."""
    may_be_seen = any(row["trained_on"] == UNKNOWN for row in outcome.rows)
    whose = "of patients who may have been trained on" if may_be_seen else "without patients that were trained on"
    means = means_of(bars_of(outcome.rows), outcome.people)
    for region, summary in means.items():
        if not region:
            log.info("mean DSC %s, %s; %s", summary, whose, rule)
        else:
            log.info("%s: mean DSC %s", region, summary)
    if len(means) > 1:
        log.info("mean DSC over %d regions %.4f, %s; %s", len(means), mean_over(means), whose, rule)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = runs_parser("segtrain predict", "Predict masks for a folder of patients.", EXAMPLES)
    add_weights_config(parser)
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", required=True, help="the patients")
    add("--out", type=Path, metavar="DIR", required=True, help="where the predictions go: a new folder")
    add("--probabilities", action="store_true", help="also a probability map for each patient (float32)")
    add(
        "--uncertainty",
        action="store_true",
        help="also maps of the entropy in bits and, of several runs or views (evaluate.tta), of the standard deviation "
        "of their probabilities, with heat maps, and uncertainty.csv (docs/metrics.md)",
    )
    add_choice(parser, "--layout", LAYOUTS)
    add_choice(parser, "--empty-masks", MASK_RULES)
    add_choice(parser, "--postprocessing", POSTPROCESSING_SOURCES)
    add_choice(parser, "--sort", SORTS)
    return parser
