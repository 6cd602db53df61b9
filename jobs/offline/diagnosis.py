"""What is said of a start, in one line: what its run has come to; why it ended as it did, from what it left behind: the
ranks' own words, its book, its log."""

import re
from collections.abc import Sequence
from pathlib import Path

from jobs.history import Book
from jobs.requeue import told_in
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR
from segtrain.run import Result

HOW = {EXIT_FINISHED: "finished", EXIT_USER_ERROR: "refused", EXIT_DIVERGED: "diverged", EXIT_STOPPED: "stopped"}
TAIL_BYTES = 200_000
ERROR = re.compile(
    r"^(?:\[[^\]]*\]:?\s*)*((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE
)
ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?traceback : Signal \d+ \((\w+)\)", re.DOTALL)
CONSEQUENCES = ("ChildFailedError", "Connection closed by peer", "Connection reset by peer")


def how_of(code: int) -> str:
    """finished, refused, diverged, stopped or failed."""
    return HOW.get(code, "failed")


def score(result: Result) -> str:
    """The best mean DSC with its n and interval (L10); empty before the first evaluation."""
    if not result.n:
        return ""
    interval = "no CI" if result.ci_low is None else f"95% CI {result.ci_low:.3f} to {result.ci_high:.3f}"
    return f"{result.best_dsc:.4f} (n = {result.n}, {interval})"


def last_words(code: int, start_folder: Path, book: Book, job: str, log_tail: str) -> str:
    """Why a start ended with that code; nothing to say of one that finished."""
    if code == EXIT_FINISHED:
        return ""
    _, words = told_in(start_folder)
    if words:
        return _line(words)
    entries = book.entries(job)
    if code == EXIT_USER_ERROR and entries and entries[-1].get("how") == "given up":
        return str(entries[-1]["why"])
    if code < 0:
        return f"its launcher was killed by signal {-code}"
    if code == EXIT_STOPPED and entries and entries[-1]["event"] == "end":
        return str(entries[-1]["why"])
    return of_log(log_tail) or f"exit code {code}, without a word"


def of_log(tail: str) -> str:
    """What a start that crashed said last: the signal that killed a rank first, or the first error that is not a
    consequence of another rank's end, or the last line."""
    if killed := ROOT_CAUSE.search(tail):
        hint = " (by hand, or for want of memory)" if killed[2] == "SIGKILL" else ""
        return f"rank {killed[1]} was killed by {killed[2]}{hint}"
    errors = [found[1] for found in ERROR.finditer(tail) if not any(word in found[1] for word in CONSEQUENCES)]
    lines = [line.strip() for line in tail.splitlines() if line.strip(" \t=-")]
    return _line(errors[:1] or lines[-1:])


def tail(path: Path, offset: int) -> str:
    """The end of what a file holds from `offset` on."""
    try:
        with path.open("rb") as file:
            file.seek(max(offset, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _line(words: Sequence[str]) -> str:
    return " ".join(words[0].split())[:500] if words else ""
