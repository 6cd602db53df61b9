"""Every run at a glance: `segtrain status`, or `python -m jobs.status`, from run directories, and SLURM if present."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from rich.live import Live

from jobs import progress, scheduler, submission
from jobs.history import History
from jobs.status_table import NUMBERS, status_table
from segtrain.errors import DAMAGED, EXIT_FINISHED, RunError
from segtrain.run import Environment, Outcome, Run, layout
from segtrain.run.events import Event, evaluations, train_events
from segtrain.run.reader import refuse_private
from segtrain.run.result import result_of
from segtrain.runtime.process import main
from segtrain.runtime.terminal import standard_output

QUIET_S = 600.0  # a run without a job and without an event for so long is not running
DAY_S = 86400.0
TAIL_BYTES = 1 << 16  # of the log, in which trouble is looked for
BROKEN = (RunError, *DAMAGED)
EXAMPLES = """\
examples:
  segtrain status
  segtrain status --watch
  segtrain status /scratch/runs --json

state: none, pending, running, finished, stopped, diverged, failed; stalled: no progress for watch.stall_s, with where
each rank stands; broken off: it ended without saying how; unreadable: one of its files is broken.
CPU %: of the run's processes, 100 is one core. RSS: the memory that they hold. GPU %, GPU GiB, W, C: of its GPUs.
"""


def command(argv: Sequence[str]) -> int:
    """Print the table, or JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain status",
        description="Show every run: state, job, epoch, DSC, speed, ETA.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs_dir", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--json", action="store_true", help="for programs")
    help_watch = "stay, and look again every S seconds (default 5) until Ctrl-C"
    parser.add_argument("--watch", nargs="?", type=float, const=5.0, metavar="S", help=help_watch)
    arguments = parser.parse_args(list(argv))
    if arguments.watch is not None and not 0 < arguments.watch <= DAY_S:
        parser.error(f"--watch {arguments.watch:g}: give seconds, more than 0 and at most {DAY_S:g}")
    refuse_private(arguments.runs_dir)
    if not arguments.runs_dir.is_dir():
        raise RunError(f"{arguments.runs_dir}: no such folder; name the runs_dir that holds the runs")
    runs_dir = arguments.runs_dir.absolute()
    if arguments.watch is not None:
        return _watch(runs_dir, arguments.watch, arguments.json)
    table = list(rows(runs_dir, time.time()))
    if arguments.json:
        print(json.dumps(table, indent=1))
    elif table:
        standard_output().print(status_table(table))
    else:
        print(f"{arguments.runs_dir}: no runs")
    return EXIT_FINISHED


def _watch(runs_dir: Path, every_s: float, as_json: bool) -> int:
    """Draw the table anew until Ctrl-C; as JSON, a line each time."""
    try:
        if as_json:
            while True:
                print(json.dumps(list(rows(runs_dir, time.time()))), flush=True)
                time.sleep(every_s)
        with Live(console=standard_output(), auto_refresh=False) as live:
            while True:
                live.update(status_table(list(rows(runs_dir, time.time()))), refresh=True)
                time.sleep(every_s)
    except KeyboardInterrupt:
        return EXIT_FINISHED


def rows(runs_dir: Path, now_s: float) -> Iterator[dict[str, Any]]:
    """A row for each run in the folder and in its ablations, also for those that wait for their first start.

    What cannot be read is a row too, with its trouble.
    """
    jobs: dict[Path, str] = {}
    for one in submission.submissions(runs_dir):
        try:
            jobs |= {one.run(name).root: job for name, job in one.record["runs"].items()}
        except BROKEN as error:
            yield _unreadable(str(one.root.relative_to(runs_dir)), None, error)
    begun = {*layout.run_folders(runs_dir), *layout.closed_folders(runs_dir)}
    jobs |= {root: job for root in begun - set(jobs) if (job := _job_of(Run(root)))}
    queue = scheduler.queued(jobs.values()) if scheduler.there() else {}
    ended = scheduler.accounted([job for job in jobs.values() if job not in queue]) if scheduler.there() else {}
    for root in sorted(begun | set(jobs)):
        job, name = jobs.get(root), str(root.relative_to(runs_dir))
        slurm_state = queue.get(job or "") or ended.get(job or "")
        try:
            yield {"run": name, "job": job, **summary(Run(root), job, slurm_state, now_s)}
        except BROKEN as error:
            yield _unreadable(name, job, error)


def _unreadable(name: str, job: str | None, error: Exception) -> dict[str, Any]:
    """The row of what cannot be read."""
    scores = ("best_dsc", "best_parts", "last_dsc", "last_parts", "n", "people")
    keys = ("slurm", "epochs", *scores, "eta_s", "stalled", "trouble", *NUMBERS)
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
    """The job of a run that was started by a template, from its history or else from its environment."""
    try:
        jobs = [*(start.job for start in run.starts()), *(entry["job"] for entry in History(run).entries())]
    except BROKEN:  # its row says so
        return None
    return next((str(job) for job in reversed(jobs) if job), None)


@dataclass(frozen=True)
class _Evidence:
    """What is known of a run: from its directory, its ranks, its history of starts, and SLURM, where that knows it."""

    run: Run
    starts: Sequence[Environment]
    events: Sequence[Event]
    outcome: Outcome | None
    ranks: Sequence[progress.Rank]
    records: Sequence[Mapping[str, Any]]
    slurm_state: str | None
    began_s: float

    @classmethod
    def of(cls, run: Run, job: str | None, slurm_state: str | None) -> Self:
        """Read it. Raises one of BROKEN."""
        starts = run.starts()
        began_s = _began_s(starts) or _opened_s(run)
        ranks = progress.rank_reports(run, began_s)
        records = History(run).entries(job)
        return cls(run, starts, _events(run), run.outcome(), ranks, records, slurm_state, began_s)


def summary(run: Run, job: str | None, slurm_state: str | None, now_s: float) -> dict[str, Any]:
    """The row of a run. `slurm_state`: of its job, if SLURM knows it."""
    known = _Evidence.of(run, job, slurm_state)
    events, ranks = known.events, known.ranks
    training = train_events(events)
    scores = evaluations(events)
    result = result_of(known.outcome, events)
    row: dict[str, Any] = {
        "state": _state(known, now_s),
        "slurm": slurm_state,
        "restarts": max(0, len(known.starts) - 1),
        "step": events[-1].step if events else 0,
        "epoch": scores[-1].epoch if scores else 0,
        "epochs": _epochs(run),
        "best_dsc": result.best_dsc,
        "best_parts": result.best_parts,
        "last_dsc": result.last_dsc,
        "last_parts": result.last_parts,
        "n": result.n,
        "people": result.people,
        "images_per_s": training[-1].images_per_s if training else None,
        "memory_gib": training[-1].memory_gib if training else None,
        "why": _why(known.records, known.outcome),
        "trouble": _trouble(run, known.starts),
    }
    lives = row["state"] == "running"
    if lives and ranks:
        row["step"] = max(row["step"], *(rank["step"] for rank in ranks))
    row["stalled"] = progress.stalled(run, ranks, now_s) if lives else None
    if row["stalled"]:
        row["state"] = "stalled"
        row["why"] = progress.describe(row["stalled"])
    row |= {name: progress.total(ranks, name, largest) if lives else None for name, largest in RESOURCES.items()}
    row["eta_s"] = _eta_s(row, scores, events) if row["state"] == "running" else None
    return row


# The ranks' resources, and whether the largest is shown in place of the sum.
RESOURCES = {
    "cpu_percent": False, "rss_gib": False, "machine_memory_percent": True, "disk_read_mib_s": False,
    "disk_write_mib_s": False, "gpu_percent": True, "gpu_memory_gib": True, "gpu_watts": False, "gpu_celsius": True,
}  # fmt: skip


def _began_s(starts: Sequence[Environment]) -> float:
    """When the last start began, seconds since the epoch; 0 where that is not known."""
    try:
        return starts[-1].began_s
    except (IndexError, TypeError, ValueError):
        return 0.0


def _opened_s(run: Run) -> float:
    """When its directory was opened, for a first start that has not written down when it began; 0 before that."""
    try:
        return run.config_file.stat().st_mtime
    except OSError:
        return 0.0


def _state(known: _Evidence, now_s: float) -> str:
    outcome, slurm_state = known.outcome, known.slurm_state
    finished = outcome is not None and outcome.state == "finished"
    ending = slurm_state == "COMPLETING" or (slurm_state == "RUNNING" and finished)
    if slurm_state in scheduler.ALIVE and not (ending and outcome):
        return "running" if slurm_state in ("RUNNING", "COMPLETING") else "pending"
    if outcome:
        return outcome.state
    begun = known.run.root.exists()
    if slurm_state:  # its job has ended without an outcome
        return "broken off" if begun else "failed"
    if not begun:
        return "failed" if known.records and known.records[-1].get("how") == "failed" else "none"
    if known.ranks:
        return "broken off" if progress.silent(known.ranks, now_s) else "running"
    last_event_s = max(known.began_s, known.events[-1].time if known.events else 0.0)
    return "running" if now_s - last_event_s < QUIET_S else "broken off"


def _trouble(run: Run, starts: Sequence[Environment]) -> str | None:
    """The last warning or error that the run's last start logged."""
    try:
        with run.log_file.open("rb") as file:
            file.seek(max(0, run.log_file.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    began = str(starts[-1].time)[:19].replace("T", " ") if starts else ""
    marked = (line for line in reversed(lines) if " warning: " in line or " error: " in line)
    last = next(marked, None)
    return None if last is None or last[:19] < began else last


def _why(records: Sequence[Mapping[str, Any]], outcome: Outcome | None) -> str:
    """Why it failed, stopped or was given up.

    The run itself knows best why it failed; a start that was refused before it opened the run is in the history alone.
    """
    last = next((entry for entry in reversed(records) if entry["event"] == "end"), {"how": None})
    message = "" if outcome is None or outcome.state == "finished" else outcome.message or ""
    says_why_it_failed = message and outcome is not None and outcome.state != "stopped"
    if last["how"] == "given up" or (last["how"] == "failed" and not says_why_it_failed):
        return f"{last['how']}: {last['why']}"
    return message


def _eta_s(row: Mapping[str, Any], scores: Sequence[Any], events: Sequence[Any]) -> float | None:
    """Seconds left at the pace between the first and the last evaluation; None before the second."""
    if len(scores) < 2 or row["epochs"] is None:
        return None
    first, last = scores[0], scores[-1]
    per_epoch_s = (last.time - first.time) / (last.epoch - first.epoch or 1)
    left_s: float = (row["epochs"] - last.epoch) * per_epoch_s - (events[-1].time - last.time)
    return max(0.0, left_s)


def _events(run: Run) -> list[Event]:
    try:
        seen = run.metrics.stat()
    except OSError:
        return []
    return _events_of(run, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=1024)
def _events_of(run: Run, mtime_ns: int, size_bytes: int) -> list[Event]:
    """Read once as long as the file stays the same: who watches looks again and again."""
    return run.events()


def _epochs(run: Run) -> int | None:
    try:
        return int(run.config_tree()["train"]["epochs"])
    except (RunError, ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    sys.exit(main(command))
