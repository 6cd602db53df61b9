"""Where jobs run: on a SLURM cluster through submitit, or here in the foreground, one after the other."""

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

import submitit
from submitit.helpers import clean_env

from jobs import ablation_report, node, scheduler
from jobs.history import Book
from jobs.requeue import STOP_FILE
from jobs.resources import Resources
from jobs.submission import Submission
from segtrain.errors import EXIT_FINISHED, EXIT_STOPPED, LaunchError
from segtrain.runtime import files
from segtrain.runtime.launcher import LOCAL_JOB, LOCAL_RESTART

ExecutorName = Literal["slurm", "local"]
NAMES = get_args(ExecutorName)
MAX_NAME = 60
REPORT_MIN = 60  # the job that makes it asks for this, or for as long as a run gets


class _Sbatch(submitit.SlurmExecutor):
    """submitit's executor, which also writes its script where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self, count: int) -> str:
        """What sbatch would be given for that many runs."""
        if count > 1:
            self.parameters["map_count"] = count
        return self._make_submission_file_text(self._submitit_command_str, "")


def script(submission: Submission, name: str, resources: Resources, count: int = 1, max_parallel: int = 0) -> str:
    """The sbatch script of a submission that need not be there."""
    return _executor(submission, name, resources, max_parallel).script(count)


def submit(submission: Submission, names: Sequence[str], max_parallel: int = 0) -> dict[str, str]:
    """Hand the runs to SLURM, several as one array; returns their job ids. Raises LaunchError: refused."""
    made = _executor(submission, submission.record["name"], submission.resources, max_parallel)
    roots = [str(submission.root)] * len(names)
    try:
        ids = _handed_over(lambda: made.map_array(node.train, roots, names))
    except LaunchError:
        files.remove_folder(submission.root)
        raise
    jobs = dict(zip(names, ids, strict=True))
    submission.keep(runs=jobs)
    return jobs


def submit_table(submission: Submission, jobs: Mapping[str, str]) -> str:
    """Submit the job that writes table and report when those have ended; returns its id. Raises LaunchError."""
    arrays = sorted({re.split("[_ ]", job)[0] for job in jobs.values()})
    asked = replace(
        submission.resources, nodes=1, gpus_per_node=0, cpus_per_node=1,
        time=str(min(REPORT_MIN, submission.resources.minutes)),
        dependency=f"afterany:{':'.join(arrays)}",
    )  # fmt: skip
    made = _executor(submission, f"{submission.record['name']}-report", asked, 0)
    return _handed_over(lambda: [made.submit(ablation_report.write, str(submission.root))])[0]


def _handed_over(submitted: Callable[[], Sequence[submitit.Job[Any]]]) -> list[str]:
    """The ids of the jobs that `submitted` submits."""
    try:
        with _outside_of_jobs():
            return [str(job.job_id) for job in submitted()]
    except (RuntimeError, subprocess.CalledProcessError) as error:  # submitit's own are RuntimeErrors
        said = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        raise LaunchError(
            f"sbatch refused the job: {said[-1].strip()[-300:]}; change the options or the preset"
        ) from error


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the job that this process is part of: sbatch takes its SLURM_* for options. On a login node hide nothing."""
    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}  # where SLURM is
    with clean_env() if scheduler.this_job() else contextlib.nullcontext():
        os.environ.update(kept)
        yield


def check(name: str, resources: Resources) -> None:
    """Raise LaunchError where jobs cannot run so, before anything is written."""
    if name == "slurm" and not scheduler.there():
        raise LaunchError("sbatch: no such program on this machine; submit from a login node, or use --executor local")
    if name == "local" and resources.nodes > 1:
        raise LaunchError(f"--nodes {resources.nodes}: --executor local is this machine alone; leave --nodes out")


def _executor(submission: Submission, name: str, resources: Resources, max_parallel: int) -> _Sbatch:
    """submitit's executor for these resources, with the snapshot in front of whatever is installed."""
    made = _Sbatch(submission.logs)
    made.update_parameters(**_parameters(resources, name), setup=_setup(submission.code, resources))
    if max_parallel:
        made.update_parameters(array_parallelism=max_parallel)
    return made


def run_here(submission: Submission, names: Sequence[str]) -> int:
    """Train the runs on this machine, one after the other, each started again while it gains steps; the worst code.

    A signal and the STOP file of a run end them all.
    """
    worst = EXIT_FINISHED
    told: list[int] = []
    for name in names:
        job = f"local-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        submission.keep(runs=submission.record["runs"] | {name: job})
        for restart in itertools.count():
            code = _run_once(submission, name, (job, restart), told)
            if code != EXIT_STOPPED or told or not _again(_last(submission, name)):
                break
        if told or (code == EXIT_STOPPED and _by_stop_file(_last(submission, name))):
            return code
        worst = worst if code == EXIT_FINISHED else code
    return worst


def _again(last: Mapping[str, Any]) -> bool:
    """Whether a run that stopped by itself (its own deadline) goes on: not by the user's STOP file, nor in vain."""
    return last.get("how") == "stopped" and not _by_stop_file(last)


def _by_stop_file(last: Mapping[str, Any]) -> bool:
    """Whether the user stopped the run, and with it what comes after."""
    return last.get("how") == "stopped" and STOP_FILE in last["why"]


def _last(submission: Submission, name: str) -> Mapping[str, Any]:
    """What was written last in a run's book of starts."""
    return next(reversed(Book(submission.run(name)).entries()), {})


def _run_once(submission: Submission, name: str, start_of: tuple[str, int], told: list[int]) -> int:
    """One start, waited for. Signals go on to it, and are added to `told`."""
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if process is not None and number != signal.SIGINT:  # the terminal sends that to the whole group
            process.send_signal(number)

    kept = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        process = start(submission, name, start_of)
        return process.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def start(
    submission: Submission, name: str, start_of: tuple[str, int], environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a run here as on a node of a cluster, for `start_of`: job and restart. `options`: subprocess.Popen's.

    It saves and leaves when this process is gone, however it went; so it is called from the main thread.
    """
    code = f"from jobs.node import train; train({str(submission.root)!r}, {name!r}, {os.getpid()})"
    ours = {
        **os.environ, LOCAL_JOB: start_of[0], LOCAL_RESTART: str(start_of[1]), "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", code], env=ours | dict(environment or {}), **options)


def _parameters(resources: Resources, name: str) -> dict[str, Any]:
    """submitit's names for what sbatch is asked."""
    asked = {
        "job_name": name[:MAX_NAME], "time": resources.minutes, "nodes": resources.nodes, "ntasks_per_node": 1,
        "gpus_per_node": resources.gpus_per_node or None, "cpus_per_task": resources.cpus_per_node,
        "partition": resources.partition, "account": resources.account, "qos": resources.qos,
        "constraint": resources.constraint, "mail_user": resources.mail_user, "mail_type": resources.mail_type,
        "dependency": resources.dependency, "comment": resources.comment, "signal_delay_s": resources.warn_s,
        "stderr_to_stdout": True, "wckey": None,
        "srun_args": ["--open-mode=append", "--kill-on-bad-exit=1", *_cpus(resources)],
        "additional_parameters": {"requeue": True, **_memory(resources), **resources.slurm},
    }  # fmt: skip
    return {key: value for key, value in asked.items() if value is not None or key == "wckey"}


def _memory(resources: Resources) -> dict[str, str]:
    """As sbatch writes it; submitit would take a number of gigabytes."""
    return {"mem": resources.mem} if resources.mem else {}


def _cpus(resources: Resources) -> list[str]:
    """srun no longer takes --cpus-per-task from the job since SLURM 22.05."""
    return [f"--cpus-per-task={resources.cpus_per_node}"] if resources.cpus_per_node else []


def _setup(code: Path, resources: Resources) -> list[str]:
    """Lines of the batch script: the snapshot goes before whatever the preset's lines, `module load`, put on the path.

    The folder where the job runs is no source of code.
    """
    return [
        *resources.setup,
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]
