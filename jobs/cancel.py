"""Have runs save and leave, then end their jobs: `python -m jobs.cancel NAME`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import scheduler, submission
from jobs.entry import main
from segtrain.errors import EXIT_FINISHED, EXIT_USER_ERROR, LaunchError, RunError
from segtrain.run import Run, layout

GONE_S = 60.0  # what a job may take to end after scancel: slurm.conf(5), KillWait, and a margin
EXAMPLES = """\
examples:
  python -m jobs.cancel lgg
  python -m jobs.cancel loss --runs-dir /scratch/runs --wait 300      an ablation: all its runs

Each run that trains gets a STOP file, saves and leaves; jobs that wait, or are still there after --wait seconds, are
ended by scancel. What was started without SLURM (--executor local, jobs.offline) is stopped by the same file if it is
trained on this machine, with all that would come after it, and never killed.
Submitted again, the runs go on from there.
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
    held = {made.run(run): job for run, (job, made) in jobs.items()}
    queue = scheduler.queued(held.values())
    there = {run: job for run, job in held.items() if job in queue}
    here = {run: _order(run, job) for run, job in held.items() if not scheduler.OWN.fullmatch(job) and run.busy()}
    if not there and not here:
        print(f"{arguments.name}: no job of it is in the queue, and none of its runs is being trained on this machine")
        return EXIT_FINISHED
    deaf = _stop_here(here, arguments.wait)
    refused = _cancel(there, queue, arguments.wait)
    for run in held:
        if run in there and run not in refused:
            print(f"{run.root.name}: job {there[run]} cancelled, the run is {_state(run)} at step {run.saved_step()}")
        elif run in here and run not in deaf:
            print(f"{run.root.name}: the run is {_state(run)} at step {run.saved_step()}")
    for run, said in refused.items():
        print(f"segtrain: error: scancel refused job {there[run]}: {said}; try scancel yourself", file=sys.stderr)
    for run in deaf:
        print(f"segtrain: error: {run.root} is still being trained after {arguments.wait:g} s; its STOP file stays: "
              "wait for it to leave, or end its process", file=sys.stderr)  # fmt: skip
    return EXIT_USER_ERROR if refused or deaf else EXIT_FINISHED


def _order(run: Run, job: str) -> Path:
    """The STOP file for a run that has no job of SLURM's: its own, or its queue's (jobs.offline)."""
    return run.root.with_name(layout.STOP) if job.startswith("offline-") else run.stop_file


def _stop_here(orders: dict[Run, Path], wait_s: float) -> list[Run]:
    """Stop runs that are trained on this machine without SLURM; returns those that did not leave in time."""
    for order in orders.values():
        order.touch()
    end = time.monotonic() + wait_s
    left = list(orders)
    while (left := [run for run in left if run.busy()]) and time.monotonic() < end:
        time.sleep(1.0)
    for run in orders.keys() - left:  # a queue reads its own in its own time
        run.stop_file.unlink(missing_ok=True)
    return left


def _cancel(jobs: dict[Run, str], queue: dict[str, str], wait_s: float) -> dict[Run, str]:
    """End the jobs, those that train when they have saved; returns what SLURM says against it where it refuses."""
    refused = _scancel({run: job for run, job in jobs.items() if queue[job] == "PENDING"})
    training = {run: job for run, job in jobs.items() if queue[job] != "PENDING"}
    _stop(training, wait_s)
    refused |= _scancel(_left(training))
    ending = {run: job for run, job in training.items() if run not in refused}
    _wait(ending, GONE_S)
    for run in ending:  # nobody may be left to read it but the next start
        run.stop_file.unlink(missing_ok=True)
    return refused


def _scancel(jobs: dict[Run, str]) -> dict[Run, str]:
    """What SLURM says against it, of those that are still there."""
    refused = {run: said for run, job in jobs.items() if (said := scheduler.cancel(job))}
    return {run: refused[run] for run in _left({run: jobs[run] for run in refused})}


def _state(run: Run) -> str:
    try:
        if outcome := run.outcome():
            return outcome.state
        return "cut off" if run.metrics.exists() else "before its first step"
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
