"""The command `segtrain train`: what can be checked is checked here, before torch is even imported."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from segtrain.commands.arguments import config_of, config_parser
from segtrain.errors import EXIT_FINISHED, LaunchError
from segtrain.run import Run
from segtrain.runtime.launcher import env_int, follow_torchrun, refuse_ranks
from segtrain.runtime.process import start_logging
from segtrain.runtime.stop import Stop
from segtrain.runtime.terminal import FILE_ONLY, show
from segtrain.training.rank import train

log = logging.getLogger(__name__)

DESCRIPTION = """Train a network; ends with the best validation mean DSC. For several processes on this machine give
--nproc, or start it under torchrun, whose ports are open to the network (docs/security.md)."""
EXAMPLES = """\
  segtrain train --nproc 4 --config configs/lgg.yaml data.root=/data/kaggle_3m
  torchrun --standalone --nproc_per_node=4 -m segtrain.train --config configs/lgg.yaml data.root=/data/kaggle_3m
  python -m segtrain.train name=small model.features=16 data.image_size=128 optim.lr=1e-3
"""

SETTINGS_OF_PHANTOMS = (
    "no --config: where nothing else is given, the settings are those for made-up patients (%d px, %d features, "
    "%d epochs); --config lgg has those of the published protocol"
)


def command(argv: Sequence[str]) -> int:
    """Train the run that the command line describes, on this rank; returns the exit code."""
    stop = Stop()
    stop.listen()
    follow_torchrun(signal.SIGKILL)
    parser = config_parser("segtrain.train", DESCRIPTION, EXAMPLES)
    parser.add_argument("--fresh", action="store_true", help="start over; the old run is kept beside")
    nproc_help = "processes on this machine, default 1; only this machine reaches their ports"
    parser.add_argument("--nproc", type=int, metavar="N", help=nproc_help)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.nproc is not None:
        _become_launcher(arguments.nproc, argv)
    rank = env_int("RANK", 0)
    start_logging(rank=rank)
    cfg = config_of(arguments)
    if arguments.config is None and cfg.data.source != "phantom":
        log.info(SETTINGS_OF_PHANTOMS, cfg.data.image_size, cfg.model.features, cfg.train.epochs)
    best_dsc = train(cfg, argv, arguments.fresh, stop)
    if rank == 0:
        _conclude(Run.of(cfg), best_dsc)
    return EXIT_FINISHED


def _become_launcher(processes: int, argv: Sequence[str]) -> NoReturn:
    """Go on as the launcher of so many ranks, which get the other arguments. Raises LaunchError."""
    if processes < 1:
        raise LaunchError(f"--nproc {processes}: give the number of processes on this machine, 1 or more")
    refuse_ranks()
    this_option = argparse.ArgumentParser(add_help=False)
    this_option.add_argument("--nproc")
    _, rest = this_option.parse_known_args(argv)
    launcher = ("-m", "segtrain.runtime.torchrun", f"--nproc-per-node={processes}")
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "segtrain.train", *rest])


def _conclude(run: Run, best_dsc: float | None) -> None:
    """Print where the run is and its result; the last line is the score, as users of the reference know it."""
    assert best_dsc is not None, "the last epoch is always evaluated"
    parts = run.result().best_parts
    for line in (
        f"Run directory: {run.root.resolve()}",
        f"TensorBoard:   tensorboard --logdir {run.tensorboard.resolve()}",
        *([f"DSC by region: {parts}"] if parts else []),
        f"Best validation mean DSC: {best_dsc:.6f}",
    ):
        log.info(line, extra=FILE_ONLY)
        with suppress(OSError):  # standard output may be a file on a full disk; the training is finished all the same
            show(line)
