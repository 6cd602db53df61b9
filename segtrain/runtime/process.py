"""Logging and exit codes of a process."""

import hashlib
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain.errors import LaunchError, SegtrainError, Stopped
from segtrain.runtime import files, machine
from segtrain.runtime.launcher import launch_folder
from segtrain.runtime.terminal import FILE_ONLY

log = logging.getLogger("segtrain")
log.addHandler(logging.NullHandler())  # until start_logging; without any, Python would print errors a second time


def start_logging(file: Path | None = None, rank: int = 0) -> None:
    """Log to standard error, and to `file` if one is given. Ranks other than 0 log warnings only, with their number."""
    prefix = "" if rank == 0 else f"[rank {rank}] "
    to_terminal = logging.StreamHandler()
    to_terminal.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    to_terminal.addFilter(lambda record: not getattr(record, "file_only", False))
    handlers: list[logging.Handler] = [to_terminal]
    if file is not None and file.parent.is_dir():  # another node may not see it
        to_file = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        to_file.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(mark)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        to_file.addFilter(_mark_warnings)
        files.share(file)
        handlers.append(to_file)
    for old in log.handlers:
        old.close()
    log.handlers = handlers
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False


def _mark_warnings(record: logging.LogRecord) -> bool:
    """Mark warnings for `segtrain status`, which looks for them in the log; errors carry their own mark."""
    record.mark = "warning: " if record.levelno == logging.WARNING else ""
    return True


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """The exit code of a command; a user's error becomes one line on standard error, a bug keeps its traceback."""
    _escape_what_the_terminal_cannot_show()
    try:
        _refuse_other_systems()
        machine.name_user()
        return command(argv)
    except SegtrainError as error:
        return _reported(error)
    except (OSError, RuntimeError) as error:
        if limit := machine.shortage(error):
            return _reported(LaunchError(limit))
        raise


def _reported(error: SegtrainError) -> int:
    """The exit code of an error, which is told in one line."""
    if _is_first_to_report(str(error)):
        kind = "" if isinstance(error, Stopped) else "error: "
        print(f"segtrain: {kind}{error}", file=sys.stderr, flush=True)
        log.error("%s%s", kind, error, extra=FILE_ONLY)
    return error.exit_code


def main(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """The exit code of a command on these arguments, by default this process's, with logging to standard error."""
    start_logging()
    return run_command(command, sys.argv[1:] if argv is None else argv)


def _escape_what_the_terminal_cannot_show() -> None:
    """Escape letters that are not in the locale's encoding, on standard output too: else printing a name may raise."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse_other_systems() -> None:
    """Raise LaunchError elsewhere than on Linux. Entries import a command after this: on Windows there is no fcntl."""
    if sys.platform != "linux":
        raise LaunchError(f"this system is {sys.platform}, segtrain needs Linux; use a Linux machine or WSL")


def _is_first_to_report(message: str) -> bool:
    """Whether nobody on this node has reported the same in this launch; without torchrun each process reports.

    Whoever comes first reports, since torchrun ends all ranks as soon as one has left; and it may start them again.
    """
    folder = launch_folder()
    if folder is None:
        return True
    mark = folder / f"reported-{hashlib.sha256(message.encode(errors='backslashreplace')).hexdigest()[:16]}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
