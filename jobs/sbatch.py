"""Starting jobs: on a SLURM cluster through submitit, or as a process of this machine."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import submitit
from submitit.helpers import clean_env

from jobs import ablation_report, lookup, node, scheduler
from jobs.resources import Resources
from jobs.submission import Submission, discard, report_name
from segtrain.errors import LaunchError

ExecutorName = Literal["slurm", "local"]
NAMES = get_args(ExecutorName)
SUBMITITS = re.compile("%[jtAa]")  # what it replaces in the names of its files
# SBATCH_* variables that are not named like their option.
VARIABLES = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE", "array": "ARRAY_INX"}
# Those that stand for one demand: of two, sbatch refuses the job or takes both.
FAMILIES = (
    {"GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK", "GRES"},
    {"MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE"},
    {"NO_REQUEUE", "REQUEUE"},
)
ALWAYS_HIDDEN = {"ARRAY_INX", "ERROR", "INPUT", "WAIT"}  # they would lose logs, or hold sbatch up until the job ends
# The batch script's first line: signals are noted.
NOTE = "asked=; " + " ".join(f"trap 'asked=${{asked:-{name}}}' {name};" for name in ("USR1", "USR2", "TERM"))
# The step's first process: it ignores signals and starts Python with them blocked (coreutils 8.31 or later), so that
# those that come before jobs.node listens are heeded then.
STEP = (
    'trap "" USR1 USR2 TERM; block="env --block-signal=USR1,USR2,TERM"; $block true 2>/dev/null || block=; '
    'exec $block "$@"'
)
PROGRAMS = ("resubmit", "cut_off")  # of the batch script
LISTENING = ("bash", "-c", STEP, "step")


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
    return _training(submission, name, resources, max_parallel, many=count > 1).script(count)


def submit(submission: Submission, names: Sequence[str], max_parallel: int = 0) -> dict[str, str]:
    """Hand the runs to SLURM, several as one array; returns their job ids. Raises LaunchError: refused."""
    record = submission.record
    executor = _training(submission, record["name"], submission.resources, max_parallel, many=len(names) > 1)
    roots = [str(submission.root)] * len(names)
    text = script(submission, record["name"], submission.resources, len(names), max_parallel)
    try:
        ids = _job_ids(lambda: executor.map_array(node.train, roots, names), text)
        jobs = dict(zip(names, ids, strict=True))
        submission.keep(runs=jobs)
        _link_logs(submission.logs, jobs)
    except BaseException as error:
        # A job that SLURM took lacks its record, or what submitit gives it: it could not run.
        for file in submission.logs.glob("[0-9]*_submission.sh"):
            scheduler.cancel(file.name.removesuffix("_submission.sh"))
        discard(submission)
        if isinstance(error, OSError):
            raise LaunchError(f"{submission.root}: cannot be written ({error}); nothing is submitted") from error
        raise
    submission.keep(slurm=lookup.identity(ids[0]))  # the ids come first: SLURM may take long to answer
    return jobs


def resubmit(submission: Submission, name: str, job: str) -> str:
    """Submit a run of the submission again, to start when its job has ended; returns the new id. Raises LaunchError."""
    resources = replace(submission.resources, dependency=f"afterany:{job}")
    executor = _training(submission, submission.record["name"], resources, 0)
    new = _job_ids(lambda: [executor.submit(node.train, str(submission.root), name)], executor.script(1))[0]
    submission.keep(runs=submission.record["runs"] | {name: new})
    return new


def submit_report(submission: Submission, jobs: Mapping[str, str]) -> str:
    """Submit the job that writes table and report when those have ended; its id is kept. Raises LaunchError."""
    return submit_after(submission, jobs, ablation_report.write, str(submission.root))


def submit_after(submission: Submission, jobs: Mapping[str, str], call: Callable[..., object], *arguments: str) -> str:
    """Submit a job that calls something when those have ended, in place of that for the report. Raises LaunchError."""
    arrays = sorted({re.split("[_ ]", job)[0] for job in jobs.values()})
    resources = replace(submission.resources.for_report, dependency=f"afterany:{':'.join(arrays)}")
    name = report_name(submission.record["name"])
    executor = _executor(submission, name, resources, 0)
    # Whatever the user's defaults are, it asks for no GPU.
    text = executor.script(1) + "\n#SBATCH --gpus=0\n"
    job = _job_ids(lambda: [executor.submit(call, *arguments)], text)[0]
    submission.keep(report=job, report_slurm=lookup.identity(job))
    return job


def _job_ids(submitting: Callable[[], Sequence[submitit.Job[Any]]], text: str) -> list[str]:
    """The ids of the jobs that are submitted by that script. Raises LaunchError: refused."""
    try:
        with environment(text):
            return [str(job.job_id) for job in submitting()]
    except (RuntimeError, subprocess.CalledProcessError) as error:  # submitit's own are RuntimeErrors
        messages = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        raise LaunchError(
            f"sbatch refused the job: {messages[-1].strip()[-300:]}; change the options or the preset"
        ) from error


@contextlib.contextmanager
def environment(script: str) -> Iterator[None]:
    """The environment in which sbatch is called: without what would change a script's options.

    Inside of a job, sbatch would take that job's SLURM_* for options; on a login node a user's defaults stay. To sbatch
    a SBATCH_* variable counts more than a line of the script, so those that the script has a line for are hidden.
    """
    needed = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}  # where SLURM is
    hidden = {name: os.environ.pop(name) for name in overridden(script)}
    try:
        with clean_env() if scheduler.this_job() else contextlib.nullcontext():
            os.environ.update(needed)
            yield
    finally:
        os.environ.update(hidden)


def overridden(script: str) -> list[str]:
    """The SBATCH_* variables of this process that the script's own options stand against."""
    options = set(re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE))
    names = {VARIABLES.get(option, option.upper().replace("-", "_")) for option in options}
    hidden = names | ALWAYS_HIDDEN
    for family in FAMILIES:
        hidden |= family if family & names else set()
    return sorted(name for name in os.environ if name.startswith("SBATCH_") and name[7:] in hidden)


def rules(script: str) -> list[str]:
    """A line on each SBATCH_* variable of this process: whether it counts."""
    against = overridden(script)
    return [
        f"{name}={os.environ[name]}: "
        + ("not used, the job's own options count" if name in against else "used by sbatch")
        for name in sorted(os.environ)
        if name.startswith("SBATCH_")
    ]


def check(name: str, resources: Resources) -> None:
    """Raise LaunchError, before anything is written, where such an executor cannot run these jobs."""
    if name == "slurm" and not scheduler.there():
        raise LaunchError("sbatch: no such program on this machine; submit from a login node, or use --executor local")
    if name == "local" and resources.nodes > 1:
        raise LaunchError(f"--nodes {resources.nodes}: --executor local is this machine alone; leave --nodes out")


def _training(
    submission: Submission, name: str, resources: Resources, max_parallel: int, many: bool = False
) -> _Sbatch:
    """The executor of jobs whose step loses no signal. many: for an array."""
    executor = _executor(submission, name, resources, max_parallel, many)
    executor.parameters["srun_args"] += LISTENING
    return executor


def _link_logs(logs: Path, jobs: Mapping[str, str]) -> None:
    """Give each job's log the name of its run too."""
    with contextlib.suppress(OSError):  # some file systems have no links
        for name, job in jobs.items():
            (logs / f"{name}.out").symlink_to(f"{job}_0_log.out")


def _executor(
    submission: Submission, name: str, resources: Resources, max_parallel: int, many: bool = False
) -> _Sbatch:
    """submitit's executor for these resources, with the snapshot before whatever is installed. many: for an array."""
    logs = str(submission.logs)
    if taken := SUBMITITS.search(logs):
        raise LaunchError(f"{logs}: submitit takes {taken[0]} for part of a job's id; set runs_dir to another folder")
    executor = _Sbatch(submission.logs, python=resources.python)
    parameters = _parameters(resources, name)
    if "%" in logs:  # SLURM would replace what follows it
        job = "%A_%a" if many else "%j"
        log = f"{logs.replace('%', '%%')}/{job}"
        parameters["additional_parameters"] = {"output": f"{log}_0_log.out", **parameters["additional_parameters"]}
        parameters["srun_args"] += [f"--output={log}_%t_log.out"]
    executor.update_parameters(**parameters, setup=_setup(submission, resources))
    if max_parallel:
        executor.update_parameters(array_parallelism=max_parallel)
    return executor


def _parameters(resources: Resources, name: str) -> dict[str, Any]:
    """The resources under submitit's names for sbatch's options."""
    parameters = {
        "job_name": name[: scheduler.MAX_NAME],
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
        "srun_args": ["--open-mode=append", "--kill-on-bad-exit=1", *step_options(resources)],
        "additional_parameters": {
            "no-requeue" if resources.resubmit else "requeue": True,
            **_memory(resources),
            **resources.slurm,
        },
    }
    return {key: value for key, value in parameters.items() if value is not None or key == "wckey"}


def _memory(resources: Resources) -> dict[str, str]:
    """As sbatch writes it; submitit would take a number of gigabytes."""
    return {"mem": resources.mem} if resources.mem else {}


def step_options(resources: Resources) -> list[str]:
    """Options of the step, those of the preset last, so that they win."""
    # Of a job that was submitted with --export=NONE, by the user or the site, the step would get no environment.
    options: list[tuple[str, str | int | bool]] = [("export", "ALL")]
    if resources.cpus_per_node:  # srun no longer takes it from the job since SLURM 22.05
        options.append(("cpus-per-task", resources.cpus_per_node))
    options += [(key.replace("_", "-"), value) for key, value in resources.srun.items()]
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in options if value is not False]


def _setup(submission: Submission, resources: Resources) -> list[str]:
    """Lines of the batch script: the snapshot goes before whatever the preset's lines, `module load`, put on the path.

    Nothing is imported from the folder where the job runs.
    """
    code = submission.code
    resubmit, cut_off = (shlex.join([sys.executable, "-m", f"jobs.{name}", str(code.parent)]) for name in PROGRAMS)
    return [
        NOTE,
        *resources.setup,
        *(f"export {name}={shlex.quote(str(value))}" for name, value in _network(resources).items()),
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
        *_requeue(submission, resources),
        f". {shlex.quote(str(code / 'jobs' / 'job.sh'))}",
        f'resubmit() {{ shielded {resubmit} "$@"; }}',
        f'cut_off() {{ shielded {cut_off} "$@"; }}',
    ]


def _requeue(submission: Submission, resources: Resources) -> list[str]:
    """The line by which jobs/job.sh requeues a job whose step, in a container, cannot."""
    if not (resources.python or any(key.startswith("container") for key in resources.srun)):
        return []
    return [f"export {scheduler.REQUEUE}={shlex.quote(str(submission.logs))}/requeue-$SLURM_JOB_ID"]


def _network(resources: Resources) -> dict[str, str | int]:
    """The variables of the preset, and those that keep gloo and NCCL to its interface."""
    interface = resources.interface
    return (dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), interface) if interface else {}) | resources.env
