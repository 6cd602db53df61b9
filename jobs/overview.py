"""All runs of a folder, each with its newest job, and the rows that `segtrain status` shows of them."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import lookup, submission
from jobs.history import History
from jobs.lookup import Answer, Job, user_name
from jobs.run_state import BROKEN, summary, unreadable
from jobs.scheduler import Entry
from jobs.submission import Submission
from segtrain.run import Run, layout

LAST = "\U0010ffff"  # sorts after the names of runs


@dataclass(frozen=True)
class Listed:
    """A run, or the report of an ablation, with its newest job. submission: None for a job of a template, or of none.

    trouble: why there is no more to tell, of a submission that cannot be read.
    """

    name: str
    root: Path
    job: Job | None = None
    submission: Submission | None = None
    is_report: bool = False
    trouble: Exception | None = None


def listing(runs_dir: Path, pattern: str = "*") -> list[Listed]:
    """The runs in the folder and in its ablations whose names match, those too that wait for their first start.

    A report comes after the runs of its ablation.
    """
    by_folder: dict[Path, Listed] = {}
    for one in submission.submissions(runs_dir):
        try:
            jobs, report = one.jobs(), one.report_job()
        except BROKEN as error:
            by_folder[one.root] = Listed(str(one.root.relative_to(runs_dir)), one.root, trouble=error)
            continue
        for run, job in jobs.values():
            by_folder[run.root] = Listed(str(run.root.relative_to(runs_dir)), run.root, job, one)
        if report:
            root = one.report_page.parent
            by_folder[root] = Listed(str(root.relative_to(runs_dir)), root, report, one, is_report=True)
    for root in {*layout.run_folders(runs_dir), *layout.closed_folders(runs_dir)} - set(by_folder):
        by_folder[root] = Listed(str(root.relative_to(runs_dir)), root, _job_of(Run(root)))
    matching = (one for one in by_folder.values() if fnmatch.fnmatchcase(one.name, pattern))
    return sorted(matching, key=_place)


def _place(one: Listed) -> tuple[bool, Path]:
    """Where it is listed: what cannot be read first, a report after its runs."""
    return one.trouble is None, one.root.parent / LAST if one.is_report else one.root


def rows(runs_dir: Path, now_s: float, pattern: str = "*") -> Iterator[dict[str, Any]]:
    """A row for each; what cannot be read is a row too, with its trouble. SLURM is asked once for all."""
    listed = listing(runs_dir, pattern)
    answer = lookup.ask(one.job for one in listed if one.job)
    for one in listed:
        about = {
            "run": one.name,
            "kind": "report" if one.is_report else "run",
            "job": one.job.id if one.job else None,
            "user": _user(one),
        }
        try:
            yield about | row(one, answer, now_s)
        except BROKEN as error:
            yield about | unreadable(error)


def row(one: Listed, answer: Answer, now_s: float) -> dict[str, Any]:
    """What there is to tell of one. Raises one of BROKEN."""
    if one.trouble:
        raise one.trouble
    entry = answer.entries.get(one.job) if one.job else None
    unknown = answer.unknown.get(one.job, "") if one.job else ""
    if one.is_report:
        return _report(one, entry, now_s, unknown)
    return summary(Run(one.root), one.job, entry, now_s, unknown)


def _report(one: Listed, entry: Entry | None, now_s: float, unknown: str) -> dict[str, Any]:
    """The row of the job that makes a report, by the same rules as that of a run; its page is what it leaves."""
    known = summary(Run(one.root), None, entry, now_s, unknown)
    assert one.submission is not None
    page, submitted_s = one.submission.report_page, one.submission.record_file.stat().st_mtime
    is_there = page.exists() and page.stat().st_mtime > submitted_s
    if entry is None or not entry.alive:
        over = "failed" if entry and entry.state != "COMPLETED" else "unknown" if unknown else "none"
        known["state"] = "finished" if is_there else over
    return known


def _job_of(run: Run) -> Job | None:
    """The job of a run that was started by a template or a script, from its history or else from its environment."""
    try:
        for record in reversed(History(run).entries()):
            if record["job"]:
                return Job.of(str(record["job"]), record.get("slurm") or {})
        for start in reversed(run.starts()):
            if start.job:
                job = Job.of(str(start.job), {"cluster": start.cluster})
                return replace(job, is_slurms=job.is_slurms and start.launcher in (None, "slurm"))
    except BROKEN:  # its row says so
        pass
    return None


def _user(one: Listed) -> str | None:
    """The user to whom it belongs: as recorded at the submission, else the folder's owner."""
    if one.job and one.job.user.isdecimal():
        return user_name(int(one.job.user))
    try:
        return user_name(one.root.stat().st_uid)
    except OSError:
        return None
