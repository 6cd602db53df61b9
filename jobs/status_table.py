"""The table of all runs that `segtrain status` shows."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from jobs import scheduler
from jobs.lookup import user_name
from segtrain.runtime.visible import in_one_line

# Numbers of a row: their column, digits. A column that no run fills is left out; one without a name is for JSON alone.
NUMBERS: dict[str, tuple[str, int]] = {
    "images_per_s": ("images/s", 1),
    "memory_gib": ("peak GiB", 1),
    "cpu_percent": ("CPU %", 0),
    "rss_gib": ("RSS", 1),
    "machine_memory_percent": ("", 0),
    "disk_read_mib_s": ("", 1),
    "disk_write_mib_s": ("", 1),
    "gpu_percent": ("GPU %", 0),
    "gpu_memory_gib": ("GPU GiB", 1),
    "gpu_watts": ("W", 0),
    "gpu_celsius": ("C", 0),
}
WIDTH = 30  # of the last column
STYLES = {
    "running": "green",
    "finished": "blue",
    "stalled": "bold red",
    "failed": "red",
    "diverged": "red",
    "broken off": "yellow",
    "unreadable": "yellow",
    "unknown": "yellow",
}


def status_table(rows: Sequence[Mapping[str, Any]], last_line: str = "") -> Group:
    """A line a run, whose last column says what is wrong; below the table, what is too long for it, and a last line."""
    shown = [name for name, (title, _) in NUMBERS.items() if title and any(row[name] is not None for row in rows)]
    marks = _marks(rows)
    table = Table(Column("run", overflow="fold"), "state")
    for name in marks:
        table.add_column(name)
    table.add_column("job", max_width=9, no_wrap=True)  # torchrun's are long
    for name in ("restarts", "epoch", "step", "best DSC", "last DSC"):
        table.add_column(name, justify="right")
    for name in shown:
        table.add_column(NUMBERS[name][0], justify="right")
    table.add_column("ETA", justify="right")
    table.add_column("why", overflow="fold")
    below = [Text(in_one_line(f"{trouble}; states are from files"), "bold") for trouble in _troubles(rows)]
    for row in rows:
        why = row["why"] or row["trouble"] or ""
        if len(why) > WIDTH:
            below.append(Text.assemble((in_one_line(row["run"]), "bold"), in_one_line(f": {why}")))
            why = why[: why.find(";") if 0 < why.find(";") < WIDTH else WIDTH - 1] + "…"
        is_run = row.get("kind") != "report"
        table.add_row(
            Text(in_one_line(row["run"])),
            Text(in_one_line(row["state"]), STYLES.get(row["state"], "")),
            *(Text(in_one_line(row.get(name) or "")) for name in marks),
            Text(in_one_line(row["job"] or "")),
            *(_progress(row) if is_run else [""] * 5),
            *(_number(row[name], NUMBERS[name][1]) for name in shown),
            _duration(row["eta_s"]),
            Text(in_one_line(why)),
        )
    return Group(table, *below, *([Text(in_one_line(last_line))] if last_line else []))


def _progress(row: Mapping[str, Any]) -> list[str | Text]:
    """Restarts, epoch, step and scores."""
    return [
        str(row["restarts"]),
        f"{row['epoch']}/{row['epochs'] or '?'}",
        str(row["step"]),
        _dsc(row["best_dsc"], row["best_parts"]),
        _dsc(row["last_dsc"], row["last_parts"]),
    ]


def _marks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that tell runs apart: whose it is, and where it runs without SLURM, if not all are of here."""
    others = any(row.get("user") not in (None, user_name(os.geteuid())) for row in rows)
    hosts = {row.get("host") for row in rows if not scheduler.OWN.fullmatch(row["job"] or "")}
    return ["user"] * others + ["host"] * bool(hosts - {None, socket.gethostname()})


def _troubles(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why SLURM does not answer, once."""
    return sorted({row["scheduler"] for row in rows if str(row.get("scheduler")).startswith("SLURM does not answer")})


def _dsc(mean: float | None, parts: str | None) -> Text:
    """The mean DSC; below it that of each region where there are several."""
    return Text("\n".join([_number(mean, 4), *(map(in_one_line, parts.split(", ")) if parts else ())]))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    days, rest = divmod(round(seconds), 86400)
    return (f"{days}d " if days else "") + time.strftime("%H:%M:%S", time.gmtime(rest))
