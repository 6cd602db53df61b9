"""Output for people: a progress bar on a terminal, log lines elsewhere, tables.

rich is imported when something of it is shown: `segtrain --help` and much else needs none of it.
"""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TextIO, cast

from segtrain.runtime.visible import in_lines, in_one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.text import Text

log = logging.getLogger(__name__)

LINE_EVERY_S = 15.0
PIPED_WIDTH = 160  # characters
FILE_ONLY = {"file_only": True}  # `extra` of a log record that the terminal shows in another way


class Progress:
    """A bar on a terminal; elsewhere a log line every `LINE_EVERY_S` seconds. Nothing where `quiet`."""

    def __init__(self, title: str, total: int, unit: str, quiet: bool = False) -> None:
        self.title = in_one_line(title)
        self.total = total
        self.unit = unit
        self.quiet = quiet
        self.done = 0
        self.started = self.last_line = time.monotonic()
        self.bar: Bar | None = None
        if not quiet and sys.stderr.isatty():
            self.bar = _bar()
            self.task = self.bar.add_task(self.title, total=total, note="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, amount: int, **notes: object) -> None:
        """Add `amount` to what is done; `notes` are shown beside it."""
        self.done += amount
        if self.quiet:
            return
        now = time.monotonic()
        rate = self.done / max(now - self.started, 1e-9)
        note = in_one_line(" ".join(f"{name} {value}" for name, value in notes.items()))
        if self.bar:
            self.bar.update(self.task, advance=amount, note=f"{note}  {rate:.1f} {self.unit}/s")
        if now - self.last_line > LINE_EVERY_S or (self.done == self.total and now - self.started > LINE_EVERY_S):
            self.last_line = now
            eta_s = (self.total - self.done) / rate
            log.info(
                "%s: %d/%d  %s  %.1f %s/s  ETA %s",
                self.title,
                self.done,
                self.total,
                note,
                rate,
                self.unit,
                duration(eta_s),
                extra=FILE_ONLY if self.bar else None,
            )


def _bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(file=cast(IO[str], _Closable(sys.stderr))),
        transient=True,
    )


class _Closable:
    """A stream to a terminal that may be closed meanwhile: what is shown of progress is no reason to end."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def duration(seconds: float) -> str:
    """For example `1:02:03` or `0:42`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def show(line: object, errors: bool = False) -> None:
    """Print a line on standard output, or standard error; what it holds from outside cannot break or colour it."""
    print(in_one_line(line), file=sys.stderr if errors else sys.stdout, flush=True)


def show_text(text: object) -> None:
    """The same for several lines."""
    print(in_lines(text), flush=True)


def show_table(title: str, rows: "Sequence[Sequence[str | Text]]", header: Sequence[str] = ("", "")) -> None:
    """Print rows, each as long as `header`, on standard output; the first column holds the names of the rows.

    Nothing is cut off: a path that is longer than its column goes on in the next line.
    """
    from rich.table import Column, Table
    from rich.text import Text

    columns = [Column(as_text(name), overflow="fold") for name in header]
    columns[0].style = "bold"
    table = Table(
        *columns, title=Text(in_one_line(title), "table.title"), show_header=any(header), title_justify="left"
    )
    for row in rows:
        table.add_row(*map(as_text, row))
    standard_output().print(table)


def as_text(cell: "str | Text") -> "Text":
    """A cell that is shown as it is: rich takes brackets in a plain string for markup."""
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(in_lines(cell))


def standard_output() -> "Console":
    """Standard output, as wide as the terminal, or `PIPED_WIDTH` where it goes into a file or another program."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
