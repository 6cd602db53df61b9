"""What the ranks of a run do, from the files that `segtrain.training.watch` writes."""

import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from segtrain.run import Run
from segtrain.run.ranks import Rank, late_after_s
from segtrain.runtime import machine
from segtrain.text_file import text_of

FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')


def silent(ranks: Sequence[Rank], now_s: float) -> bool:
    """Whether all have stopped reporting, and those of this machine no longer exist.

    A report of this machine from a time that has not come, since the clock was set back, says nothing.
    """
    late = [
        now_s - rank["time"] > late_after_s(rank) or (rank["host"] == socket.gethostname() and rank["time"] > now_s + 1)
        for rank in ranks
    ]
    return all(late) and not any(_is_alive(rank) for rank in ranks)


def stalled(run: Run, ranks: Sequence[Rank], now_s: float) -> dict[str, Any] | None:
    """For how long a rank has made no progress, if for longer than it may, and where each rank stands; else None."""
    still_s = [_still_s(rank, now_s) for rank in ranks]
    behind = [
        seconds
        for rank, seconds in zip(ranks, still_s, strict=True)
        if seconds > rank["stall_s"] and rank["doing"] != "ended"
    ]
    if not behind:
        return None
    return {
        "since_s": round(max(behind), 1),
        "ranks": [
            {
                "rank": rank["rank"], "host": rank["host"], "pid": rank["pid"], "step": rank["step"],
                "doing": rank["doing"], "since_s": round(seconds, 1),
                "silent": now_s - rank["time"] > 3 * rank["every_s"],
                "stack": stack_of(run.rank_stacks(rank["rank"]), rank["thread"]),
            }
            for rank, seconds in zip(ranks, still_s, strict=True)
        ],
    }  # fmt: skip


def _still_s(rank: Rank, now_s: float) -> float:
    """For how long a rank has made no progress: as it says itself, and since it said so. The clock may be set back."""
    return float(rank["time"] - rank["progressed"] + max(0.0, now_s - rank["time"]))


def stack_of(file: Path, thread: str) -> list[str]:
    """Where the rank's main thread stood when its stacks were last written, innermost first: `function (file:line)`."""
    try:
        text = text_of(file, errors="replace")
        newest_dump = re.split(r"^(?=Timeout \(|Stack \()", text, flags=re.MULTILINE)[-1]
    except OSError:
        return []
    if newest_dump.startswith("Stack"):  # by a signal, of the main thread alone
        frames = newest_dump
    else:
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
        if began := rank.get("process_began"):  # counted from the machine's start, unlike a time
            return bool(machine.began(rank["pid"]) == began)
        return bool(abs(psutil.Process(rank["pid"]).create_time() - rank["process_started"]) < 1)
    except psutil.Error:
        return False
