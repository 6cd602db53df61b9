"""Snapshots that go with jobs: code and resolved configs, so that editing the checkout changes nothing that waits.

<runs_dir>/.jobs/<name>/
  starts.jsonl, starts/   the history of a run's starts (history.py)
  001/                    one submission
    code/                 segtrain, jobs, configs as they were
    configs/<run>.yaml    resolved
    parts/<run>/          the parts of the user's own that it names, as they were
    logs/                 of submitit: sbatch script, pickles, output of the jobs
    journal.jsonl         of a queue in the foreground (queue/)
    job.json              runs and their job ids, resources, commit; what tells the jobs from others with their ids
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import scheduler
from jobs.history import jobs_folder
from jobs.lookup import Job
from jobs.resources import Resources, from_tree, to_tree
from segtrain.config import Config, builtin_config, to_yaml
from segtrain.config.paths import expanded
from segtrain.errors import RunError
from segtrain.run import Run
from segtrain.run.code import copy_code
from segtrain.run.environment import commit
from segtrain.run.stored import built, reading, shown, tree_in
from segtrain.runtime import files

CODE = (".py", ".sh", ".yaml", ".yml", ".json", ".css", ".j2", ".js")
REPORT = "report"  # the folder of an ablation's report, beside the runs
HOME = Path(__file__).resolve().parent.parent  # the checkout, an earlier snapshot, or site-packages


@dataclass(frozen=True)
class _Record:
    """What readers need of job.json."""

    name: str
    runs: Mapping[str, str]
    resources: Mapping[str, Any]
    slurm: Mapping[str, str] = field(default_factory=dict)
    report: str | None = None
    report_slurm: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """One submission's folder; making the object touches nothing."""

    root: Path

    @property
    def code(self) -> Path:
        return self.root / "code"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def config(self, name: str) -> Path:
        """The resolved config of a run."""
        return self.root / "configs" / f"{name}.yaml"

    def own_code(self, name: str) -> Path:
        """The copies of a run's own parts."""
        return self.root / "parts" / name

    def run(self, name: str) -> Run:
        """The directory of a run, whether or not its config can be read."""
        return self._run(name, self.record)

    def _run(self, name: str, record: Mapping[str, Any]) -> Run:
        runs_dir = self.root.parent.parent.parent
        of_many = "members" in record  # an ablation's or a queue's runs have a folder of their own
        return Run(runs_dir / self.root.parent.name / name if of_many else runs_dir / name)

    def jobs(self) -> dict[str, tuple[Run, Job]]:
        """The runs that were submitted, each with its job. Raises one of DAMAGED, or RunError."""
        record = self.record
        own, array_name = record.get("slurm", {}), _job_name(record)
        return {
            name: (self._run(name, record), Job.of(job, own, [array_name, name[: scheduler.MAX_NAME]]))
            for name, job in record["runs"].items()
        }

    def report_job(self) -> Job | None:
        """The job that makes an ablation's report. Raises one of DAMAGED, or RunError."""
        record = self.record
        names = [_job_name(record), report_name(str(record["name"]))]
        return Job.of(record["report"], record.get("report_slurm", {}), names) if record.get("report") else None

    @property
    def report_page(self) -> Path:
        """The page of the ablation's report."""
        return self.root.parent.parent.parent / self.root.parent.name / REPORT / "index.html"

    @property
    def resources(self) -> Resources:
        return from_tree(self.record["resources"], str(self.root))

    def processes(self, name: str) -> int:
        """Processes of a run's torchrun on a node: the run's own number, or that of the resources."""
        return int(self.record.get("processes", {}).get(name, self.resources.processes))

    @property
    def record_file(self) -> Path:
        return self.root / "job.json"

    @property
    def record(self) -> dict[str, Any]:
        """The content of job.json. Raises RunError: unreadable."""
        file = self.record_file
        remedy = f"end its job with scancel, then move {self.root} to another folder"
        try:
            with reading(file, remedy):
                tree = tree_in(file, dict, remedy)
                built(_Record, tree)
                if wrong := [name for name in tree["runs"] if Path(name).name != name]:
                    raise ValueError(f"it names the run {shown(wrong[0])}")
                return tree
        except OSError as error:
            raise RunError(f"{file}: cannot be read ({error}); {remedy}") from error

    def keep(self, **values: Any) -> None:
        """Add to job.json."""
        known = self.record if self.record_file.exists() else {}
        files.write_json(self.record_file, known | values)


def planned(runs_dir: str, name: str) -> Submission:
    """The next submission under that name; nothing is made."""
    parent = jobs_folder(expanded(runs_dir).absolute(), name)
    number = 1 + max((int(folder.name) for folder in parent.glob("[0-9]*")), default=0)
    return Submission(parent / f"{number:03d}")


def create(runs_dir: str, name: str, configs: Sequence[Config], resources: Resources, **about: Any) -> Submission:
    """A new submission with a snapshot of the code and the configs. Raises RunError: cannot be written.

    Whatever ends it, nothing half-made is left.
    """
    submission: Submission | None = None
    try:
        submission = _claim(runs_dir, name)
        _take_snapshot(submission.code)
        submission.config("any").parent.mkdir()
        for cfg in configs:
            snapshot = copy_code(cfg, submission.own_code(cfg.name))
            submission.config(cfg.name).write_text(to_yaml(snapshot), encoding="utf-8")
        submission.logs.mkdir()
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        submission.keep(name=name, runs={}, resources=to_tree(resources), commit=commit(), time=now, **about)
        files.share_all(submission.root)
    except OSError as error:
        discard(submission)
        reason = error.strerror or error
        raise RunError(f"{runs_dir}: cannot be written ({reason}); set runs_dir to another folder") from error
    except BaseException:
        discard(submission)
        raise
    return submission


def discard(submission: Submission | None) -> None:
    """Remove a submission that no job knows, and the folder of its name if nothing else is in it."""
    if submission is None:
        return
    with contextlib.suppress(OSError):
        files.remove_folder(submission.root)
        submission.root.parent.rmdir()


def _claim(runs_dir: str, name: str) -> Submission:
    while True:
        submission = planned(runs_dir, name)
        files.make_folder(submission.root.parent)
        try:
            submission.root.mkdir()
            files.share(submission.root)
        except FileExistsError:  # somebody else's, made in between
            continue
        return submission


def _take_snapshot(folder: Path) -> None:
    """All that the packages consist of, the report's templates too."""
    configs = builtin_config("phantom.yaml").parent  # beside the packages, or in segtrain when that is from a wheel
    for part in (HOME / "segtrain", HOME / "jobs", configs):
        target = folder / part.relative_to(HOME)
        shutil.copytree(part, target, ignore=_left_out, dirs_exist_ok=True)


def _left_out(folder: str, names: Sequence[str]) -> list[str]:
    """What is no part of the code: links into data, that lead nowhere, or to anything but a file."""
    links = [name for name in names if Path(folder, name).is_symlink()]
    return [name for name in names if name == "__pycache__" or (name in links and not _is_text(Path(folder, name)))]


def _is_text(path: Path) -> bool:
    """Whether a link leads to a file that is code or a config."""
    return path.is_file() and path.resolve().suffix in CODE


def submissions(runs_dir: Path) -> Iterator[Submission]:
    """All submissions for runs in that folder, oldest first for each name, readable or not."""
    for record in sorted(runs_dir.glob(".jobs/*/[0-9]*/job.json")):
        yield Submission(record.parent)


def of_name(runs_dir: Path, name: str) -> dict[str, tuple[Job, Submission]]:
    """The runs that were submitted under that name: each with its newest job and submission."""
    jobs: dict[str, tuple[Job, Submission]] = {}
    for submission in submissions(expanded(runs_dir).absolute()):
        if submission.root.parent.name == name:
            jobs |= {run: (job, submission) for run, (_, job) in submission.jobs().items()}
    return jobs


def report_name(name: str) -> str:
    """The name of the job that makes the report, as SLURM gets it."""
    return f"{name}-report"[: scheduler.MAX_NAME]


def _job_name(record: Mapping[str, Any]) -> str:
    """The name that a submission's job was given, which older files do not record."""
    return str(record["resources"].get("slurm", {}).get("job-name", record["name"]))[: scheduler.MAX_NAME]
