"""Snapshots that go with jobs: code and resolved configs, so that editing the checkout changes nothing that waits.

<runs_dir>/.jobs/<name>/
  starts.jsonl, starts/   the history of a run's starts (history.py)
  001/                    one submission
    code/                 segtrain, jobs, configs as they were
    configs/<run>.yaml    resolved
    parts/<run>/          the parts of the user's own that it names, as they were
    logs/                 of submitit: sbatch script, pickles, output of the jobs
    journal.jsonl         of a queue in the foreground (queue/)
    job.json              runs and their job ids, resources, commit
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.history import jobs_folder
from jobs.resources import Resources, from_tree, to_tree
from segtrain.config import Config, builtin_config, to_yaml
from segtrain.errors import RunError
from segtrain.run import Run
from segtrain.run.code import copy_code
from segtrain.run.environment import commit
from segtrain.runtime import files

HOME = Path(__file__).resolve().parent.parent  # the checkout, an earlier snapshot, or site-packages


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
        runs_dir, submission_name = self.root.parent.parent.parent, self.root.parent.name
        of_many = "members" in self.record  # an ablation's or a queue's runs have a folder of their own
        return Run(runs_dir / submission_name / name if of_many else runs_dir / name)

    @property
    def resources(self) -> Resources:
        return from_tree(self.record["resources"], str(self.root))

    def processes(self, name: str) -> int:
        """Processes of a run's torchrun on a node: the run's own number, or that of the resources."""
        return int(self.record.get("processes", {}).get(name, self.resources.processes))

    @property
    def record(self) -> dict[str, Any]:
        """The content of job.json. Raises RunError: unreadable."""
        file = self.root / "job.json"
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            remedy = f"end its job with scancel, then move {self.root} to another folder"
            raise RunError(f"{file}: cannot be read ({error}); {remedy}") from error

    def keep(self, **values: Any) -> None:
        """Add to job.json."""
        known = self.record if (self.root / "job.json").exists() else {}
        files.write_json(self.root / "job.json", known | values)


def planned(runs_dir: str, name: str) -> Submission:
    """The next submission under that name; nothing is made."""
    parent = jobs_folder(Path(runs_dir).expanduser().absolute(), name)
    number = 1 + max((int(folder.name) for folder in parent.glob("[0-9]*")), default=0)
    return Submission(parent / f"{number:03d}")


def create(runs_dir: str, name: str, configs: Sequence[Config], resources: Resources, **about: Any) -> Submission:
    """A new submission with a snapshot of the code and the configs. Raises RunError: cannot be written."""
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
        raise RunError(f"{runs_dir}: cannot be written ({error.strerror}); set runs_dir to another folder") from error
    return submission


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
        shutil.copytree(part, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def submissions(runs_dir: Path) -> Iterator[Submission]:
    """All submissions for runs in that folder, oldest first for each name, readable or not."""
    for record in sorted(runs_dir.glob(".jobs/*/[0-9]*/job.json")):
        yield Submission(record.parent)


def of_name(runs_dir: Path, name: str) -> dict[str, tuple[str, Submission]]:
    """The runs that were submitted under that name: each with its newest job id and submission."""
    jobs: dict[str, tuple[str, Submission]] = {}
    for submission in submissions(runs_dir.expanduser().absolute()):
        if submission.root.parent.name == name:
            jobs |= {run: (job, submission) for run, job in submission.record["runs"].items()}
    return jobs
