"""The state of one run: its row in `segtrain status`, from its directory, its ranks, its history, and SLURM's entry."""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar

from jobs import progress
from jobs.history import History
from jobs.lookup import Job
from jobs.scheduler import Entry
from jobs.status_table import NUMBERS
from segtrain.errors import DAMAGED, RunError
from segtrain.run import Environment, Outcome, Run
from segtrain.run.live import facts_of, newest_warning
from segtrain.run.milestones import Milestones
from segtrain.run.ranks import Rank, rank_reports
from segtrain.run.result import result_of

T = TypeVar("T")

QUIET_S = 600.0  # a run without a job and without an event for so long is not running
LONGEST_WHY = 1000  # letters of a reason in a row
BROKEN = (RunError, *DAMAGED)
STATES = (
    "none", "pending", "suspended", "running", "stalled", "finished", "stopped", "diverged", "failed", "broken off",
    "unreadable", "unknown",
)  # fmt: skip
# SLURM's verdicts on jobs, which the job itself cannot write down.
VERDICTS = {
    "TIMEOUT": "the time limit was reached",
    "OUT_OF_MEMORY": "it used more memory than it had asked for; ask for more with --mem",
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not boot",
    "PREEMPTED": "another job took its place",
    "DEADLINE": "the job's deadline passed",
    "CANCELLED": "by scancel or by SLURM",
}
# The ranks' resources, and whether the largest is shown in place of the sum.
RESOURCES = {
    "cpu_percent": False, "rss_gib": False, "machine_memory_percent": True, "disk_read_mib_s": False,
    "disk_write_mib_s": False, "gpu_percent": True, "gpu_memory_gib": True, "gpu_watts": False, "gpu_celsius": True,
}  # fmt: skip


@dataclass(frozen=True)
class _Evidence:
    """What is known of a run. `unknown`: why SLURM says nothing of its job; empty where it has told all it knows."""

    run: Run
    starts: Sequence[Environment]
    reached: Milestones
    outcome: Outcome | None
    ranks: Sequence[Rank]
    records: Sequence[Mapping[str, Any]]
    entry: Entry | None
    unknown: str
    began_s: float
    damage: str = ""  # what of it cannot be read, though its state is known

    @classmethod
    def of(cls, run: Run, job: Job | None, entry: Entry | None, unknown: str) -> Self:
        """Read it. Raises one of BROKEN."""
        damage: list[str] = []

        def known(read: Callable[[], list[T]]) -> list[T]:
            try:
                return read()
            except DAMAGED as error:
                damage.append(str(error))
                return []

        history = History(run)
        starts = run.starts()
        began_s = _began_s(starts) or _opened_s(run)
        ranks = known(lambda: rank_reports(run, began_s))
        records = known(lambda: history.entries(job.id if job else None))
        damage += known(lambda: list(filter(None, [history.damage()])))
        why = "; ".join(dict.fromkeys(damage))
        return cls(run, starts, _reached(run), run.outcome(), ranks, records, entry, unknown, began_s, why)


def summary(run: Run, job: Job | None, entry: Entry | None, now_s: float, unknown: str = "") -> dict[str, Any]:
    """The row of a run. `entry`: SLURM's of its job; `unknown`: why SLURM could not be asked. Raises one of BROKEN."""
    known = _Evidence.of(run, job, entry, unknown)
    reached, ranks = known.reached, known.ranks
    result = result_of(known.outcome, reached)
    facts = facts_of(reached, run.planned_epochs())
    state = _state(known, now_s)
    lives = state == "running"
    waiting = entry if entry and state == "pending" else None
    stall = progress.stalled(run, ranks, now_s) if lives else None
    row: dict[str, Any] = {
        "state": "stalled" if stall else state,
        "slurm": entry.state if entry else None,
        "reason": waiting.reason if waiting else None,
        "expected_start": (waiting.starts or None) if waiting else None,
        "scheduler": unknown or None,
        "restarts": _restarts(known),
        "step": _step(known, state),
        "epoch": facts.epoch,
        "epochs": facts.epochs,
        "best_dsc": result.best_dsc,
        "best_parts": result.best_parts,
        "last_dsc": result.last_dsc,
        "last_parts": result.last_parts,
        "n": result.n,
        "people": result.people,
        "images_per_s": facts.images_per_s,
        "memory_gib": facts.memory_gib,
        "why": progress.describe(stall) if stall else _why(known, state),
        "stalled": stall,
        "trouble": known.damage or newest_warning(run, known.starts),
        "host": ranks[0]["host"] if lives and ranks else None,
    }
    row |= {name: progress.total(ranks, name, largest) if lives else None for name, largest in RESOURCES.items()}
    row["eta_s"] = facts.left_s if row["state"] == "running" else None
    return row


def trained_elsewhere(run: Run, job: Job) -> str | None:
    """The other machine on which the run is being trained, as its ranks report; None if there is none."""
    try:
        host = summary(run, job, None, time.time())["host"]
    except BROKEN:
        return None
    return None if host is None or host == socket.gethostname() else str(host)


def unreadable(error: Exception) -> dict[str, Any]:
    """The row of what cannot be read."""
    keys = (
        "slurm", "reason", "expected_start", "scheduler", "epochs", "best_dsc", "best_parts", "last_dsc", "last_parts",
        "n", "people", "eta_s", "stalled", "trouble", "host", *NUMBERS,
    )  # fmt: skip
    kind = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
    why = " ".join(f"{kind}{error}".split())[:LONGEST_WHY]
    return {"state": "unreadable", "restarts": 0, "step": 0, "epoch": 0, "why": why} | dict.fromkeys(keys)


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
    outcome, slurm_state = known.outcome, known.entry.state if known.entry else None
    finished = outcome is not None and outcome.state == "finished"
    ending = slurm_state == "COMPLETING" or (slurm_state == "RUNNING" and finished)
    if known.entry and known.entry.alive and not (ending and outcome):
        return {
            "RUNNING": "running", "COMPLETING": "running", "SUSPENDED": "suspended", "STOPPED": "suspended",
        }.get(known.entry.state, "pending")  # fmt: skip
    if outcome:
        return outcome.state
    begun = known.run.root.exists()
    if slurm_state and begun:  # its job has ended without an outcome
        return "broken off"
    if slurm_state:
        return "none" if slurm_state == "CANCELLED" else "failed"
    if not begun and known.records and known.records[-1].get("how") == "failed":
        return "failed"
    return _state_by_files(known, now_s) if begun else ("unknown" if known.unknown else "none")


def _state_by_files(known: _Evidence, now_s: float) -> str:
    """Of a run that has begun, and of whose job SLURM says nothing."""
    if known.ranks:
        runs = not progress.silent(known.ranks, now_s)
    else:
        last_event_s = max(known.began_s, known.reached.last.time if known.reached.last else 0.0)
        runs = now_s - last_event_s < QUIET_S
    if runs:
        return "running"
    return "unknown" if known.unknown else "broken off"


def _restarts(known: _Evidence) -> int:
    """How often it was started again: as its directory counts, or its history, which also has starts that ended early.

    The history is that of the newest job, the directory's list that of all.
    """
    in_history = [entry for entry in known.records if entry["event"] == "start"]
    return max(0, len(known.starts) - 1, len(in_history) - 1)


def _step(known: _Evidence, state: str) -> int:
    """Where it is while it runs, and where it goes on otherwise: what came after the last checkpoint is lost."""
    recorded = known.reached.last.step if known.reached.last else 0
    if state in ("running", "suspended"):  # before its ranks say so, it is where it goes on
        steps = [int(rank["step"]) for rank in known.ranks] or [known.run.saved_step()]
        return max(recorded, *steps)
    return int(known.outcome.step or recorded) if known.outcome else known.run.saved_step()


def _why(known: _Evidence, state: str) -> str:
    """Why it waits, failed, stopped or was given up; with SLURM's verdict on its job."""
    entry = known.entry
    if entry and state == "pending":
        reason = f"waits: {entry.reason}" if entry.reason else ""
        return "; ".join(filter(None, (reason, entry.starts and f"expected to start at {entry.starts}")))
    if state == "unknown":
        return known.unknown
    if state == "running":  # why the start before this one ended is no news
        return ""
    message = _message(known)
    if entry and entry.state in VERDICTS and state != "finished":
        verdict = f"SLURM: {entry.state} ({VERDICTS[entry.state]})"
        return f"{verdict}; {message}" if message else verdict
    return message


def _message(known: _Evidence) -> str:
    """What the run, or else its history, says of its end.

    The run itself knows best why it failed; a start that was refused before it opened the run is in the history alone.
    """
    outcome = known.outcome
    last = next((entry for entry in reversed(known.records) if entry["event"] == "end"), {"how": None})
    message = "" if outcome is None or outcome.state == "finished" else outcome.message or ""
    if last["how"] == "requeued" and known.entry and known.entry.alive:
        return f"{message.partition(';')[0]}; SLURM brings it back"
    # Where a rank was killed, the others know only that a connection was closed.
    says_why_it_failed = message and outcome is not None and outcome.state != "stopped" and not last.get("faults")
    if last["how"] == "given up" or (last["how"] == "failed" and not says_why_it_failed):
        return f"{last['how']}: {last['why']}"
    return message


def _reached(run: Run) -> Milestones:
    try:
        seen = run.metrics.stat()
    except OSError:  # none, or one that is no file, which is told
        return run.milestones()
    return _reached_by(run, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=1024)
def _reached_by(run: Run, mtime_ns: int, size_bytes: int) -> Milestones:
    """Read once as long as the file stays the same: who watches looks again and again."""
    return run.milestones()
