"""The command `segtrain predict`: masks of a folder of patients, in their own geometry and format, and pictures.

`delivery` says what is written. Patient by patient: memory does not grow with their number. Legend: s slice, h height,
w width, c channel.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segtrain.allocator import use_allocator
from segtrain.cli import add_choice, runs_and_overrides, runs_parser, start_logging
from segtrain.data.inputs import LAYOUTS, Inputs, open_inputs
from segtrain.data.preprocess import preprocess
from segtrain.data.restore import to_source
from segtrain.delivery import Delivery, Prediction, delivery, refuse_taken
from segtrain.display import Progress
from segtrain.errors import LaunchError
from segtrain.metrics import count, summarise
from segtrain.scoring import MASK_RULES, EmptyMasks
from segtrain.trained import Chosen, choose, ensemble_logits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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


def _predict_all(
    chosen: Sequence[Chosen], inputs: Inputs, slices: dict[str, int], place: Delivery, rule: EmptyMasks
) -> list[dict[str, Any]]:
    """Write everything but the scores; returns their rows."""
    cfg = chosen[0].cfg
    use_allocator(cfg.allocator, cfg.device)
    from segtrain.dist import join  # imports torch: seconds

    trained_on = frozenset[str]().union(*(one.train for one in chosen))
    rows = []
    with join(cfg.device, cfg.threads_per_rank, cfg.deterministic) as world:
        if world.size > 1:
            raise LaunchError(f"{world.size} processes, but segtrain predict is one; start it without torchrun")
        logits = ensemble_logits(chosen, world.device)
        with Progress("predict", total=sum(slices.values()), unit="slices") as bar:
            for patient in slices:
                row = _predict_one(chosen[0], logits, inputs, patient, place, world.device)
                if row is not None:
                    told = row["voxels"] > 0 or rule == "score"
                    seen = "yes" if patient in trained_on else "no"
                    rows.append({**row, "dsc": row["dsc"] if told else None, "trained_on": seen})
                bar.advance(slices[patient], patient=patient)
    return rows


def _predict_one(
    chosen: Chosen, logits: "Callable[[Tensor], Tensor]", inputs: Inputs, patient: str, place: Delivery,
    device: "torch.device",
) -> dict[str, Any] | None:  # fmt: skip
    """Deliver a patient; its counts, None where no truth is. A function, so that nothing of it stays in memory."""
    given = inputs.read(patient)
    for remark in given.remarks:
        log.info("patient %s: %s", patient, remark)
    found = predict_patient(chosen, logits, given.image_shwc, patient, device)
    place.add(patient, found, given)
    if given.truth_shw is None:
        return None
    c = count(found.mask_shw, given.truth_shw)
    return {
        "patient": patient, "slices": len(given.truth_shw), "voxels": c.tp + c.fn, "tp": c.tp, "fp": c.fp, "fn": c.fn,
        "dsc": c.dsc,
    }  # fmt: skip


def predict_patient(
    chosen: Chosen,
    logits: "Callable[[Tensor], Tensor]",
    image_shwc: NDArray[np.uint8],
    patient: str,
    device: "torch.device",
) -> Prediction:
    """What the network says of a volume, prepared as for training, and taken back to where it came from."""
    from segtrain.evaluate import kept_components, predict_volume

    cfg = chosen.cfg
    everywhere = np.ones(image_shwc.shape[:3], np.uint8)  # preparation refuses an empty mask; its result is not used
    prepared = preprocess(image_shwc, everywhere, cfg.data.image_size, where=f"patient {patient}")
    stored_shwc = prepared.image_shwc.astype(np.float16)  # as the store holds it
    probability_shw = predict_volume(
        logits, stored_shwc, prepared.mask_shw, device, cfg.evaluate, cfg.data.neighbours
    )  # fmt: skip
    kept_shw = kept_components(probability_shw > np.float32(cfg.evaluate.threshold), cfg.evaluate)
    return Prediction(to_source(probability_shw, prepared.geometry), to_source(kept_shw, prepared.geometry))
