"""SLURM's commands squeue, sacct, scontrol and scancel. Without SLURM there are no jobs."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping

from segtrain.errors import LaunchError

TIMEOUT_S = 30
RETRY_S = 60.0
PAUSE_S = 5.0
ABSENT = 127  # the exit code that stands for a missing program
OWN = re.compile(r"\d+(_\d+)?")  # a job's id; torchrun's own may begin with a digit too
UNKNOWN = "UNKNOWN"  # squeue does not answer
ALIVE = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STOPPED"}
)


def there() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def this_job() -> str | None:
    """The job that this process is part of, as SLURM's commands name it: 12, or 12_3 of an array."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def queued(jobs: Iterable[str]) -> dict[str, str]:
    """This user's jobs that wait or run: id (12, or 12_3 of an array) to state. Raises LaunchError: no answer.

    SLURM is not asked if none of `jobs` is one of its own: they ran without it.
    """
    if not any(OWN.fullmatch(job) for job in jobs):
        return {}
    lines, trouble = _queue("-u", str(os.getuid()), "-o", "%i|%T")
    if trouble:
        raise LaunchError(f"squeue: {trouble[:300]}; nothing is known of the jobs, try again when SLURM answers")
    return {job: state for job, _, state in (line.partition("|") for line in lines) if state in ALIVE}


def state_of(job: str) -> str | None:
    """The state of a job in the queue, None when it is not there, UNKNOWN when squeue fails for a minute."""
    end = time.monotonic() + RETRY_S
    while True:
        lines, trouble = _queue("-j", job, "-o", "%T")
        if not trouble:
            return next(iter(lines), None)
        if time.monotonic() + PAUSE_S > end:
            return UNKNOWN
        time.sleep(PAUSE_S)


def accounted(jobs: list[str]) -> Mapping[str, str]:
    """The accounting's states of jobs, by id; empty where there is no accounting."""
    if not (own := [job for job in jobs if OWN.fullmatch(job)]):
        return {}
    lines = _lines("sacct", "-n", "-X", "-P", "-j", ",".join(own), "-o", "JobID,State")
    return {job: state.split()[0] for job, _, state in (line.partition("|") for line in lines) if state}


def dead_nodes() -> list[str]:
    """Nodes of this job, which has several, that do not answer."""
    names = _lines("scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", ""))
    probe = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=1")
    return [name for name in names if len(names) > 1 and _run(*probe, f"--nodelist={name}", "true").returncode]


def requeue(job: str) -> str | None:
    """Have SLURM start the job again from its beginning; returns SLURM's message if it refuses."""
    return _order("scontrol", "requeue", job)


def cancel(job: str) -> str | None:
    """End the job; returns SLURM's message if it refuses."""
    return _order("scancel", job)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, ABSENT, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} did not answer in {TIMEOUT_S} s")


def _queue(*options: str) -> tuple[list[str], str | None]:
    """The lines of squeue, and why they cannot be trusted; no lines where there is no SLURM or no such job."""
    done = _run("squeue", "-h", "-r", *options)
    if done.returncode and done.returncode != ABSENT and "Invalid job id" not in done.stderr:
        return [], " ".join(done.stderr.split()) or f"code {done.returncode}"
    return [line.strip() for line in done.stdout.splitlines() if line.strip()], None


def _lines(*command: str) -> list[str]:
    return [line.strip() for line in _run(*command).stdout.splitlines() if line.strip()]


def _order(*command: str) -> str | None:
    done = _run(*command)
    return None if done.returncode == 0 else " ".join(done.stderr.split()) or f"code {done.returncode}"
