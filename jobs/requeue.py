"""What becomes of a job after a start: finished, failed, back into the queue, or given up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import scheduler
from jobs.history import Book
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, StopReason

EXIT_BUG = 1
FOR_GOOD = (EXIT_USER_ERROR, EXIT_DIVERGED)  # the first that a rank left with is the start's, whatever the others did
STOP_FILE = StopReason.STOP_FILE.sentence


@dataclass(frozen=True)
class Ended:
    """How a start ended: the launcher's code, the ranks' own, as far as they left by themselves."""

    launcher: int
    ranks: Sequence[int]
    asked: str | None = None  # the signal that it was asked to stop by
    lost: Sequence[str] = ()  # nodes that fell silent
    words: Sequence[str] = ()  # the messages of the ranks that decide

    @property
    def code(self) -> int:
        """The exit code that the start deserves; torchrun flattens those of its workers.

        75 also when ranks were killed before they could save: after a signal, or by the loss of a node.
        """
        if self.launcher == 0:
            return EXIT_FINISHED
        for code in FOR_GOOD:
            if code in self.ranks:
                return code
        if EXIT_STOPPED in self.ranks or self.asked or self.lost:
            return EXIT_STOPPED
        return EXIT_BUG

    @property
    def why(self) -> str:
        """In words."""
        told = {EXIT_FINISHED: "finished", EXIT_USER_ERROR: "an error of the user's", EXIT_DIVERGED: "diverged"}
        if self.code == EXIT_STOPPED:
            return f"lost {' and '.join(self.lost)}" if self.lost else f"stopped by {self.asked or 'itself'}"
        return told.get(self.code, f"failed (launcher's code {self.launcher}), see the log")


def settle(book: Book, job: str, ended: Ended) -> tuple[int, str]:
    """Send the job back into the queue if it is worth it; returns its exit code and what became of it, in words."""
    if ended.code != EXIT_STOPPED:
        how = "finished" if ended.code == EXIT_FINISHED else "failed"
        book.end(job, how, "; ".join(ended.words) or ended.why)
        return ended.code, ended.why
    how, why = _come_back(book, job, ended)
    book.end(job, how, why)
    return EXIT_STOPPED, f"{how}: {why}"


def _come_back(book: Book, job: str, ended: Ended) -> tuple[str, str]:
    # By the words of this start: the run's outcome is of an earlier one where this one did not get to open the run.
    if not ended.asked and any(STOP_FILE in said for said in ended.words):
        return "stopped", "stopped by the STOP file; submit it again to go on"
    if why := book.no_progress(job):
        return "given up", f"{why}; not requeued: read the log, then submit it anew"
    if scheduler.this_job() != job:  # in the foreground
        return "stopped", ended.why
    state = scheduler.state_of(job)
    # Any other state: requeued by SLURM itself, or cancelled, and then it must not come back. A squeue that fails says
    # neither, and a job that could come back must not be lost to that.
    if state not in ("RUNNING", scheduler.UNKNOWN):
        return "left to SLURM", f"{ended.why}; the job is {state or 'not in the queue'}"
    if refusal := scheduler.requeue(job):
        return "stopped", f"{ended.why}; SLURM does not requeue it ({refusal}): submit it again to go on"
    return "requeued", ended.why


def told_in(folder: Path) -> tuple[list[int], list[str]]:
    """The exit codes that the ranks of a start wrote down (rank.py), and their messages: each once.

    Where ranks failed for good, their messages alone: the others' is that they were told to stop.
    """
    told = [file.read_text().partition("\n") for file in sorted(folder.glob("rank-*"))]
    left = [(int(code), words) for code, _, words in told if code.isdigit()]
    codes = [code for code, _ in left]
    first = next((code for code in FOR_GOOD if code in codes), None)
    return codes, list(dict.fromkeys(words for code, words in left if words and first in (None, code)))
