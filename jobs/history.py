"""The history of a run's starts, `<runs_dir>/.jobs/<name>/`: a job that makes no progress is not restarted forever.

starts.jsonl   start: job, step, slurm (of a template: what tells its job from others, its log)
               end: job, how, why (for people), reason (the name of a StopReason, or none); soon: SLURM ended it before
               it had time to gain a step; faults: ranks that were killed, or whose machine failed them; next:
               the job that goes on in place of this one
starts/        a folder a start, where its processes leave each other messages

The run's name is its identity. Job ids only tell the starts of one submission from those of the next, which counts
anew, unless a job submitted it because SLURM did not requeue.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs import scheduler
from segtrain.errors import RunError, StopReason
from segtrain.run import Run
from segtrain.run.stored import built, damaged, entries_in
from segtrain.runtime import files
from segtrain.runtime.outbox import patiently

MAX_FRUITLESS = 3  # starts in a row without a new step in the checkpoints
CUT_OFF_S = 300.0  # within which a start that was cut off had no time to gain one
# Entries without a reason are of an earlier version, which had it in these words alone.
OLD_SENTENCES = {
    "the STOP file": StopReason.STOP_FILE,
    "the deadline": StopReason.DEADLINE,
    "SIGTERM": StopReason.SIGTERM,
    "SIGINT": StopReason.SIGINT,
    "SIGUSR1": StopReason.SIGUSR1,
    "SIGUSR2": StopReason.SIGUSR2,
}


def jobs_folder(runs_dir: Path, name: str) -> Path:
    """Where all that belongs to the jobs of a run, or of an ablation, lies."""
    return runs_dir / ".jobs" / name


def stop_reason(entry: Mapping[str, Any]) -> StopReason | None:
    """The reason in an entry of a history, a journal or a rank's file; None where it stopped for none of ours."""
    if "reason" in entry:
        return StopReason.__members__.get(str(entry["reason"]))
    why = str(entry.get("why", ""))
    return next(
        (
            reason
            for words, reason in OLD_SENTENCES.items()
            if why == words or f"stopped by {words}" in why or f"the queue stops: {words}" in why
        ),
        None,
    )


def fruitless(steps: Sequence[int]) -> int:
    """How many of the last starts gained no step. `steps`: where each start began, and where the run stands now."""
    gains = [after > before for before, after in itertools.pairwise(steps)]
    return next((back for back, gained in enumerate(reversed(gains)) if gained), len(gains))


@dataclass(frozen=True)
class _Start:
    """What readers need of an entry of a start."""

    job: str | None
    step: int
    time: str = ""
    slurm: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _End:
    """What readers need of an entry of an end."""

    job: str | None
    how: str
    why: str
    reason: str | None = None
    time: str = ""
    next: str | None = None
    soon: bool = False
    faults: list[Any] = field(default_factory=list)


ENTRIES = {"start": _Start, "end": _End}  # by their events


def _trouble(entry: Mapping[str, Any]) -> str:
    """Why an entry cannot be used; "" where it can."""
    kind = ENTRIES.get(str(entry.get("event")))
    if kind is None:
        return "an entry has no event"
    try:
        built(kind, entry)
    except ValueError as error:
        return f"{entry['event']}: {error}"
    return ""


@dataclass(frozen=True)
class History:
    """The starts of one run."""

    run: Run

    @property
    def folder(self) -> Path:
        return jobs_folder(self.run.root.parent, self.run.root.name)

    def start_folder(self, job: str, restart: int) -> Path:
        """Where the processes of one start leave each other messages."""
        return self.folder / "starts" / f"{job}-{restart}"

    def begin(self, job: str, fresh: bool = False, slurm: Mapping[str, str] | None = None) -> None:
        """Record that the job starts; one that is `fresh` starts at step 0 whatever is there.

        `slurm`: what SLURM says of the job, where nothing else records it.

        Raises RunError, and records why, when the job's last starts made no progress.
        """
        self._end_what_was_cut_off(job)
        if why := self.no_progress(job):
            self.end(job, "given up", why)
            raise RunError(f"{self.run.root}: {why}; not started again: read the log, then submit it anew")
        first = not self._of_line(job)
        about = {"slurm": dict(slurm)} if slurm else {}
        self._write(event="start", job=job, step=0 if fresh and first else self.run.saved_step(), **about)

    def _end_what_was_cut_off(self, job: str) -> None:
        """Record the end of a start that left no word, since SLURM has started the job again."""
        if scheduler.this_job() == job and self.last(job).get("event") == "start":
            # A start may be cut off before it writes anything: then the last sign is of an earlier one.
            soon = self._last_sign_s() < self._began_s(job) + CUT_OFF_S
            self.end(job, "cut off", "it left no word: its node failed, or SLURM killed it", soon=soon)

    def lasted_s(self, job: str) -> float:
        """For how long the job's last start has lasted; infinite where the clock was set back before its begin."""
        lasted_s = time.time() - self._began_s(job)
        return lasted_s if lasted_s >= 0 else float("inf")

    def _began_s(self, job: str) -> float:
        """When the job's last start began, in seconds since the epoch."""
        times = [str(entry["time"]) for entry in self.entries(job) if entry["event"] == "start" and "time" in entry]
        return datetime.fromisoformat(times[-1]).timestamp() if times else 0.0

    def _last_sign_s(self) -> float:
        """When a process of the run last wrote anything, seconds since the epoch; 0 where none did."""
        signs = (self.run.metrics, self.run.log_file, *self.run.ranks.glob("*"))
        return max((file.stat().st_mtime for file in signs if file.exists()), default=0.0)

    def line(self, job: str) -> list[str]:
        """The job, and before it those that were resubmitted as the next."""
        before = {str(entry["next"]): str(entry["job"]) for entry in self._read() if "next" in entry}
        line = [job]
        while (earlier := before.get(line[-1])) and earlier not in line:
            line.append(earlier)
        return line

    def _of_line(self, job: str) -> list[dict[str, Any]]:
        line = self.line(job)
        return [entry for entry in self._read() if entry["job"] in line]

    def no_progress(self, job: str, soon: bool = False) -> str | None:
        """Why the job gets no further start, None if it does. `soon`: what the end of its last start will say."""
        entries = self._of_line(job)
        counted = [{**entry, "soon": False} for entry in entries if entry["event"] == "start"]
        places = itertools.accumulate(entry["event"] == "start" for entry in entries)
        for start, entry in zip(places, entries, strict=True):
            if start and entry["event"] == "end":
                counted[start - 1]["soon"] = entry.get("soon", False)
        if counted and soon:
            counted[-1]["soon"] = True
        steps = [entry["step"] for entry in counted if not entry["soon"]]
        here = self.run.saved_step()
        if (count := fruitless([*steps, here])) < MAX_FRUITLESS:
            return None
        return f"the last {count} starts of job {job} gained no step after step {here}"

    def faults(self, job: str) -> int:
        """How many of the job's starts ended since a rank was killed, or failed by its machine."""
        return sum(bool(entry.get("faults")) for entry in self._of_line(job))

    def end(
        self, job: str, how: str, why: str, reason: StopReason | None = None, soon: bool = False,
        faults: Sequence[str] = (), next_job: str | None = None,
    ) -> None:  # fmt: skip
        """Record what becomes of the job. `reason`: of a run that was stopped, `why` for people."""
        more: dict[str, Any] = {"soon": True} if soon else {}
        if faults:
            more["faults"] = list(faults)
        if next_job:
            more["next"] = next_job
        self._write(event="end", job=job, how=how, reason=reason.name if reason else None, why=why, **more)

    def entries(self, job: str | None = None) -> list[dict[str, Any]]:
        """The records, oldest first, of one job or of all."""
        return [entry for entry in self._read() if job in (None, entry["job"])]

    def last(self, job: str) -> Mapping[str, Any]:
        """The newest record of a job, empty before the first."""
        return next(reversed(self.entries(job)), {})

    def damage(self) -> str:
        """What of the file cannot be read, though it is whole; "" where nothing. Raises DamagedFile; OSError."""
        troubles = [trouble for entry in entries_in(self._file) if (trouble := _trouble(entry))]
        return str(damaged(self._file, troubles[0])) if troubles else ""

    @property
    def _file(self) -> Path:
        return self.folder / "starts.jsonl"

    def _read(self) -> Iterator[dict[str, Any]]:
        """The entries that are whole."""
        yield from (entry for entry in entries_in(self._file) if not _trouble(entry))

    def _write(self, **entry: Any) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry})

        def write() -> None:
            files.make_folder(self.folder)
            files.append_line(self._file, line)

        patiently(self.folder, write)
