"""Every run at a glance: `python -m jobs.status [DIR]`. From run directories, and from SLURM where there is one."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from jobs import scheduler, submission
from jobs.book import Book
from jobs.entry import main
from segtrain.errors import EXIT_FINISHED, RunError
from segtrain.run import Run

QUIET_S = 600.0  # a run without a job and without a word for so long is not running
EXAMPLES = """\
examples:
  python -m jobs.status
  python -m jobs.status /scratch/runs --json

state: none, pending, running, finished, stopped, diverged, failed; broken off: it ended without a word;
unreadable: one of its files is broken.
"""


def command(argv: Sequence[str]) -> int:
    """Print the table, or JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m jobs.status", description="Show every run: state, job, epoch, DSC, speed, ETA.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs_dir", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args(list(argv))
    if not arguments.runs_dir.is_dir():
        raise RunError(f"{arguments.runs_dir}: no such folder; name the runs_dir that holds the runs")
    found = list(rows(arguments.runs_dir.absolute(), time.time()))
    if arguments.json:
        print(json.dumps(found, indent=1))
    elif found:
        _show(found)
    else:
        print(f"{arguments.runs_dir}: no runs")
    return EXIT_FINISHED


def rows(runs_dir: Path, now_s: float) -> Iterator[dict[str, Any]]:
    """A row for each run in the folder, for those of its ablations, and for those that wait for their first start.

    What cannot be read is a row too, with its trouble.
    """
    jobs: dict[Path, str] = {}
    for made in submission.submissions(runs_dir):
        try:
            jobs |= {made.run(name).root: job for name, job in made.record["runs"].items()}
        except RunError as error:
            yield _troubled(str(made.root.relative_to(runs_dir)), None, error)
    begun = {file.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for file in runs_dir.glob(pattern)}
    for root in begun - set(jobs):
        if job := _job_of(Run(root)):
            jobs[root] = job
    queue = scheduler.queued(jobs.values()) if scheduler.there() else {}
    ended = scheduler.accounted([job for job in jobs.values() if job not in queue]) if scheduler.there() else {}
    for root in sorted(begun | set(jobs)):
        own, name = jobs.get(root), str(root.relative_to(runs_dir))
        said = queue.get(own or "") or ended.get(own or "")
        try:
            yield {"run": name, "job": own, **summary(Run(root), own, said, now_s)}
        except (OSError, ValueError, KeyError, TypeError) as error:  # of a file that somebody wrote in, or half of one
            yield _troubled(name, own, error)


def _troubled(name: str, job: str | None, error: Exception) -> dict[str, Any]:
    """The row of what cannot be read."""
    keys = ("slurm", "epochs", "best_dsc", "last_dsc", "n", "images_per_s", "memory_gib", "eta_s")
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return {
        "run": name,
        "job": job,
        "state": "unreadable",
        "restarts": 0,
        "step": 0,
        "epoch": 0,
        "why": why,
    } | dict.fromkeys(keys)


def _job_of(run: Run) -> str | None:
    """The job of a run that was started by a template, from its book or else from what its last start wrote down."""
    said = [*(start.get("job") for start in run.starts()), *(entry["job"] for entry in Book(run).entries())]
    return next((str(job) for job in reversed(said) if job), None)


def summary(run: Run, job: str | None, said: str | None, now_s: float) -> dict[str, Any]:
    """What is known of a run. `said`: what SLURM says of its job."""
    events = list(_events(run))
    outcome = run.outcome()
    trained = [event for event in events if event["event"] == "train"]
    scores = [event for event in events if event["event"] == "evaluation"]
    row: dict[str, Any] = {
        "state": _state(run, outcome, said, events, now_s), "slurm": said,
        "restarts": max(0, len(run.starts()) - 1), "step": events[-1]["step"] if events else 0,
        "epoch": scores[-1]["epoch"] if scores else 0, "epochs": _epochs(run),
        "best_dsc": max((event["val_dsc"] for event in scores), default=None),
        "last_dsc": scores[-1]["val_dsc"] if scores else None, "n": scores[-1]["n"] if scores else None,
        "images_per_s": trained[-1]["images_per_s"] if trained else None,
        "memory_gib": trained[-1]["memory_gib"] if trained else None,
        "why": _why(run, job, outcome),
    }  # fmt: skip
    row["eta_s"] = _eta_s(row, scores, events) if row["state"] == "running" else None
    return row


def _state(run: Run, outcome: Mapping[str, Any], said: str | None, events: Sequence[Any], now_s: float) -> str:
    ending = said == "COMPLETING" or (said == "RUNNING" and outcome.get("state") == "finished")
    if said in scheduler.ALIVE and not (ending and outcome):
        return "running" if said in ("RUNNING", "COMPLETING") else "pending"
    if outcome:
        return str(outcome["state"])
    if said:  # it ended, and did not say how
        return "failed" if not run.root.exists() else "broken off"
    if not run.root.exists():
        return "none"
    return "running" if events and now_s - events[-1]["time"] < QUIET_S else "broken off"


def _why(run: Run, job: str | None, outcome: Mapping[str, Any]) -> str:
    """What is worth saying: why it failed, stopped or was given up."""
    last = next((entry for entry in reversed(Book(run).entries(job)) if entry["event"] == "end"), None)
    if last and last["how"] in ("given up", "failed"):
        return f"{last['how']}: {last['why']}"
    return "" if outcome.get("state") in (None, "finished") else str(outcome.get("reason") or "")


def _eta_s(row: Mapping[str, Any], scores: Sequence[Any], events: Sequence[Any]) -> float | None:
    """Seconds left at the pace between the first and the last evaluation; None before the second."""
    if len(scores) < 2 or row["epochs"] is None:
        return None
    first, last = scores[0], scores[-1]
    per_epoch_s = (last["time"] - first["time"]) / (last["epoch"] - first["epoch"] or 1)
    left_s: float = (row["epochs"] - last["epoch"]) * per_epoch_s - (events[-1]["time"] - last["time"])
    return max(0.0, left_s)


def _events(run: Run) -> Iterator[dict[str, Any]]:
    for line in run.metrics.read_text().splitlines() if run.metrics.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:  # the line that is being written
            continue


def _epochs(run: Run) -> int | None:
    try:
        return int(yaml.safe_load((run.root / "config.yaml").read_text())["train"]["epochs"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def _show(found: Sequence[Mapping[str, Any]]) -> None:
    table = Table("run", "state", "job", "restarts", "epoch", "best DSC", "images/s", "GiB", "ETA", "why")
    for row in found:
        table.add_row(
            row["run"], row["state"], row["job"] or "", str(row["restarts"]),
            f"{row['epoch']}/{row['epochs'] or '?'}", _number(row["best_dsc"], 4), _number(row["images_per_s"], 1),
            _number(row["memory_gib"], 1), _duration(row["eta_s"]), row["why"],
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%H:%M:%S", time.gmtime(min(seconds, 86399)))


if __name__ == "__main__":
    sys.exit(main(command))
