"""The launcher of this process (torchrun, srun, jobs/): its environment variables, its death. Imports no torch."""

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from segtrain.errors import LaunchError, Stopped, StopReason

# Set by jobs/ for a job in the foreground: its name, and how often it has been restarted.
LOCAL_JOB, LOCAL_RESTART = "SEGTRAIN_LOCAL_JOB", "SEGTRAIN_LOCAL_RESTART"
STOP_MARK = "stopped"  # in torchrun's folder of a launch


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


def launch_folder() -> Path | None:
    """The folder that torchrun has on this node for this launch and all its restarts; None without torchrun.

    torchrun names a file for each rank's errors, <launch>/attempt_<n>/<rank>/error.json, and removes <launch> at the
    end.
    """
    parents = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parents
    return parents[2] if len(parents) > 2 else None


def launched_s() -> float:
    """When this process was launched, in seconds since the epoch: under torchrun, when torchrun was."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        import psutil

        with suppress(psutil.Error):
            return psutil.Process(os.getppid()).create_time()
    return time.time()


def remember_stop(stop: Stopped) -> None:
    """Leave word of the stop to the processes that torchrun may start again in place of this one (--max-restarts)."""
    if (folder := launch_folder()) and stop.reason and stop.reason.is_for_the_launch:
        with suppress(OSError):
            (folder / STOP_MARK).write_text(f"{stop.reason.name}\n{stop}", encoding="utf-8")


def stay_stopped() -> None:
    """Raise Stopped again where this launch was stopped on purpose, and torchrun has started this process after it."""
    folder = launch_folder()
    if folder is None or env_int("TORCHELASTIC_RESTART_COUNT", 0) == 0 or not (folder / STOP_MARK).exists():
        return
    reason, _, message = (folder / STOP_MARK).read_text(encoding="utf-8").partition("\n")
    raise Stopped(message, StopReason.__members__.get(reason))


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
