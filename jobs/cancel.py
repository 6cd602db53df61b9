"""Have runs save and leave, then end their jobs: `python -m jobs.cancel NAME`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import scheduler, submission
from jobs.entry import main
from segtrain.errors import EXIT_FINISHED, EXIT_USER_ERROR, LaunchError, RunError
from segtrain.run import Run

GONE_S = 60.0  # what a job may take to end after scancel: slurm.conf(5), KillWait, and a margin
EXAMPLES = """\
examples:
  python -m jobs.cancel lgg
  python -m jobs.cancel loss --runs-dir /scratch/runs --wait 300      an ablation: all its runs

Each run that trains gets a STOP file, saves and leaves; jobs that wait, or are still there after --wait seconds, are
ended by scancel. Submitted again, the runs go on from there.
"""


def command(argv: Sequence[str]) -> int:
    """Cancel what was submitted under a name; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m jobs.cancel", description="Stop runs in order: they save first.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", help="of a run, or of an ablation")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--wait", type=float, default=120.0, metavar="S", help="for the saves, default 120 s")
    arguments = parser.parse_args(list(argv))
    jobs = submission.of_name(arguments.runs_dir, arguments.name)
    if not jobs:
        raise RunError(f"{arguments.name}: nothing in {arguments.runs_dir} was submitted by this name; see jobs.status")
    queue = scheduler.queued(job for job, _ in jobs.values())
    there = {made.run(run): job for run, (job, made) in jobs.items() if job in queue}
    if not there:
        print(f"{arguments.name}: no job of it is in the queue")
        return EXIT_FINISHED
    for job in (job for job in there.values() if queue[job] == "PENDING"):
        scheduler.cancel(job)
    training = {run: job for run, job in there.items() if queue[job] != "PENDING"}
    _stop(training, arguments.wait)
    refused = [f"{job}: {said}" for job in _left(training).values() if (said := scheduler.cancel(job))]
    if not refused:
        _wait(training, GONE_S)
        for run in training:  # nobody may be left to read it but the next start
            run.stop_file.unlink(missing_ok=True)
    for run, job in there.items():
        print(f"{run.root.name}: job {job} cancelled, the run is {_state(run)} at step {run.saved_step()}")
    for line in refused:
        print(f"segtrain: error: scancel refused job {line}; try scancel yourself", file=sys.stderr)
    return EXIT_USER_ERROR if refused else EXIT_FINISHED


def _state(run: Run) -> str:
    try:
        return str(run.outcome().get("state", "before its first step" if not run.metrics.exists() else "cut off"))
    except (OSError, ValueError) as error:
        return f"unreadable ({error})"


def _stop(training: dict[Run, str], wait_s: float) -> None:
    """Ask the runs to stop, and give them the time to."""
    for run in training:
        if run.root.is_dir():
            run.stop_file.touch()
    _wait(training, wait_s)


def _wait(training: dict[Run, str], patience_s: float) -> None:
    """Until the jobs are gone, or so long."""
    end = time.monotonic() + patience_s
    while _left(training) and time.monotonic() < end:
        time.sleep(1.0)


def _left(jobs: dict[Run, str]) -> dict[Run, str]:
    """Those that are still there, as far as SLURM says."""
    try:
        queue = scheduler.queued(jobs.values())
    except LaunchError:
        return jobs
    return {run: job for run, job in jobs.items() if job in queue}


if __name__ == "__main__":
    sys.exit(main(command))
