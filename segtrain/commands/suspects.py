"""The command `segtrain suspects`: patients whose mask disagrees with a confident prediction, worst first."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segtrain.commands.arguments import runs_and_overrides, runs_parser
from segtrain.data.prepare import ensure_store
from segtrain.errors import EXIT_FINISHED, ConfigError
from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.runtime.launcher import refuse_ranks
from segtrain.runtime.process import start_logging
from segtrain.runtime.terminal import show_table

log = logging.getLogger(__name__)

TOP = 20
VIEWS = "evaluate.tta"
EXAMPLES = """\
examples:
  segtrain suspects runs/loss/dice-fold*-seed42 --out suspects
  segtrain suspects runs/loss/dice-fold*-seed1 runs/loss/dice-fold*-seed2 --out suspects --top 50

The runs are the folds of one variant of a k-fold ablation. Each patient is predicted by the runs that did not train on
the person; several seeds of a fold are averaged. The mask of a suspect may be wrong, or the network is: look at the
pictures in index.html. Probabilities are averaged over flips, which makes false alarms fewer; evaluate.tta=none is
faster.

Kinds: missing (lesion predicted, not in the mask), extra (in the mask, predicted to be no lesion), shifted (agrees
better when moved), swapped (agrees better with another patient's prediction). docs/labels.md defines the score and
says how many planted errors it finds.
"""


def command(argv: Sequence[str]) -> int:
    """Judge all patients that a fold holds out, write the tables and pictures, show the first."""
    parser = runs_parser("segtrain suspects", "Find masks that may be wrong.", EXAMPLES, checkpoint="last")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("suspects"), help="default: suspects")
    parser.add_argument("--top", type=int, metavar="N", default=TOP, help=f"suspects to draw and show, default {TOP}")
    arguments = parser.parse_intermixed_args(list(argv))
    start_logging()
    refuse_ranks()
    if arguments.top < 1:
        raise ConfigError(f"--top {arguments.top}: not a number of suspects; give 1 or more")
    runs, overrides = runs_and_overrides(arguments.words)
    from segtrain.report import suspects as report  # slow to import

    report.refuse_folder(arguments.out)
    checkpoints = select_checkpoints(runs, arguments.checkpoint, overrides)
    if not any(override.startswith(f"{VIEWS}=") for override in overrides):
        checkpoints = [_averaged_over_flips(checkpoint) for checkpoint in checkpoints]
    from segtrain.evaluation.out_of_fold import folds_of, out_of_fold
    from segtrain.evaluation.suspects import suspects_of

    cfg = checkpoints[0].cfg
    folds = folds_of(checkpoints)
    checkpoints[0].say_own_source()
    store = ensure_store(cfg.data)
    suspects = suspects_of(out_of_fold(checkpoints, store), store, cfg.data.layout, cfg.evaluate)
    judged = sum(len(fold.patients) for fold in folds)
    notes = [
        f"{store.label}: the masks of {judged} patients, each predicted by a network that was not trained on the "
        f"person ({len(checkpoints)} runs, {len(folds)} folds, {arguments.checkpoint} checkpoint, "
        f"{VIEWS}={cfg.evaluate.tta}).",
        "The most suspicious come first. The mask may be wrong, or the prediction is: only a look decides.",
    ]
    page = report.write(arguments.out, suspects, arguments.top, notes)
    shown = suspects[: arguments.top]
    if shown:
        heads, rows = report.table(shown)
        show_table(f"Suspect labels: {len(shown)} of {len(suspects)}, worst first", rows, heads)
    else:
        log.info("no mask disagrees with its prediction")
    log.info("suspects: %s", page.resolve())
    return EXIT_FINISHED


def _averaged_over_flips(checkpoint: TrainedCheckpoint) -> TrainedCheckpoint:
    """With up-down flips too, which training may not have shown: what counts is agreement among views, not DSC."""
    cfg = checkpoint.cfg
    return replace(checkpoint, cfg=replace(cfg, evaluate=replace(cfg.evaluate, tta="flips")))
