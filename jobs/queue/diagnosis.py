"""Why a start ended as it did, in one line: from the ranks' messages, the run's history, its log."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.history import History, stop_reason
from jobs.requeue import start_end
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, StopReason
from segtrain.run import Result

HOW = {EXIT_FINISHED: "finished", EXIT_USER_ERROR: "refused", EXIT_DIVERGED: "diverged", EXIT_STOPPED: "stopped"}
TAIL_BYTES = 200_000
ERROR = re.compile(
    r"^(?:\[[^\]]*\]:?\s*)*((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE
)
ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?traceback : Signal \d+ \((\w+)\)", re.DOTALL)
CONSEQUENCES = ("ChildFailedError", "Connection closed by peer", "Connection reset by peer")


def score(result: Result) -> str:
    """The best mean DSC with its regions, n and interval (L10); empty before the first evaluation."""
    if not result.n:
        return ""
    interval = "no CI" if result.ci_low is None else f"95% CI {result.ci_low:.3f} to {result.ci_high:.3f}"
    regions = f"{result.best_parts}; " if result.best_parts else ""
    n = f"{result.people} people, {result.n} patients" if result.people else result.n
    return f"{result.best_dsc:.4f} ({regions}n = {n}, {interval})"


@dataclass(frozen=True)
class Diagnosis:
    """How a start ended: finished, refused, diverged, stopped or failed; why, for people; and the reason of a stop."""

    how: str
    why: str
    reason: StopReason | None = None


def diagnose(code: int, start_folder: Path, history: History, job: str, log_tail: str) -> Diagnosis:
    """The diagnosis of a start that ended with that code; there is nothing to say of one that finished."""
    if code == EXIT_FINISHED:
        return Diagnosis("finished", "")
    ranks, last = start_end(start_folder, code), history.last(job)
    reason = ranks.reason or stop_reason(last) if code == EXIT_STOPPED else None
    if last.get("how") == "given up":
        return Diagnosis("refused", str(last["why"]))
    how = HOW.get(code, "failed")
    if ranks.messages:
        return Diagnosis(how, _line(ranks.messages), reason)
    if code < 0:
        return Diagnosis(how, f"its launcher was killed by signal {-code}")
    if code == EXIT_STOPPED and last.get("event") == "end":
        return Diagnosis(how, str(last["why"]), reason)
    return Diagnosis(how, of_log(log_tail) or f"exit code {code}, and no message")


def of_log(tail: str) -> str:
    """The last message of a start that crashed: the signal that killed a rank first, or the first error that is not a
    consequence of another rank's end, or the last line."""
    if killed := ROOT_CAUSE.search(tail):
        hint = " (by hand, or out of memory)" if killed[2] == "SIGKILL" else ""
        return f"rank {killed[1]} was killed by {killed[2]}{hint}"
    errors = [match[1] for match in ERROR.finditer(tail) if not any(words in match[1] for words in CONSEQUENCES)]
    lines = [line.strip() for line in tail.splitlines() if line.strip(" \t=-")]
    return _line(errors[:1] or lines[-1:])


def tail(path: Path, offset: int) -> str:
    """The end of a file's content from `offset` on."""
    try:
        with path.open("rb") as file:
            file.seek(max(offset, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _line(messages: Sequence[str]) -> str:
    return " ".join(messages[0].split())[:500] if messages else ""
