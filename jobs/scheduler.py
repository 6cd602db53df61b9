"""SLURM's commands squeue, sacct, scontrol and scancel. Without SLURM there are no jobs."""

import math
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from segtrain.errors import LaunchError
from segtrain.runtime.launcher import slurm_environment, slurm_job

TIMEOUT_S = 30
SUBMIT_S = 120  # for Python to start and to submit
MAX_NAME = 60  # of a job
REQUEUE = "SEGTRAIN_REQUEUE"  # the variable that names the file by which a step asks its batch script for a requeue
RETRY_S = 60.0
PAUSE_S = 5.0
ABSENT = 127  # the exit code that stands for a missing program
OWN = re.compile(r"\d+(_\d+)?")  # a job's id; torchrun's own may begin with a digit too
UNKNOWN = "UNKNOWN"  # squeue does not answer
SEPARATOR = "\x1f"  # of fields: names and folders may hold any other character
ALIVE = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STOPPED"}
)


def there() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def this_job() -> str | None:
    """The job that this process is part of, as SLURM's commands name it: 12, or 12_3 of an array."""
    return slurm_job()


def in_batch_script() -> dict[str, str]:
    """What tells the job of this batch script from another with its id, and the file that the script's errors go to."""
    variables = {"cluster": "SLURM_CLUSTER_NAME", "name": "SLURM_JOB_NAME", "user": "SLURM_JOB_UID"}
    known = {key: os.environ[name] for key, name in variables.items() if os.environ.get(name)}
    try:
        if stat.S_ISREG(os.fstat(2).st_mode):
            known["log"] = os.readlink("/proc/self/fd/2")  # noqa: PTH115  Path has no such thing for a string
    except OSError:  # it is closed
        pass
    return known


def restarts() -> int:
    """How often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


@dataclass(frozen=True)
class Entry:
    """A job as SLURM lists it; empty where SLURM does not say.

    state: PENDING, RUNNING, TIMEOUT, ... reason: why it waits. starts: when it is expected to start. cluster: in the
    accounting alone.
    """

    id: str  # 12, or 12_3 of an array
    state: str
    user: str  # the number
    name: str
    folder: str
    reason: str = ""
    starts: str = ""
    cluster: str = ""

    @property
    def alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ALIVE


def listed(users: Iterable[int]) -> list[Entry]:
    """The jobs of these users that wait, run or ended minutes ago. Raises LaunchError: no answer."""
    fields = SEPARATOR.join(("%i", "%T", "%U", "%j", "%Z", "%r", "%S"))
    lines, trouble = _queue("-t", "all", "-u", ",".join(map(str, sorted(set(users)))), "-o", fields)
    if trouble:
        raise LaunchError(f"squeue: {trouble[:300]}; nothing is known of the jobs, try again when SLURM answers")
    return [Entry(*map(_said, values)) for line in lines if len(values := line.split(SEPARATOR)) == 7]


def accounted(jobs: Iterable[str]) -> list[Entry]:
    """The accounting's entries of jobs; none where there is no accounting. It may answer where squeue does not."""
    if not (own := [job for job in jobs if OWN.fullmatch(job)]):
        return []
    fields = ("-o", "JobID,State,UID,JobName,WorkDir,Cluster")
    lines = _lines("sacct", "-n", "-X", "-P", f"--delimiter={SEPARATOR}", "-j", ",".join(own), *fields)
    rows = [values for line in lines if len(values := line.split(SEPARATOR)) == 6 and values[1]]
    return [
        Entry(job, state.split()[0], user, name, folder, cluster=cluster)  # "CANCELLED by 1000"
        for job, state, user, name, folder, cluster in rows
    ]


def cluster() -> str | None:
    """The name of the cluster that SLURM's commands ask; None where it does not answer."""
    shown = re.search(r"^ClusterName\s*=\s*(\S+)", run("scontrol", "show", "config").stdout, re.MULTILINE)
    return shown[1] if shown else None


def _said(value: str) -> str:
    """A field of squeue, empty where it stands for nothing."""
    return "" if value in ("None", "N/A", "(null)") else value


def state_of(job: str) -> str | None:
    """The state of a job in the queue, None when it is not there, UNKNOWN when squeue fails for a minute."""
    if _batch_script_asks():
        return UNKNOWN
    end = time.monotonic() + RETRY_S
    while True:
        lines, trouble = _queue("-j", job, "-o", "%T")
        if not trouble:
            return next((line.strip() for line in lines), None)
        if time.monotonic() + PAUSE_S > end:
            return UNKNOWN
        time.sleep(PAUSE_S)


def time_limit_s(job: str) -> float:
    """The time limit of a job in the queue; infinite where it has none, or is not known."""
    shown = next(iter(_lines("squeue", "-h", "-j", job, "-o", "%l")), "")
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", shown)
    if not match:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(86400 * days + 3600 * hours + 60 * minutes + seconds)


def dead_nodes() -> list[str]:
    """Nodes of this job, which has several, that do not answer."""
    names = _lines("scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", ""))
    probe = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=1")
    return [name for name in names if len(names) > 1 and run(*probe, f"--nodelist={name}", "true").returncode]


def requeue(job: str) -> str | None:
    """Have SLURM start the job again from its beginning; returns SLURM's message if it refuses."""
    return None if left_to_batch_script() else _order("scontrol", "requeue", job)


def left_to_batch_script(how: str = "") -> bool:
    """Whether this is a container without scontrol; then the batch script outside has the job start again.

    It does so after the step, unless the job is cancelled: by a requeue, and where SLURM refuses that, or `how` says
    "resubmit", as another job (jobs/job.sh).
    """
    if asks := _batch_script_asks():
        Path(os.environ[REQUEUE]).write_text(how, encoding="utf-8")
    return asks


def _batch_script_asks() -> bool:
    return REQUEUE in os.environ and shutil.which("scontrol") is None


def rename(job: str, name: str) -> None:
    """Have SLURM show the job under that name, when it answers; an element of an array has the array's until then."""
    order = ("scontrol", "update", f"JobId={job}", f"JobName={name[:MAX_NAME]}")
    Thread(target=_order, args=order, daemon=True).start()


def submit_again(command: Sequence[str]) -> tuple[str | None, str]:
    """The id of the job that a command submits, None if it does not, and its message."""
    # sbatch takes those of this job for options of the next.
    env = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith("SLURM")}
    done = run(*command, timeout_s=SUBMIT_S, env=env)
    words = done.stdout.replace(";", " ").split()  # --parsable may add the cluster's name
    if done.returncode or not words:
        return None, " ".join(done.stderr.split())[-300:] or f"code {done.returncode}"
    return words[0], ""


def cancel(job: str) -> str | None:
    """End the job; returns SLURM's message if it refuses."""
    return _order("scancel", job)


def run(
    *command: str, timeout_s: float = TIMEOUT_S, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What one of SLURM's programs answers; code 127 where there is none, 124 where it does not answer."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=slurm_environment(env),
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, ABSENT, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} did not answer in {timeout_s:g} s")


def _queue(*options: str) -> tuple[list[str], str | None]:
    """The lines of squeue, and why they cannot be trusted; no lines where there is no SLURM or no such job."""
    done = run("squeue", "-h", "-r", *options)
    if done.returncode and done.returncode != ABSENT and "Invalid job id" not in done.stderr:
        return [], " ".join(done.stderr.split()) or f"code {done.returncode}"
    return _filled(done.stdout), None


def _lines(*command: str) -> list[str]:
    return _filled(run(*command).stdout)


def _filled(text: str) -> list[str]:
    """The lines that are not empty. Not stripped: Python takes SEPARATOR for white space."""
    return [line for line in text.split("\n") if line.strip()]


def _order(*command: str) -> str | None:
    done = run(*command)
    return None if done.returncode == 0 else " ".join(done.stderr.split()) or f"code {done.returncode}"
