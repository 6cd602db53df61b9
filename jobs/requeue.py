"""What becomes of a job after a start: finished, failed, back into the queue, or given up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import scheduler
from jobs.history import History
from jobs.rank import RankEnd, rank_ends
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, StopReason

EXIT_BUG = 1
FOR_GOOD = (EXIT_USER_ERROR, EXIT_DIVERGED)  # the first that a rank left with is the start's, whatever the others did


@dataclass(frozen=True)
class StartEnd:
    """How a start ended. `ranks`: those that left by themselves."""

    launcher_code: int
    ranks: Sequence[RankEnd]
    signal: str | None = None  # the name of the one that asked it to stop
    lost: Sequence[str] = ()  # nodes that fell silent

    @property
    def code(self) -> int:
        """The exit code that the start deserves; torchrun flattens those of its workers.

        75 also when ranks were killed before they could save: after a signal, or by the loss of a node.
        """
        if self.launcher_code == 0:
            return EXIT_FINISHED
        codes = {rank.code for rank in self.ranks}
        for code in FOR_GOOD:
            if code in codes:
                return code
        if EXIT_STOPPED in codes or self.signal or self.lost:
            return EXIT_STOPPED
        return EXIT_BUG

    @property
    def reason(self) -> StopReason | None:
        """Why it was stopped: the signal, else what the ranks agreed on; None where nobody asked it to stop."""
        if self.code != EXIT_STOPPED:
            return None
        if self.signal:
            return StopReason.__members__.get(self.signal)
        return next((rank.reason for rank in self.ranks if rank.reason), None)

    @property
    def messages(self) -> list[str]:
        """The messages of the ranks that decide, each once. In a start that failed for good others were stopped."""
        deciding = [rank for rank in self.ranks if self.code not in FOR_GOOD or rank.code == self.code]
        return list(dict.fromkeys(rank.message for rank in deciding if rank.message))

    @property
    def sentence(self) -> str:
        """How it ended, for people."""
        if self.code == EXIT_STOPPED:
            return f"lost {' and '.join(self.lost)}" if self.lost else f"stopped by {self.signal or 'itself'}"
        sentences = {EXIT_FINISHED: "finished", EXIT_USER_ERROR: "an error of the user's", EXIT_DIVERGED: "diverged"}
        return sentences.get(self.code, f"failed (launcher's code {self.launcher_code}), see the log")


def start_end(folder: Path, launcher_code: int, signal: str | None = None, lost: Sequence[str] = ()) -> StartEnd:
    """How the start with that folder ended."""
    return StartEnd(launcher_code, rank_ends(folder), signal, lost)


def conclude(history: History, job: str, end: StartEnd) -> tuple[int, str]:
    """Decide whether the job goes back into the queue; returns its exit code and a sentence on what became of it."""
    if end.code != EXIT_STOPPED:
        how = "finished" if end.code == EXIT_FINISHED else "failed"
        history.end(job, how, "; ".join(end.messages) or end.sentence)
        return end.code, end.sentence
    how, why = _come_back(history, job, end)
    history.end(job, how, why, end.reason)
    return EXIT_STOPPED, f"{how}: {why}"


def _come_back(history: History, job: str, end: StartEnd) -> tuple[str, str]:
    # By the ranks of this start: the run's outcome is of an earlier one where this one did not get to open the run.
    if end.reason is StopReason.STOP_FILE:
        return "stopped", f"stopped by {StopReason.STOP_FILE.sentence}; submit it again to go on"
    if why := history.no_progress(job):
        return "given up", f"{why}; not requeued: read the log, then submit it anew"
    if scheduler.this_job() != job:  # in the foreground
        return "stopped", end.sentence
    state = scheduler.state_of(job)
    # Any other state: requeued by SLURM itself, or cancelled, and then it must not come back. A squeue that fails says
    # neither, and a job that could come back must not be lost to that.
    if state not in ("RUNNING", scheduler.UNKNOWN):
        return "left to SLURM", f"{end.sentence}; the job is {state or 'not in the queue'}"
    if refusal := scheduler.requeue(job):
        return "stopped", f"{end.sentence}; SLURM does not requeue it ({refusal}): submit it again to go on"
    return "requeued", end.sentence
