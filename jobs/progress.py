"""What the ranks of a run do, from the files that `segtrain.training.watch` writes."""

import json
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from segtrain.run import Run

LATE = 6  # a rank without a report for so many of its intervals, and a minute, is gone or hangs hard
LATE_S = 60.0
FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')

Rank = Mapping[str, Any]


def rank_reports(run: Run, since_s: float) -> list[Rank]:
    """The newest reports of the ranks, in their order, of a start that began at `since_s` (seconds since the epoch)."""
    reports: list[Rank] = []
    for file in run.ranks.glob("[0-9]*.json"):
        with suppress(OSError, ValueError):
            reports.append(dict(json.loads(file.read_text(encoding="utf-8"))))
    return sorted((rank for rank in reports if rank["time"] >= since_s), key=lambda rank: int(rank["rank"]))


def silent(ranks: Sequence[Rank], now_s: float) -> bool:
    """Whether all have stopped reporting, and those of this machine no longer exist."""
    late = [now_s - rank["time"] > max(LATE_S, LATE * rank["every_s"]) for rank in ranks]
    return all(late) and not any(_is_alive(rank) for rank in ranks)


def stalled(run: Run, ranks: Sequence[Rank], now_s: float) -> dict[str, Any] | None:
    """For how long a rank has made no progress, if for longer than it may, and where each rank stands; else None."""
    behind = [rank for rank in ranks if now_s - rank["progressed"] > rank["stall_s"] and rank["doing"] != "ended"]
    if not behind:
        return None
    return {
        "since_s": round(now_s - min(rank["progressed"] for rank in behind), 1),
        "ranks": [
            {
                "rank": rank["rank"], "host": rank["host"], "pid": rank["pid"], "step": rank["step"],
                "doing": rank["doing"], "since_s": round(now_s - rank["progressed"], 1),
                "silent": now_s - rank["time"] > 3 * rank["every_s"],
                "stack": stack_of(run.rank_stacks(rank["rank"]), rank["thread"]),
            }
            for rank in ranks
        ],
    }  # fmt: skip


def stack_of(file: Path, thread: str) -> list[str]:
    """Where the rank's main thread stood when its stacks were last written, innermost first: `function (file:line)`."""
    try:
        newest_dump = file.read_text(encoding="utf-8").split("Timeout (")[-1]
    except OSError:
        return []
    # Newer versions of Python add the thread's name behind its number.
    parts = re.split(r"^(?:Current thread|Thread) (0x[0-9a-f]+).*$", newest_dump, flags=re.MULTILINE)
    frames = dict(zip(parts[1::2], parts[2::2], strict=False)).get(thread, "")
    return [
        f"{frame['function']} ({_short(frame['file'])}:{frame['line']})"
        for line in frames.splitlines() if (frame := FRAME.fullmatch(line))
    ]  # fmt: skip


def describe(stall: Mapping[str, Any]) -> str:
    """One line: the function in which each rank waits, and the innermost line of this project that called it."""
    descriptions = []
    for rank in stall["ranks"]:
        stack = rank["stack"]
        own = next((frame for frame in stack if "(segtrain/" in frame), None)
        where = " < ".join(dict.fromkeys([*stack[:1], *([own] if own else [])])) or "no stack was written"
        last = "last heard of at" if rank["silent"] else "at"
        descriptions.append(f"rank {rank['rank']} {last} step {rank['step']}, {rank['doing']}: {where}")
    return f"no progress for {stall['since_s']:.0f} s; " + "; ".join(descriptions)


def total(ranks: Sequence[Rank], name: str, largest: bool = False) -> float | None:
    """A resource over all ranks: their sum, or the largest; None where no rank reports it."""
    values = [rank["resources"][name] for rank in ranks if name in rank.get("resources", {})]
    return None if not values else round(max(values) if largest else sum(values), 3)


def _short(file: str) -> str:
    """The path below the package that this project's file is in; of others the folder and the name."""
    parts = Path(file).parts
    ours = "segtrain" in parts[:-1]
    first = len(parts) - 1 - parts[::-1].index("segtrain") if ours else -2
    return "/".join(parts[first:])


def _is_alive(rank: Rank) -> bool:
    if rank["host"] != socket.gethostname() or rank["doing"] == "ended":
        return False
    try:
        return bool(abs(psutil.Process(rank["pid"]).create_time() - rank["process_started"]) < 1)
    except psutil.Error:
        return False
