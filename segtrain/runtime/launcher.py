"""What the launcher (torchrun, srun) tells a process, and what becomes of it when the launcher dies; without torch."""

import ctypes
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from segtrain.errors import LaunchError

# What jobs/ calls a job that runs in the foreground, and how often it has started that again.
LOCAL_JOB, LOCAL_RESTART = "SEGTRAIN_LOCAL_JOB", "SEGTRAIN_LOCAL_RESTART"


def env_int(name: str, default: int) -> int:
    """An integer of the environment. Raises LaunchError when it is none."""
    value = os.environ.get(name, "")
    if value and not value.isdigit():
        raise LaunchError(f"{name}={value}: not a number; start with torchrun, or unset it for a single process")
    return int(value) if value else default


def job_id() -> str | None:
    """The scheduler's or torchrun's name of this job: the same when the job comes back."""
    names = (LOCAL_JOB, "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")
    return next((job for name in names if (job := os.environ.get(name))), None)


def restarted() -> bool:
    """Whether the launcher started this same command before: SLURM requeued the job, or torchrun its workers."""
    counts = (LOCAL_RESTART, "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(env_int(name, 0) > 0 for name in counts)


def port_taken(port: int) -> bool:
    """Whether somebody on this host holds the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def signal_when_parent_dies(number: signal.Signals) -> None:
    """Have the kernel send `number` to this process when its parent is gone, however it died (Linux; else nothing)."""
    try:
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return


def leave(code: int) -> NoReturn:
    """End a process that trained: what was said is flushed, the interpreter's own teardown left out.

    gloo's threads let go of tensors after a collective has returned, and need the interpreter for it: one that meets
    its teardown ends the process with SIGABRT, and a finished job would count as failed.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # who read it has left
            stream.flush()
    os._exit(code)
