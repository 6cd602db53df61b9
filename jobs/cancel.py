"""Have runs save and leave, then end their jobs: `segtrain cancel NAME`, or `python -m jobs.cancel`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import scheduler, submission
from segtrain.errors import EXIT_FINISHED, EXIT_USER_ERROR, LaunchError, RunError
from segtrain.run import Run, layout
from segtrain.run.reader import refuse_private
from segtrain.runtime import files
from segtrain.runtime.process import main

GONE_S = 60.0  # that a job may take to end after scancel: slurm.conf(5), KillWait, and a margin
EXAMPLES = """\
examples:
  segtrain cancel lgg
  segtrain cancel loss --runs-dir /scratch/runs --wait 300      # an ablation: all its runs

Each run that trains gets a STOP file, saves and leaves; jobs that wait, or are still there after --wait seconds, are
ended by scancel. What was started without SLURM (segtrain ablate, --executor local, segtrain offline) is stopped by the
same file if it is trained on this machine, with all that would come after it, and never killed.
Submitted again, the runs go on from there.
"""


def command(argv: Sequence[str]) -> int:
    """Cancel what was submitted under a name; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain cancel",
        description="Stop runs in order: they save first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="of a run, or of an ablation")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--wait", type=float, default=120.0, metavar="S", help="for the saves, default 120 s")
    arguments = parser.parse_args(list(argv))
    refuse_private(arguments.runs_dir)
    submitted = submission.of_name(arguments.runs_dir, arguments.name)
    if not submitted:
        raise RunError(
            f"{arguments.name}: nothing in {arguments.runs_dir} was submitted by this name; see segtrain status"
        )
    jobs = {snapshot.run(run): job for run, (job, snapshot) in submitted.items()}
    queue = scheduler.queued(jobs.values())
    queued = {run: job for run, job in jobs.items() if job in queue}
    here = {run: _stop_file(run, job) for run, job in jobs.items() if not scheduler.OWN.fullmatch(job) and run.busy()}
    if not queued and not here:
        print(f"{arguments.name}: no job of it is in the queue, and none of its runs is being trained on this machine")
        return EXIT_FINISHED
    still_trained = _stop_here(here, arguments.wait)
    refused = _cancel(queued, queue, arguments.wait)
    for run in jobs:
        if run in queued and run not in refused:
            print(f"{run.root.name}: job {queued[run]} cancelled, the run is {_state(run)} at step {run.saved_step()}")
        elif run in here and run not in still_trained:
            print(f"{run.root.name}: the run is {_state(run)} at step {run.saved_step()}")
    for run, refusal in refused.items():
        print(f"segtrain: error: scancel refused job {queued[run]}: {refusal}; try scancel yourself", file=sys.stderr)
    for run in still_trained:
        print(
            f"segtrain: error: {run.root} is still being trained after {arguments.wait:g} s; its STOP file stays: "
            "wait for it to leave, or end its process",
            file=sys.stderr,
        )
    return EXIT_USER_ERROR if refused or still_trained else EXIT_FINISHED


def _stop_file(run: Run, job: str) -> Path:
    """The STOP file for a run that has no job of SLURM's: its own, or that of its queue (jobs.offline)."""
    return run.root.with_name(layout.STOP) if job.startswith("offline-") else run.stop_file


def _put(stop_file: Path) -> None:
    """Leave a STOP file, where there is none. Raises RunError."""
    try:
        if not stop_file.exists():  # touch() fails for another user's
            stop_file.touch()
    except OSError as error:
        owner = files.owner_of(stop_file.parent)
        raise RunError(
            f"{stop_file}: cannot be written ({error.strerror}); have {owner}, to whom the folder belongs, cancel it"
        ) from error


def _stop_here(stop_files: dict[Run, Path], wait_s: float) -> list[Run]:
    """Stop runs that are trained on this machine without SLURM; returns those that did not leave in time."""
    for stop_file in stop_files.values():
        _put(stop_file)
    end = time.monotonic() + wait_s
    busy = list(stop_files)
    while (busy := [run for run in busy if run.busy()]) and time.monotonic() < end:
        time.sleep(1.0)
    for run in stop_files.keys() - busy:  # a queue takes its own away when it has read it
        run.stop_file.unlink(missing_ok=True)
    return busy


def _cancel(jobs: dict[Run, str], queue: dict[str, str], wait_s: float) -> dict[Run, str]:
    """End the jobs, those that train when they have saved; returns SLURM's messages for those it refuses to end."""
    refused = _scancel({run: job for run, job in jobs.items() if queue[job] == "PENDING"})
    training = {run: job for run, job in jobs.items() if queue[job] != "PENDING"}
    _stop(training, wait_s)
    refused |= _scancel(_still_queued(training))
    ending = {run: job for run, job in training.items() if run not in refused}
    _wait(ending, GONE_S)
    for run in ending:  # or the next start would read it
        run.stop_file.unlink(missing_ok=True)
    return refused


def _scancel(jobs: dict[Run, str]) -> dict[Run, str]:
    """End the jobs; returns SLURM's messages for those that it refuses and that are still in the queue."""
    refused = {run: refusal for run, job in jobs.items() if (refusal := scheduler.cancel(job))}
    return {run: refused[run] for run in _still_queued({run: jobs[run] for run in refused})}


def _state(run: Run) -> str:
    try:
        if outcome := run.outcome():
            return outcome.state
        return "cut off" if run.metrics.exists() else "before its first step"
    except (OSError, ValueError) as error:
        return f"unreadable ({error})"


def _stop(training: dict[Run, str], wait_s: float) -> None:
    """Ask the runs to stop, and wait for them."""
    for run in training:
        if run.root.is_dir():
            _put(run.stop_file)
    _wait(training, wait_s)


def _wait(training: dict[Run, str], at_most_s: float) -> None:
    """Wait until the jobs are gone."""
    end = time.monotonic() + at_most_s
    while _still_queued(training) and time.monotonic() < end:
        time.sleep(1.0)


def _still_queued(jobs: dict[Run, str]) -> dict[Run, str]:
    """The jobs that are still in the queue; all of them where SLURM does not answer."""
    try:
        queue = scheduler.queued(jobs.values())
    except LaunchError:
        return jobs
    return {run: job for run, job in jobs.items() if job in queue}


if __name__ == "__main__":
    sys.exit(main(command))
