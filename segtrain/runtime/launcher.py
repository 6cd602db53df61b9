"""The launcher of this process (torchrun, srun, jobs/): its environment variables, its death. Imports no torch."""

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from segtrain.errors import LaunchError, Stopped, StopReason
from segtrain.runtime import lock_file

# Set by jobs/ for a job in the foreground: its name, and how often it has been restarted.
LOCAL_JOB, LOCAL_RESTART = "SEGTRAIN_LOCAL_JOB", "SEGTRAIN_LOCAL_RESTART"
# The variables that may name this job, the first that is set, and who sets them.
LAUNCHERS = {LOCAL_JOB: "segtrain", "SLURM_JOB_ID": "slurm", "TORCHELASTIC_RUN_ID": "torchrun"}
# What a rank of several needs to find the others, as torchrun sets it.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
UNSET = "unset RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE"
STOP_MARK = "stopped"  # in torchrun's folder of a launch
CODES = "SEGTRAIN_RANK_CODES"  # a folder of our own launcher, where ranks leave the codes that they end with


def env_int(name: str, default: int) -> int:
    """An integer from the environment. Raises LaunchError where it is not a number."""
    value = os.environ.get(name, "")
    if value and not value.isdigit():
        raise LaunchError(f"{name}={value}: not a number; start with torchrun, or unset it for a single process")
    return int(value) if value else default


def check_ranks() -> None:
    """Raise LaunchError where the environment describes no rank of a job, as leftovers of another launcher do.

    Such a process would wait for others that nobody starts, or train as a rank that writes nothing.
    """
    size = env_int("WORLD_SIZE", 1)
    missing = [name for name in RANK_VARIABLES if not os.environ.get(name)]
    if size > 1 and missing:
        raise LaunchError(
            f"WORLD_SIZE={size} is set in the environment, but not {', '.join(missing)}; start with torchrun, or "
            f"{UNSET} for a single process"
        )
    for name, of in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("LOCAL_WORLD_SIZE", "WORLD_SIZE")):
        number, limit = env_int(name, 0), env_int(of, 1)
        if number >= limit + (name == "LOCAL_WORLD_SIZE"):
            raise LaunchError(
                f"{name}={number} is set in the environment, which does not fit {of}={limit}; start with torchrun, or "
                f"{UNSET} for a single process"
            )


def refuse_ranks() -> None:
    """Raise LaunchError where this process is one of several, or the environment says so; for commands of one."""
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    others = [f"{name}={value}" for name, single in alone.items() if (value := env_int(name, single)) > single]
    if others:
        remedy = "start it without torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else UNSET
        raise LaunchError(f"{' '.join(others)} in the environment, but this command runs in one process; {remedy}")


def job_id() -> str | None:
    """The scheduler's or torchrun's name of this job; it stays the same when the job is requeued."""
    return next((job for name in LAUNCHERS if (job := os.environ.get(name))), None)


def launcher() -> str | None:
    """Who gave this job its name: segtrain, slurm or torchrun."""
    return next((launcher for name, launcher in LAUNCHERS.items() if os.environ.get(name)), None)


def restarted() -> bool:
    """Whether this is a restart: SLURM requeued the job, or torchrun restarted its workers."""
    counts = (LOCAL_RESTART, "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(env_int(name, 0) > 0 for name in counts)


def slurm_job() -> str | None:
    """The SLURM job that this process is part of, as SLURM's commands name it: 12, or 12_3 of an array.

    Never SLURM_JOB_ID in an array: one element of each has the array's own, which stands for all elements.
    """
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def slurm_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """These variables, by default this process's, without a user's filters and formats, SQUEUE_PARTITION say.

    They are not for what is read here.
    """
    variables = os.environ if variables is None else variables
    mine = {name: value for name, value in variables.items() if not name.startswith(("SQUEUE_", "SACCT_", "SINFO_"))}
    mine.pop("SLURM_TIME_FORMAT", None)
    return mine


def start_name() -> str:
    """The name of this start of the job, <job>-<restarts>; empty outside of a job."""
    job = os.environ.get(LOCAL_JOB) or os.environ.get("SLURM_JOB_ID")
    restarts = env_int(LOCAL_RESTART if LOCAL_JOB in os.environ else "SLURM_RESTART_COUNT", 0)
    return f"{job}-{restarts}" if job else ""


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


def leave_code(code: int) -> None:
    """Leave a rank's exit code to our own launcher, if that started it: torchrun, where it is told to end, has none."""
    folder, rank = os.environ.get(CODES), os.environ.get("RANK")
    if folder and rank:
        with suppress(OSError):
            Path(folder, rank).write_text(str(code), encoding="utf-8")


def port_taken(port: int) -> bool:
    """Whether a process on this host listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def signal_when_parent_dies(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send `number` to this process when its parent has died. Does nothing where prctl is missing.

    `parent`: the process that started this one, where it is known; if that is gone already, the signal is sent now.
    """
    try:
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def follow_torchrun(number: signal.Signals) -> None:
    """Have this rank get `number` when its torchrun dies, or now where that is gone. Does nothing without torchrun.

    Until the ranks have met nothing is to be saved, and a rank may be inside of a wait for torchrun's store that no
    handler can interrupt: SIGKILL is right there.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal_when_parent_dies(number)
        if _torchrun_gone():
            os.kill(os.getpid(), number)


def _torchrun_gone() -> bool:
    """Whether the parent is not what started this rank, but what takes in orphans: init, or the like of it.

    torchrun does not say who it is. It is Python, though, and whatever else may start a rank (a script that torchrun
    runs) is younger than the folder that torchrun made for the rank.
    """
    import psutil

    try:
        parent = psutil.Process(os.getppid())
        made_s = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parent.stat().st_ctime
        return not Path(parent.exe()).name.startswith(("python", "pypy")) and parent.create_time() < made_s - 1.0
    except psutil.AccessDenied:  # somebody else's process
        return True
    except (psutil.Error, OSError, KeyError):
        return False


def leave(code: int) -> NoReturn:
    """End a process that trained: flush its output and skip the interpreter's teardown.

    gloo's threads free tensors after a collective has returned, and need the interpreter for it. A thread that meets
    the teardown ends the process with SIGABRT, and a finished job would count as failed.
    """
    logging.shutdown()
    lock_file.release_all()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader has gone
            stream.flush()
    os._exit(code)
