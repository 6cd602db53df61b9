"""The command `segtrain predict`: masks of a folder of patients, in their own geometry and format, and pictures.

`delivery` says what is written. Patient by patient: memory does not grow with their number. Legend: s slice, h height,
w width, c channel.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtrain.commands.arguments import add_choice, runs_and_overrides, runs_parser
from segtrain.data.sources.open import LAYOUTS, open_inputs
from segtrain.evaluation.ensemble import choose
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.predictions import _predict_all, delivery, refuse_taken
from segtrain.evaluation.scores import MASK_RULES
from segtrain.runtime.process import start_logging

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain predict runs/lgg --images /data/new --out predictions
  segtrain predict runs/a runs/b --images /data/new --out predictions --probabilities evaluate.tta=flips

DIR holds one of
  the LGG layout   <patient>/<patient>_<k>.tif, three channels (pre-contrast, FLAIR, post-contrast), k from 1
  slices           .tif or .png of three channels: each folder is a volume, or DIR itself, in the order of their numbers
  NIfTI volumes    <patient>_pre, _flair, _post.nii.gz (or _t1, _flair, _t1ce), or one [x, y, z, 3] a patient; beside
                   each other or in a folder a patient; turned to axial slices by the affine (extra: segtrain[nifti])
and masks beside them if there are any: <slice>_mask.tif, <patient>_mask.nii.gz (or _seg). Where pre- or post-contrast
is missing or blank, FLAIR stands in for it, as in the data that networks are trained on, and it is said.
"""


def command(argv: Sequence[str]) -> int:
    """Predict every patient of the folder; a broken one ends it, and nothing is left."""
    arguments = _parser().parse_intermixed_args(list(argv))
    start_logging()
    runs, overrides = runs_and_overrides(arguments.words)
    chosen = choose(runs, arguments.checkpoint, overrides)
    inputs = open_inputs(arguments.images, arguments.layout)
    slices = inputs.slices()  # names what is wrong
    log.info("%s: %d patients", inputs.label, len(slices))
    refuse_taken(arguments.out, arguments.images)
    with delivery(arguments.out, inputs, arguments.probabilities) as place:
        rows = _predict_all(chosen, inputs, slices, place, arguments.empty_masks)
        if rows:
            place.add_scores(rows, MASK_RULES[arguments.empty_masks])
    if new := [row["dsc"] for row in rows if row["trained_on"] == "no" and row["dsc"] is not None]:
        rule = MASK_RULES[arguments.empty_masks]
        log.info("mean DSC %s, not of patients that were trained on; %s", summarise(new), rule)
    log.info("%d patients: %s", len(slices), arguments.out.resolve())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = runs_parser("segtrain predict", "Predict masks for a folder of patients.", EXAMPLES)
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", required=True, help="the patients")
    add("--out", type=Path, metavar="DIR", required=True, help="where the predictions go: a new folder")
    add("--probabilities", action="store_true", help="also a probability map a patient (float32)")
    add_choice(parser, "--layout", LAYOUTS)
    add_choice(parser, "--empty-masks", MASK_RULES)
    return parser
