"""Logging and exit codes of this process."""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain.errors import EXIT_USER_ERROR, SegtrainError, Stopped
from segtrain.runtime.terminal import FILE_ONLY

log = logging.getLogger("segtrain")


def start_logging(file: Path | None = None, rank: int = 0) -> None:
    """Log to standard error, and to `file` when given; ranks but 0 say warnings only, under their number."""
    prefix = "" if rank == 0 else f"[rank {rank}] "
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    handlers[0].addFilter(lambda record: not getattr(record, "file_only", False))
    if file is not None and file.parent.is_dir():  # another node may not see it
        handlers.append(logging.FileHandler(file))
        handlers[1].setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(mark)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers[1].addFilter(_marked)
    for old in log.handlers:
        old.close()
    log.handlers = handlers
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False


def _marked(record: logging.LogRecord) -> bool:
    """Let `jobs.status` tell a warning from the rest of the log; errors say themselves what they are."""
    record.mark = "warning: " if record.levelno == logging.WARNING else ""
    return True


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """The exit code of a command; a user's error becomes one line on standard error, a bug keeps its traceback.

    What is wrong on several ranks is said by one; the others give it the time to, since the launcher kills all when one
    has left.
    """
    try:
        return command(argv)
    except SegtrainError as error:
        rank, local_rank = os.environ.get("RANK", "0"), os.environ.get("LOCAL_RANK", "0")
        if {"node": local_rank == "0", "main": rank == "0", "rank": True}[error.told_by]:
            kind = "" if isinstance(error, Stopped) else "error: "
            where = f"[rank {rank}] " if error.told_by == "rank" and rank != "0" else ""
            print(f"segtrain: {kind}{where}{error}", file=sys.stderr, flush=True)
            log.error("%s%s", kind, error, extra=FILE_ONLY)
        elif error.exit_code == EXIT_USER_ERROR:
            time.sleep(4)
        return error.exit_code
