"""The launcher of this process (torchrun, srun, jobs/): its environment variables, its death. Imports no torch."""

import ctypes
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from segtrain.errors import LaunchError

# Set by jobs/ for a job in the foreground: its name, and how often it has been restarted.
LOCAL_JOB, LOCAL_RESTART = "SEGTRAIN_LOCAL_JOB", "SEGTRAIN_LOCAL_RESTART"


def env_int(name: str, default: int) -> int:
    """An integer from the environment. Raises LaunchError where it is not a number."""
    value = os.environ.get(name, "")
    if value and not value.isdigit():
        raise LaunchError(f"{name}={value}: not a number; start with torchrun, or unset it for a single process")
    return int(value) if value else default


def job_id() -> str | None:
    """The scheduler's or torchrun's name of this job; it stays the same when the job is requeued."""
    names = (LOCAL_JOB, "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")
    return next((job for name in names if (job := os.environ.get(name))), None)


def restarted() -> bool:
    """Whether this is a restart: SLURM requeued the job, or torchrun restarted its workers."""
    counts = (LOCAL_RESTART, "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(env_int(name, 0) > 0 for name in counts)


def port_taken(port: int) -> bool:
    """Whether a process on this host listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def signal_when_parent_dies(number: signal.Signals) -> None:
    """Have the kernel send `number` to this process when its parent has died. Does nothing where prctl is missing."""
    try:
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return


def leave(code: int) -> NoReturn:
    """End a process that trained: flush its output and skip the interpreter's teardown.

    gloo's threads free tensors after a collective has returned, and need the interpreter for it. A thread that meets
    the teardown ends the process with SIGABRT, and a finished job would count as failed.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader has gone
            stream.flush()
    os._exit(code)
