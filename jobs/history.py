"""A run's book of starts, `<runs_dir>/.jobs/<name>/`: a job that gains nothing is not started for ever.

The run's name is its identity. Job ids only tell the starts of one submission from those of the next, which counts
anew.
"""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtrain.errors import RunError
from segtrain.run import Run
from segtrain.runtime import files

KEYS = {"start": {"job", "step"}, "end": {"job", "how", "why"}}  # of an entry, by its event
PATIENCE = 3  # starts in a row without a new step in the checkpoints


def jobs_folder(runs_dir: Path, name: str) -> Path:
    """Where all that belongs to the jobs of a run, or of an ablation, lies."""
    return runs_dir / ".jobs" / name


def fruitless(steps: Sequence[int]) -> int:
    """How many of the last starts gained no step. `steps`: where each start began, and where the run stands now."""
    gains = [after > before for before, after in itertools.pairwise(steps)]
    return next((back for back, gained in enumerate(reversed(gains)) if gained), len(gains))


@dataclass(frozen=True)
class Book:
    """The starts of one run."""

    run: Run

    @property
    def folder(self) -> Path:
        return jobs_folder(self.run.root.parent, self.run.root.name)

    def start_folder(self, job: str, restart: int) -> Path:
        """Where the processes of one start leave each other messages."""
        return self.folder / "starts" / f"{job}-{restart}"

    def begin(self, job: str, fresh: bool = False) -> None:
        """Write down that the job starts, `fresh`: at step 0 whatever is there.

        Raises RunError, and writes why, when its last starts gained nothing.
        """
        if why := self.no_progress(job):
            self.end(job, "given up", why)
            raise RunError(f"{self.run.root}: {why}; not started again: read the log, then submit it anew")
        first = not self.entries(job)
        self._write(event="start", job=job, step=0 if fresh and first else self.run.saved_step())

    def no_progress(self, job: str) -> str | None:
        """Why the job is not worth another start, None if it is."""
        steps = [entry["step"] for entry in self.entries(job) if entry["event"] == "start"]
        here = self.run.saved_step()
        if (count := fruitless([*steps, here])) < PATIENCE:
            return None
        return f"the last {count} starts of job {job} gained no step after step {here}"

    def end(self, job: str, how: str, why: str) -> None:
        """Write down what becomes of the job."""
        self._write(event="end", job=job, how=how, why=why)

    def entries(self, job: str | None = None) -> list[dict[str, Any]]:
        """What is written, oldest first, of one job or of all."""
        return [entry for entry in self._read() if job in (None, entry["job"])]

    @property
    def _file(self) -> Path:
        return self.folder / "starts.jsonl"

    def _read(self) -> Iterator[dict[str, Any]]:
        """The entries that are whole."""
        for line in self._file.read_text(errors="replace").splitlines() if self._file.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:  # the line that was being written when the job was killed
                continue
            if isinstance(entry, dict) and entry.keys() >= KEYS.get(str(entry.get("event")), {"no event"}):
                yield entry

    def _write(self, **entry: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        files.append_line(self._file, json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}))
