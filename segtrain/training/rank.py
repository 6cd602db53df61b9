"""A training in this process, a rank of those that the environment describes, from the checks without torch on."""

import logging
import signal
from collections.abc import Sequence

from segtrain.config import Config
from segtrain.errors import Stopped
from segtrain.run import Run
from segtrain.runtime.allocator import use_allocator
from segtrain.runtime.launcher import (
    check_ranks,
    env_int,
    follow_torchrun,
    job_id,
    launched_s,
    remember_stop,
    restarted,
    start_name,
    stay_stopped,
)
from segtrain.runtime.stop import Stop, deadline_of

log = logging.getLogger(__name__)


def train(cfg: Config, arguments: Sequence[str], fresh: bool, stop: Stop) -> float | None:
    """Train the run of the config, unless it is finished; its best validation mean DSC, on rank 0. Collective.

    `arguments`: of the command that does the same, for the run's record. Raises a SegtrainError.
    """
    rank = env_int("RANK", 0)
    check_ranks()
    stay_stopped()
    deadline_s = deadline_of(cfg.stop.deadline, launched_s(), ask_slurm=rank == 0)
    run = Run.of(cfg)
    # A job that comes back goes on with what it began.
    fresh = fresh and not (restarted() and run.begun_by(job_id()))
    if not fresh and (outcome := run.finished(cfg)):
        if rank == 0:
            log.info("%s is finished; choose another name=... or --fresh to train again", run.root)
        return outcome.best_dsc
    if rank == 0:
        run.refuse_unwritable()
        stop.watch(run.stop_file, deadline_s, start_name())

    use_allocator(cfg.allocator, cfg.device)
    from segtrain.runtime.world import join  # imports torch: seconds
    from segtrain.training import session

    try:
        with join(cfg.device, cfg.threads_per_rank, cfg.deterministic) as world:
            follow_torchrun(signal.SIGTERM)  # save and leave
            return session.train(cfg, run, arguments, fresh, stop, world)
    except Stopped as error:
        remember_stop(error)
        raise
