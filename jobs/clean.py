"""Remove snapshots that no job and no run needs any more: `segtrain clean`.

What goes is the code that went with a job, and the half-made folders of commands that were killed. Records, configs and
logs stay.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import lookup, submission
from jobs.history import History
from jobs.lookup import Job
from jobs.queue.journal import FILE as JOURNAL
from jobs.submission import Submission
from segtrain.config.paths import expanded
from segtrain.errors import DAMAGED, EXIT_FINISHED, LaunchError, RunError
from segtrain.run import Run
from segtrain.runtime import files
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show

EXAMPLES = """\
examples:
  segtrain clean runs            # what would go, and how large it is
  segtrain clean runs --yes      # removes it

Each submission keeps a copy of the code below <runs_dir>/.jobs. It stays while a job needs it that is in the queue or
may still come back; the newest one of a run that is not finished stays too.
"""
HALF_MADE_S = 86_400.0  # after which a folder without a record is no longer being made
FINAL = ("finished", "failed", "stopped", "given up")  # ends of a job, in its run's history


@dataclass(frozen=True)
class Verdict:
    """What becomes of one submission: the folders that go, or why none does."""

    root: Path
    doomed: Sequence[Path]
    why: str

    @property
    def size_bytes(self) -> int:
        return sum(path.lstat().st_size for folder in self.doomed for path in folder.rglob("*") if not path.is_dir())


def command(argv: Sequence[str]) -> int:
    """Show what would be removed, or remove it; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain clean",
        description="Remove snapshots of code that no job and no run needs any more.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs_dir", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--yes", action="store_true", help="remove it; without this it is only shown")
    arguments = parser.parse_args(list(argv))
    if not arguments.runs_dir.is_dir():
        raise RunError(f"{arguments.runs_dir}: there is no such folder; name the folder of the runs")
    verdicts = list(judge(expanded(arguments.runs_dir).absolute()))
    total_bytes = 0
    for verdict in verdicts:
        if not verdict.doomed:
            show(f"kept      {verdict.root}: {verdict.why}")
            continue
        size_bytes = verdict.size_bytes
        total_bytes += size_bytes
        show(
            f"{'removed' if arguments.yes else 'would go':<9} {verdict.root}: {size_bytes / 1e6:.1f} MB, {verdict.why}"
        )
        for folder in verdict.doomed if arguments.yes else ():
            _remove(folder)
    count = sum(bool(verdict.doomed) for verdict in verdicts)
    end = "" if arguments.yes or not count else "; --yes removes it"
    show(f"{count} of {len(verdicts)} snapshots, {total_bytes / 1e6:.1f} MB{end}")
    return EXIT_FINISHED


def judge(runs_dir: Path) -> Iterator[Verdict]:
    """What may go below a folder of runs. Raises LaunchError: SLURM does not answer, and its jobs may need all."""
    submissions = list(submission.submissions(runs_dir))
    readable = {one.root: jobs for one in submissions if (jobs := _jobs(one)) is not None}
    newest = {
        (one.root.parent, run): one.root for one in submissions if one.root in readable for run in readable[one.root].of
    }
    answer = lookup.ask(job for jobs in readable.values() for job in jobs.all)
    if answer.no_answer:
        raise LaunchError(answer.no_answer)
    for one in submissions:
        snapshot = [folder for folder in (one.code, one.root / "parts") if folder.is_dir()]
        if not snapshot:
            continue  # it went before
        if one.root not in readable:
            yield Verdict(one.root, (), "job.json cannot be read")
        elif one.root.stat().st_uid != os.geteuid():
            yield Verdict(one.root, (), f"it belongs to {files.owner_of(one.root)}")
        elif why := _needed(one, readable[one.root], newest, answer):
            yield Verdict(one.root, (), why)
        else:
            yield Verdict(one.root, snapshot, "no job and no run needs it")
    yield from _half_made(runs_dir)


@dataclass(frozen=True)
class _Jobs:
    """The jobs of a submission: of its runs, and that of the report."""

    of: Mapping[str, tuple[Run, Job]]
    report: Job | None

    @property
    def all(self) -> list[Job]:
        return [*(job for _, job in self.of.values()), *([self.report] if self.report else [])]


def _jobs(one: Submission) -> _Jobs | None:
    try:
        return _Jobs(one.jobs(), one.report_job())
    except (RunError, *DAMAGED):
        return None


def _needed(one: Submission, jobs: _Jobs, newest: Mapping[tuple[Path, str], Path], answer: lookup.Answer) -> str | None:
    """Why a submission's code must stay."""
    alive = answer.alive
    if jobs.report in alive:
        return f"the report's job {jobs.report.id} is {alive[jobs.report].state}"
    for name, (run, job) in jobs.of.items():
        if job in alive:
            return f"job {job.id} of {name} is {alive[job].state}"
        if newest[one.root.parent, name] == one.root and run.result().state != "finished":
            return f"{name} is not finished, and this is its newest"
        if not _is_over(one, run, job, answer):
            return f"job {job.id} of {name} may come back, as far as is known here"
    if not jobs.of and time.time() - one.root.stat().st_mtime < HALF_MADE_S:
        return "it is being submitted"
    return None


def _is_over(one: Submission, run: Run, job: Job, answer: lookup.Answer) -> bool:
    """Whether a job that is not in this machine's queue has ended for good: another cluster may have it."""
    entries = History(run).entries()
    own = [index for index, entry in enumerate(entries) if entry["job"] == job.id]
    if own:
        last = entries[own[-1]]
        later = any(entry["event"] == "start" for entry in entries[own[-1] + 1 :])
        return later or (last["event"] == "end" and last["how"] in FINAL)
    if not job.is_slurms:  # of a queue in the foreground, which did not get to this run
        journal = one.root / JOURNAL
        return journal.exists() and '"left"' in journal.read_text(encoding="utf-8", errors="replace")
    entry = answer.entries.get(job)
    return entry is not None and not entry.alive


def _half_made(runs_dir: Path) -> Iterator[Verdict]:
    """Folders that a killed command left without a record, or was about to remove."""
    for folder in sorted((*runs_dir.glob(".jobs/*/[0-9]*"), *runs_dir.glob(".jobs/*/.[0-9]*.removed*"))):
        about = folder.stat()
        old = time.time() - about.st_mtime > HALF_MADE_S
        if folder.is_dir() and not (folder / "job.json").exists() and old and about.st_uid == os.geteuid():
            yield Verdict(folder, (folder,), "a command that was killed left it")


def _remove(folder: Path) -> None:
    if folder.name.startswith("."):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        files.remove_folder(folder)


if __name__ == "__main__":
    sys.exit(main(command))
