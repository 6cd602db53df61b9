"""The command `segtrain train`: what can be checked is checked here, before torch is even imported."""

import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from segtrain.commands.arguments import config_of, config_parser
from segtrain.errors import EXIT_FINISHED, Stopped
from segtrain.run import Run
from segtrain.runtime.allocator import use_allocator
from segtrain.runtime.launcher import (
    check_ranks,
    env_int,
    job_id,
    launched_s,
    remember_stop,
    restarted,
    signal_when_parent_dies,
    stay_stopped,
)
from segtrain.runtime.process import start_logging
from segtrain.runtime.stop import Stop, deadline_of
from segtrain.runtime.terminal import FILE_ONLY

log = logging.getLogger(__name__)

DESCRIPTION = "Train a network; ends with the best validation mean DSC. Start it under torchrun for several processes."
EXAMPLES = """\
  torchrun --standalone --nproc_per_node=4 -m segtrain.train
  torchrun --standalone --nproc_per_node=4 -m segtrain.train --config configs/lgg.yaml data.root=/data/kaggle_3m
  python -m segtrain.train name=small model.features=16 data.image_size=128 optim.lr=1e-3
"""


def command(argv: Sequence[str]) -> int:
    """Train the run that the command line describes, on this rank; returns the exit code."""
    stop = Stop()
    stop.listen()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun was killed: save and leave
        signal_when_parent_dies(signal.SIGTERM)
    parser = config_parser("segtrain.train", DESCRIPTION, EXAMPLES)
    parser.add_argument("--fresh", action="store_true", help="start over; the old run is kept beside")
    arguments = parser.parse_intermixed_args(argv)
    rank = env_int("RANK", 0)
    start_logging(rank=rank)
    cfg = config_of(arguments)
    check_ranks()
    stay_stopped()
    deadline_s = deadline_of(cfg.stop.deadline, launched_s(), ask_slurm=rank == 0)
    run = Run.of(cfg)
    # A job that comes back goes on with what it began.
    fresh = arguments.fresh and not (restarted() and run.begun_by(job_id()))
    if not fresh and (outcome := run.finished(cfg)):
        if rank == 0:
            log.info("%s is finished; choose another name=... or --fresh to train again", run.root)
            _conclude(run, outcome.best_dsc)
        return EXIT_FINISHED
    if rank == 0:
        run.refuse_unwritable()
        stop.watch(run.stop_file, deadline_s)

    use_allocator(cfg.allocator, cfg.device)
    from segtrain.runtime.world import join  # imports torch: seconds
    from segtrain.training.session import train

    try:
        with join(cfg.device, cfg.threads_per_rank, cfg.deterministic) as world:
            best_dsc = train(cfg, run, argv, fresh, stop, world)
    except Stopped as error:
        remember_stop(error)
        raise
    if rank == 0:
        _conclude(run, best_dsc)
    return EXIT_FINISHED


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
            print(line, flush=True)
