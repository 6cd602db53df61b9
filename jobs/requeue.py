"""What becomes of a job after a start: finished, failed, back into the queue, or given up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import scheduler
from jobs.history import History
from jobs.launch import dead_ranks
from jobs.rank import RankEnd, faults, rank_ends
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, StopReason

EXIT_BUG = 1
FOR_GOOD = (EXIT_USER_ERROR, EXIT_DIVERGED)  # the first that a rank left with is the start's, whatever the others did
SIGNALS = (StopReason.SIGTERM, StopReason.SIGINT, StopReason.SIGUSR1, StopReason.SIGUSR2, StopReason.SIGHUP)
SOON_S = 300.0  # within which a start that SLURM ends had no time to gain a step
KILLED = (-9, 128 + 9)  # the exit codes of a process that SIGKILL ended, of Popen and of srun
MAX_FAULTS = 3  # of a rank or its machine in one job, after which it is tried again


@dataclass(frozen=True)
class StartEnd:
    """How a start ended. `ranks`: those that left by themselves."""

    launcher_code: int
    ranks: Sequence[RankEnd]
    signal: str | None = None  # the name of the one that asked it to stop
    lost: Sequence[str] = ()  # nodes that fell silent
    failed: Sequence[str] = ()  # ranks that were killed, or whose machine failed them, in words
    held: bool = False  # by processes of the job's last start, so that this one could not begin

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
        if EXIT_STOPPED in codes or self.signal or self.lost or self.held:
            return EXIT_STOPPED
        return EXIT_BUG

    @property
    def faults(self) -> list[str]:
        """What happened to the ranks, or to the launcher before they could say anything, by no fault of the run."""
        killed = self.launcher_code in KILLED and not (self.failed or self.signal or self.lost)
        return [*self.failed, *(["the launcher was killed by SIGKILL"] if killed else [])]

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
        if self.held:
            return "processes of the last start, whose node SLURM gave up, still train the run"
        if self.code == EXIT_STOPPED:
            return f"lost {' and '.join(self.lost)}" if self.lost else f"stopped by {self.signal or 'itself'}"
        if self.code == EXIT_BUG and self.faults:
            hint = ", by hand or out of memory" if any("SIGKILL" in fault for fault in self.faults) else ""
            return f"{'; '.join(self.faults)}{hint}"
        sentences = {EXIT_FINISHED: "finished", EXIT_USER_ERROR: "an error of the user's", EXIT_DIVERGED: "diverged"}
        return sentences.get(self.code, f"failed (launcher's code {self.launcher_code}), see the log")


def start_end(folder: Path, launcher_code: int, signal: str | None = None, lost: Sequence[str] = ()) -> StartEnd:
    """How the start with that folder ended."""
    noted = sorted(folder.glob("signal-*"))  # by slurm/node.sh
    first = next((file.read_text(encoding="utf-8").strip() for file in noted), None)
    return StartEnd(launcher_code, rank_ends(folder), signal or first, lost, [*dead_ranks(folder), *faults(folder)])


@dataclass(frozen=True)
class Resubmission:
    """How to submit the same run as another job, where SLURM does not requeue. `at_once`: without asking it first."""

    command: Sequence[str]  # prints the new job's id
    at_once: bool = False


def conclude(history: History, job: str, end: StartEnd, again: Resubmission | None = None) -> tuple[int, str]:
    """Decide whether the job goes back into the queue; returns its exit code and a sentence on what became of it."""
    in_the_queue = scheduler.this_job() == job
    if in_the_queue and history.start_folder(job, scheduler.restarts() + 1).exists():
        return end.code, f"{end.sentence}; SLURM has started the job again meanwhile"
    mended = end.code == EXIT_BUG and bool(end.faults) and in_the_queue and history.faults(job) < MAX_FAULTS
    if end.code != EXIT_STOPPED and not mended:
        how = "finished" if end.code == EXIT_FINISHED else "failed"
        history.end(job, how, "; ".join(end.messages) or end.sentence, faults=end.faults)
        return end.code, end.sentence
    soon = in_the_queue and _soon(history, job, end)
    how, why, new = _come_back(history, job, end, soon, again)
    history.end(job, how, why, end.reason, soon, end.faults, new)
    return EXIT_STOPPED, f"{how}: {why}"


def _soon(history: History, job: str, end: StartEnd) -> bool:
    """Whether SLURM ended the start so soon that it had no time to gain a step, which says nothing about the run."""
    if end.held:
        return True
    # A short time limit is no such accident: the next start would fare alike.
    longest_s = min(SOON_S, scheduler.time_limit_s(job) / 2)
    return (end.reason in SIGNALS or bool(end.lost)) and history.lasted_s(job) < longest_s


def _come_back(
    history: History, job: str, end: StartEnd, soon: bool, again: Resubmission | None
) -> tuple[str, str, str | None]:
    """What becomes of the job, why, and the id of the job that goes on in its place, if one does."""
    # By the ranks of this start: the run's outcome is of an earlier one where this one did not get to open the run.
    if end.reason is StopReason.STOP_FILE:
        return "stopped", f"stopped by {StopReason.STOP_FILE.sentence}; submit it again to go on", None
    if why := history.no_progress(job, soon):
        return "given up", f"{why}; not requeued: read the log, then submit it anew", None
    if scheduler.this_job() != job:  # in the foreground
        return "stopped", end.sentence, None
    state = scheduler.state_of(job)
    # Any other state: requeued by SLURM itself, or cancelled, and then it must not come back. A squeue that fails says
    # neither, and a job that could come back must not be lost to that.
    if state not in ("RUNNING", scheduler.UNKNOWN):
        return "left to SLURM", f"{end.sentence}; the job is {state or 'not in the queue'}", None
    at_once = again is not None and again.at_once
    if at_once and scheduler.left_to_batch_script("resubmit"):
        return "requeued", end.sentence, None
    refusal = "the preset says resubmit" if at_once else scheduler.requeue(job)
    if refusal is None:
        return "requeued", end.sentence, None
    new, trouble = scheduler.submit_again(again.command) if again else (None, "")
    if new:
        return "resubmitted", f"{end.sentence}; job {new} goes on", new
    refusals = f"{refusal}; {trouble}" if trouble else refusal
    return "stopped", f"{end.sentence}; SLURM does not requeue it ({refusals}): submit it again to go on", None
