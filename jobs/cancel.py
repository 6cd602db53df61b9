"""Have runs save and leave, then end their jobs: `segtrain cancel NAME`, or `python -m jobs.cancel`."""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs import lookup, scheduler, submission
from jobs.history import History
from jobs.lookup import Job, user_name
from jobs.run_state import trained_elsewhere
from jobs.scheduler import Entry
from segtrain.errors import DAMAGED, EXIT_FINISHED, EXIT_USER_ERROR, LaunchError, RunError
from segtrain.run import Run, layout
from segtrain.run.reader import refuse_private
from segtrain.runtime import files
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show

GONE_S = 60.0  # that a job may take to end after scancel: slurm.conf(5), KillWait, and a margin
EXAMPLES = """\
examples:
  segtrain cancel lgg
  segtrain cancel loss --runs-dir /scratch/runs --wait 300      # an ablation: all its runs

Each run that trains gets a STOP file, saves and leaves; jobs that wait, or are still there after --wait seconds, are
ended by scancel. What was started without SLURM (segtrain ablate, --executor local, segtrain offline) is stopped by the
same file if it is trained on this machine, with all that would come after it, and never killed.
A job is ended only if SLURM shows it with the cluster, user, name and folder that it was submitted with. While SLURM
does not answer, and on another cluster, the runs that train get their STOP files, and the command names the jobs that
may still wait.
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
    if not submitted and (run := Run(arguments.runs_dir / arguments.name)).config_file.exists():
        raise RunError(
            f"{arguments.name}: was started by hand or by a template, not submitted; "
            f"touch {run.stop_file} has it save and stop"
        )
    if not submitted:
        raise RunError(
            f"{arguments.name}: nothing in {arguments.runs_dir} was submitted by this name; see segtrain status"
        )
    jobs = {snapshot.run(run): job for run, (job, snapshot) in submitted.items()}
    return _cancel_all(arguments.name, jobs, arguments.wait)


def _cancel_all(name: str, jobs: Mapping[Run, Job], wait_s: float) -> int:
    """Cancel the runs' jobs, and print what became of each; returns the exit code."""
    answer = lookup.ask(jobs.values(), ended=False)
    queue = answer.alive
    queued = {run: job for run, job in jobs.items() if job in queue}
    unseen = {
        run: (job, answer.unknown[job])
        for run, job in jobs.items()
        if job in answer.unknown and _may_come_back(run, job)
    }
    without_slurm = {run: job for run, job in jobs.items() if not job.is_slurms}
    here = {run: _stop_file(run, job.id) for run, job in without_slurm.items() if run.busy()}
    errors = [
        f"{run.root.name}: is being trained on {host} without SLURM; "
        f"cancel it there, or touch {_stop_file(run, job.id)}"
        for run, job in without_slurm.items()
        if run not in here and (host := trained_elsewhere(run, job))
    ]
    if not (queued or here or unseen or errors):
        show(f"{name}: no job of it is in the queue, and none of its runs is being trained on this machine")
        return EXIT_FINISHED
    errors += _stop_unseen(unseen, wait_s)
    still_trained = _stop_here(here, wait_s)
    refused = _cancel(queued, queue, wait_s)
    for run, job in jobs.items():
        if run in queued and run not in refused:
            show(f"{run.root.name}: job {job.id} cancelled, the run is {_state(run)} at step {run.saved_step()}")
        elif run in here and run not in still_trained:
            show(f"{run.root.name}: the run is {_state(run)} at step {run.saved_step()}")
    errors += [_refusal(jobs[run], refusal) for run, refusal in refused.items()]
    errors += [
        f"{run.root} is still being trained after {wait_s:g} s; its STOP file stays: wait for it to leave, or "
        "end its process"
        for run in still_trained
    ]
    for error in errors:
        show(f"segtrain: error: {error}", errors=True)
    return EXIT_USER_ERROR if errors else EXIT_FINISHED


def _refusal(job: Job, refusal: str) -> str:
    owner = user_name(int(job.user)) if job.user.isdigit() and int(job.user) != os.getuid() else None
    remedy = f"have {owner}, whose job it is, cancel it" if owner else "try scancel yourself"
    return f"scancel refused job {job.id}: {refusal}; {remedy}"


def _may_come_back(run: Run, job: Job) -> bool:
    """Whether the job trains or waits, as far as the run's history tells: it has not ended for good."""
    has_not_ended = History(run).last(job.id).get("how") in (None, "requeued", "left to SLURM", "cut off")
    return has_not_ended and _state(run) != "finished"


def _stop_unseen(unseen: Mapping[Run, tuple[Job, str]], wait_s: float) -> list[str]:
    """Have runs save and leave whose jobs SLURM does not show, for the reason given; returns what is left to do."""
    begun = {run: job for run, (job, _) in unseen.items() if run.root.is_dir()}
    for run in begun:
        _put(run.stop_file)
    end = time.monotonic() + wait_s
    while not all(_has_stopped(run, job) for run, job in begun.items()) and time.monotonic() < end:
        time.sleep(1.0)
    errors = []
    for run, (job, why) in unseen.items():
        if run in begun and _has_stopped(run, job):
            run.stop_file.unlink(missing_ok=True)
            state = f"{_state(run)} at step {run.saved_step()}"
            show(f"{run.root.name}: the run is {state}, and its job {job.id} ends by itself")
            continue
        what = f"{run.stop_file} is left for its next start" if run in begun else "it has not begun"
        errors.append(f"{run.root.name}: {why}; {what}; job {job.id} may still wait: cancel again when SLURM shows it")
    return errors


def _has_stopped(run: Run, job: Job) -> bool:
    """Whether the job's last start ended by the STOP file, after which it does not come back."""
    return History(run).last(job.id).get("how") == "stopped"


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


def _cancel(jobs: dict[Run, Job], queue: Mapping[Job, Entry], wait_s: float) -> dict[Run, str]:
    """End the jobs, those that train when they have saved; returns SLURM's messages for those it refuses to end."""
    refused = _scancel({run: job for run, job in jobs.items() if queue[job].state == "PENDING"})
    training = {run: job for run, job in jobs.items() if queue[job].state != "PENDING"}
    _stop(training, wait_s)
    refused |= _scancel(_still_queued(training))
    ending = {run: job for run, job in training.items() if run not in refused}
    _wait(ending, GONE_S)
    for run in ending:  # or the next start would read it
        run.stop_file.unlink(missing_ok=True)
    return refused


def _scancel(jobs: dict[Run, Job]) -> dict[Run, str]:
    """End the jobs; returns SLURM's messages for those that it refuses and that are still in the queue."""
    refused = {run: refusal for run, job in jobs.items() if (refusal := scheduler.cancel(job.id))}
    return {run: refused[run] for run in _still_queued({run: jobs[run] for run in refused})}


def _state(run: Run) -> str:
    try:
        if outcome := run.outcome():
            return outcome.state
        return "cut off" if run.metrics.exists() else "before its first step"
    except DAMAGED as error:
        return f"unreadable ({error})"


def _stop(training: dict[Run, Job], wait_s: float) -> None:
    """Ask the runs to stop, and wait for them."""
    for run in training:
        if run.root.is_dir():
            _put(run.stop_file)
    _wait(training, wait_s)


def _wait(training: dict[Run, Job], at_most_s: float) -> None:
    """Wait until the jobs are gone."""
    end = time.monotonic() + at_most_s
    while _still_queued(training) and time.monotonic() < end:
        time.sleep(1.0)


def _still_queued(jobs: dict[Run, Job]) -> dict[Run, Job]:
    """The jobs that are still in the queue; all of them where SLURM does not answer."""
    try:
        queue = lookup.alive(jobs.values())
    except LaunchError:
        return jobs
    return {run: job for run, job in jobs.items() if job in queue}


if __name__ == "__main__":
    sys.exit(main(command))
