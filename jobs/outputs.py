"""The files that the output of a run's newest job goes to, and where in them its newest start begins."""

import re
from dataclasses import dataclass
from pathlib import Path

from jobs.history import History
from jobs.overview import Listed
from segtrain.errors import RunError
from segtrain.run import Run

# The first line of a start, by jobs.node on each node of a job, and by jobs.batch in a template's.
START = re.compile(rb"^[^\n]*\bjob \S+, restart \d+$", re.MULTILINE)
STAMP = len("2026-11-29 10:00:00")  # at the beginning of a line of a run's log


@dataclass(frozen=True)
class Output:
    """A file of output. label: the node that it comes from, where there are several; began: for a run's own log."""

    path: Path
    label: str = ""
    began: str = ""

    def newest_start(self) -> int:
        """Where the newest start begins, in bytes; 0 where the file does not say. Raises RunError."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be read ({error.strerror}); ask its owner for the right to, or try again later"
            ) from error
        if not self.began:
            starts = list(START.finditer(content))
            return starts[-1].start() if starts else 0
        offset = 0
        for line in content.splitlines(keepends=True):
            if line[:STAMP].decode(errors="replace") >= self.began:
                return offset
            offset += len(line)
        return 0


def outputs(one: Listed) -> list[Output]:
    """The files as they are now, one for each node of SLURM's job; none before the first start."""
    job = one.job
    if job and job.is_slurms and one.submission:
        name = re.compile(rf"{re.escape(job.id)}_(\d+)_log\.out")  # as submitit names it
        files = one.submission.logs.glob("*.out")
        by_node = {int(match[1]): file for file in files if (match := name.fullmatch(file.name))}
        return [Output(by_node[node], f"[node {node}] " if len(by_node) > 1 else "") for node in sorted(by_node)]
    run = Run(one.root)
    places = [_of_template(run, job.id)] if job else []
    if job and job.id.startswith("offline-"):
        places.append(run.root.parent / "logs" / f"{run.root.name}.log")
    for path in places:
        if path and path.is_file():
            return [Output(path)]
    # What is trained in the foreground writes to a terminal, and the same into its own log.
    return [Output(run.log_file, began=_began(run))] if run.log_file.is_file() else []


def _began(run: Run) -> str:
    """When the newest start began, as the run's log writes times; before all of them where that is not known."""
    starts = run.known_starts()
    return str(starts[-1].time)[:STAMP].replace("T", " ") if starts else " "


def _of_template(run: Run, job: str) -> Path | None:
    """The file that the batch script of a template noted, when it began."""
    logs = (entry.get("slurm", {}).get("log") for entry in reversed(History(run).entries(job)))
    return next((Path(log) for log in logs if log), None)
