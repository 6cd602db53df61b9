"""The history of a run's starts, `<runs_dir>/.jobs/<name>/`: a job that makes no progress is not restarted forever.

starts.jsonl   start: job, step; end: job, how, why (for people), reason (the name of a StopReason, or none)
starts/        a folder a start, where its processes leave each other messages

The run's name is its identity. Job ids only tell the starts of one submission from those of the next, which counts
anew.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtrain.errors import RunError, StopReason
from segtrain.run import Run
from segtrain.runtime import files

KEYS = {"start": {"job", "step"}, "end": {"job", "how", "why"}}  # of an entry, by its event
MAX_FRUITLESS = 3  # starts in a row without a new step in the checkpoints
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
class History:
    """The starts of one run."""

    run: Run

    @property
    def folder(self) -> Path:
        return jobs_folder(self.run.root.parent, self.run.root.name)

    def start_folder(self, job: str, restart: int) -> Path:
        """Where the processes of one start leave each other messages."""
        return self.folder / "starts" / f"{job}-{restart}"

    def begin(self, job: str, fresh: bool = False) -> None:
        """Record that the job starts; one that is `fresh` starts at step 0 whatever is there.

        Raises RunError, and records why, when the job's last starts made no progress.
        """
        if why := self.no_progress(job):
            self.end(job, "given up", why)
            raise RunError(f"{self.run.root}: {why}; not started again: read the log, then submit it anew")
        first = not self.entries(job)
        self._write(event="start", job=job, step=0 if fresh and first else self.run.saved_step())

    def no_progress(self, job: str) -> str | None:
        """Why the job gets no further start, None if it does."""
        steps = [entry["step"] for entry in self.entries(job) if entry["event"] == "start"]
        here = self.run.saved_step()
        if (count := fruitless([*steps, here])) < MAX_FRUITLESS:
            return None
        return f"the last {count} starts of job {job} gained no step after step {here}"

    def end(self, job: str, how: str, why: str, reason: StopReason | None = None) -> None:
        """Record what becomes of the job. `reason`: of a run that was stopped, `why` for people."""
        self._write(event="end", job=job, how=how, reason=reason.name if reason else None, why=why)

    def entries(self, job: str | None = None) -> list[dict[str, Any]]:
        """The records, oldest first, of one job or of all."""
        return [entry for entry in self._read() if job in (None, entry["job"])]

    def last(self, job: str) -> Mapping[str, Any]:
        """The newest record of a job, empty before the first."""
        return next(reversed(self.entries(job)), {})

    @property
    def _file(self) -> Path:
        return self.folder / "starts.jsonl"

    def _read(self) -> Iterator[dict[str, Any]]:
        """The entries that are whole."""
        text = self._file.read_text(encoding="utf-8", errors="replace") if self._file.exists() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the line that was being written when the job was killed
                continue
            if isinstance(entry, dict) and entry.keys() >= KEYS.get(str(entry.get("event")), {"no event"}):
                yield entry

    def _write(self, **entry: Any) -> None:
        files.make_folder(self.folder)
        files.append_line(self._file, json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}))
