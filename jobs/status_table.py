"""The table of all runs that `segtrain status` shows."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

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
}


def status_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """A line a run, whose last column says what is wrong; below the table, what is too long for it."""
    shown = [name for name, (title, _) in NUMBERS.items() if title and any(row[name] is not None for row in rows)]
    table = Table(Column("run", overflow="fold"), "state")
    table.add_column("job", max_width=9, no_wrap=True)  # torchrun's are long
    for name in ("restarts", "epoch", "step", "best DSC", "last DSC"):
        table.add_column(name, justify="right")
    for name in shown:
        table.add_column(NUMBERS[name][0], justify="right")
    table.add_column("ETA", justify="right")
    table.add_column("why", overflow="fold")
    below = []
    for row in rows:
        why = row["why"] or row["trouble"] or ""
        if len(why) > WIDTH:
            below.append(Text.assemble((row["run"], "bold"), f": {why}"))
            why = why[: why.find(";") if 0 < why.find(";") < WIDTH else WIDTH - 1] + "…"
        numbers = (_number(row[name], NUMBERS[name][1]) for name in shown)
        table.add_row(
            Text(row["run"]),
            Text(row["state"], STYLES.get(row["state"], "")),
            Text(row["job"] or ""),
            str(row["restarts"]),
            f"{row['epoch']}/{row['epochs'] or '?'}",
            str(row["step"]),
            _dsc(row["best_dsc"], row["best_parts"]),
            _dsc(row["last_dsc"], row["last_parts"]),
            *numbers,
            _duration(row["eta_s"]),
            Text(why),
        )
    return Group(table, *below)


def _dsc(mean: float | None, parts: str | None) -> Text:
    """The mean DSC; below it that of each region where there are several."""
    return Text("\n".join([_number(mean, 4), *(parts.split(", ") if parts else ())]))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    days, rest = divmod(round(seconds), 86400)
    return (f"{days}d " if days else "") + time.strftime("%H:%M:%S", time.gmtime(rest))
