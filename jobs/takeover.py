"""Taking a run over from processes of the job's last start that outlived it, since SLURM had given up their node."""

import time
from collections.abc import Callable
from contextlib import suppress

from segtrain.run import Run
from segtrain.runtime import files
from segtrain.runtime.launcher import job_id, restarted, start_name

ORPHANS_S = 120.0  # that they get to save and leave


def take_over(run: Run, stopping: Callable[[], bool]) -> bool:
    """Have the orphans save and leave, and wait for it; whether the run is free, for all that is known.

    A run that another job trains is left to the training, which refuses it.
    """
    if not (restarted() and run.busy() and run.begun_by(job_id())):
        return True
    with suppress(OSError):  # they may leave all the same
        files.write_text(run.stop_file, start_name())
    end = time.monotonic() + ORPHANS_S
    while (busy := run.busy()) and time.monotonic() < end and not stopping():
        time.sleep(1.0)
    with suppress(OSError):
        run.stop_file.unlink(missing_ok=True)
    return not busy
