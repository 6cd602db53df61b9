"""Logging and exit codes of a process."""

import hashlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from segtrain.errors import LaunchError, SegtrainError, Stopped
from segtrain.runtime import files, machine
from segtrain.runtime.launcher import launch_folder, leave_code
from segtrain.runtime.outbox import Addition, Outbox
from segtrain.runtime.terminal import FILE_ONLY, show
from segtrain.runtime.visible import Formatter, in_lines, in_one_line

LAST_LINES_S = 2.0  # for the log's last lines, at the end of a process

log = logging.getLogger("segtrain")
logging.getLogger("segtrain").addHandler(
    logging.NullHandler()
)  # until start_logging; without any, Python would print errors a second time


class Terminal(logging.StreamHandler[TextIO]):
    """Log lines on standard error. Where that is closed, or on a full disk, they end nothing and leave no traceback."""

    def flush(self) -> None:
        with suppress(OSError, ValueError):  # ValueError: closed
            super().flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not isinstance(sys.exc_info()[1], OSError) and not getattr(self.stream, "closed", True):
            super().handleError(record)


class LogFile(logging.Handler):
    """Log lines at the end of a file, to which other processes add theirs; they wait while it cannot be written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._outbox = Outbox(path.parent, quiet=True)

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        self._outbox.put("a line", Addition(self.path, line), size=len(line))

    def flush(self) -> None:
        self._outbox.drain(LAST_LINES_S, longest_s=LAST_LINES_S)

    def close(self) -> None:
        self.flush()
        self._outbox.close()
        super().close()


def start_logging(file: Path | None = None, rank: int = 0) -> None:
    """Log to standard error, and to `file` if one is given. Ranks other than 0 log warnings only, with their number."""
    prefix = "" if rank == 0 else f"[rank {rank}] "
    to_terminal = Terminal()
    to_terminal.setFormatter(Formatter(f"{prefix}%(message)s"))
    to_terminal.addFilter(lambda record: not getattr(record, "file_only", False))
    handlers: list[logging.Handler] = [to_terminal]
    if file is not None and _is_there(file.parent):  # another node may not see it
        to_file = LogFile(file)
        to_file.setFormatter(Formatter(f"%(asctime)s {prefix}%(mark)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        to_file.addFilter(_mark_warnings)
        files.share(file)
        handlers.append(to_file)
    others = [handler for handler in log.handlers if not isinstance(handler, (Terminal, LogFile))]
    for old in log.handlers:
        if old not in others:
            old.close()
    log.handlers = [*handlers, *others]
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False


@contextmanager
def logging_as_before() -> Iterator[None]:
    """A context after which the log goes where it went before, for a caller whose process goes on."""
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    try:
        yield
    finally:
        for handler in log.handlers:
            if handler not in handlers:
                handler.close()
        log.handlers = handlers
        log.setLevel(level)
        log.propagate = propagate


def flush_log() -> None:
    """Have what was logged so far in the log file, if it can be written now."""
    for handler in log.handlers:
        handler.flush()


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:
        return False


def _mark_warnings(record: logging.LogRecord) -> bool:
    """Mark warnings for `segtrain status`, which looks for them in the log; errors carry their own mark."""
    record.mark = "warning: " if record.levelno == logging.WARNING else ""
    return True


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """The exit code of a command; a user's error becomes one line on standard error, a bug keeps its traceback."""
    _escape_what_the_terminal_cannot_show()
    try:
        with on_this_machine():
            return command(argv)
    except SegtrainError as error:
        return _reported(error)


@contextmanager
def on_this_machine() -> Iterator[None]:
    """A context for whatever a user asks for. Raises LaunchError where this system, or a limit of it, is in the way."""
    _refuse_other_systems()
    machine.name_user()
    try:
        yield
    except (OSError, RuntimeError) as error:
        if limit := machine.shortage(error) or machine.full_disk(error):
            raise LaunchError(limit) from error
        raise


def _reported(error: SegtrainError) -> int:
    """The exit code of an error, which is told in one line, even if a path in it has several."""
    message = in_one_line(error)
    if _is_first_to_report(message):
        kind = "" if isinstance(error, Stopped) else "error: "
        with suppress(OSError):  # standard error may be a file on a full disk
            show(f"segtrain: {kind}{message}", errors=True)
        log.error("%s%s", kind, message, extra=FILE_ONLY)
    leave_code(error.exit_code)
    return error.exit_code


def main(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """The exit code of a command on these arguments, by default this process's, with logging to standard error."""
    _open_closed_streams()
    sys.excepthook = _show_traceback
    start_logging()
    return run_command(command, sys.argv[1:] if argv is None else argv)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own traceback, whose message may be that of a file's name."""
    sys.stderr.write(in_lines("".join(traceback.format_exception(kind, error, trace))))


def _open_closed_streams() -> None:
    """Put the null device in place of standard streams that are closed: else files that are opened get their numbers.

    What libraries print would then go into a checkpoint.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            assert opened == number, "those below are open"
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))


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
