"""Starting jobs: on a SLURM cluster through submitit, or as a process of this machine."""

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import submitit
from submitit.helpers import clean_env

from jobs import ablation_report, node, scheduler
from jobs.resources import Resources
from jobs.submission import Submission
from segtrain.errors import LaunchError
from segtrain.runtime import files

ExecutorName = Literal["slurm", "local"]
NAMES = get_args(ExecutorName)
MAX_NAME = 60
REPORT_MIN = 60  # that the job for the report asks for, unless a run gets less


class _Sbatch(submitit.SlurmExecutor):
    """submitit's executor, able to write its script where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self, count: int) -> str:
        """The script that sbatch would be given for that many runs."""
        if count > 1:
            self.parameters["map_count"] = count
        return self._make_submission_file_text(self._submitit_command_str, "")


def script(submission: Submission, name: str, resources: Resources, count: int = 1, max_parallel: int = 0) -> str:
    """The sbatch script of a submission that need not exist."""
    return _executor(submission, name, resources, max_parallel).script(count)


def submit(submission: Submission, names: Sequence[str], max_parallel: int = 0) -> dict[str, str]:
    """Hand the runs to SLURM, several as one array; returns their job ids. Raises LaunchError: refused."""
    executor = _executor(submission, submission.record["name"], submission.resources, max_parallel)
    roots = [str(submission.root)] * len(names)
    try:
        ids = _job_ids(lambda: executor.map_array(node.train, roots, names))
    except LaunchError:
        files.remove_folder(submission.root)
        raise
    jobs = dict(zip(names, ids, strict=True))
    submission.keep(runs=jobs)
    return jobs


def submit_report(submission: Submission, jobs: Mapping[str, str]) -> str:
    """Submit the job that writes table and report when those have ended; returns its id. Raises LaunchError."""
    arrays = sorted({re.split("[_ ]", job)[0] for job in jobs.values()})
    resources = replace(
        submission.resources,
        nodes=1,
        gpus_per_node=0,
        cpus_per_node=1,
        time=str(min(REPORT_MIN, submission.resources.minutes)),
        dependency=f"afterany:{':'.join(arrays)}",
    )
    executor = _executor(submission, f"{submission.record['name']}-report", resources, 0)
    return _job_ids(lambda: [executor.submit(ablation_report.write, str(submission.root))])[0]


def _job_ids(submitting: Callable[[], Sequence[submitit.Job[Any]]]) -> list[str]:
    """The ids of the jobs that are submitted. Raises LaunchError: refused."""
    try:
        with _outside_of_jobs():
            return [str(job.job_id) for job in submitting()]
    except (RuntimeError, subprocess.CalledProcessError) as error:  # submitit's own are RuntimeErrors
        messages = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        raise LaunchError(
            f"sbatch refused the job: {messages[-1].strip()[-300:]}; change the options or the preset"
        ) from error


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the job that this process is part of: sbatch takes its SLURM_* for options. On a login node hide nothing."""
    needed = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}  # where SLURM is
    with clean_env() if scheduler.this_job() else contextlib.nullcontext():
        os.environ.update(needed)
        yield


def check(name: str, resources: Resources) -> None:
    """Raise LaunchError, before anything is written, where such an executor cannot run these jobs."""
    if name == "slurm" and not scheduler.there():
        raise LaunchError("sbatch: no such program on this machine; submit from a login node, or use --executor local")
    if name == "local" and resources.nodes > 1:
        raise LaunchError(f"--nodes {resources.nodes}: --executor local is this machine alone; leave --nodes out")


def _executor(submission: Submission, name: str, resources: Resources, max_parallel: int) -> _Sbatch:
    """submitit's executor for these resources, with the snapshot before whatever is installed."""
    executor = _Sbatch(submission.logs)
    executor.update_parameters(**_parameters(resources, name), setup=_setup(submission.code, resources))
    if max_parallel:
        executor.update_parameters(array_parallelism=max_parallel)
    return executor


def _parameters(resources: Resources, name: str) -> dict[str, Any]:
    """The resources under submitit's names for sbatch's options."""
    parameters = {
        "job_name": name[:MAX_NAME],
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": resources.gpus_per_node or None,
        "cpus_per_task": resources.cpus_per_node,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "mail_user": resources.mail_user,
        "mail_type": resources.mail_type,
        "dependency": resources.dependency,
        "comment": resources.comment,
        "signal_delay_s": resources.warn_s,
        "stderr_to_stdout": True,
        "wckey": None,
        "srun_args": ["--open-mode=append", "--kill-on-bad-exit=1", *_cpus(resources)],
        "additional_parameters": {"requeue": True, **_memory(resources), **resources.slurm},
    }
    return {key: value for key, value in parameters.items() if value is not None or key == "wckey"}


def _memory(resources: Resources) -> dict[str, str]:
    """As sbatch writes it; submitit would take a number of gigabytes."""
    return {"mem": resources.mem} if resources.mem else {}


def _cpus(resources: Resources) -> list[str]:
    """srun no longer takes --cpus-per-task from the job since SLURM 22.05."""
    return [f"--cpus-per-task={resources.cpus_per_node}"] if resources.cpus_per_node else []


def _setup(code: Path, resources: Resources) -> list[str]:
    """Lines of the batch script: the snapshot goes before whatever the preset's lines, `module load`, put on the path.

    Nothing is imported from the folder where the job runs.
    """
    return [
        *resources.setup,
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]
