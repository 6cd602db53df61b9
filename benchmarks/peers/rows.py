"""The table of the peers: a row a figure, a column a program, and whether segtrain is ahead."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.commands import NAMES, TITLES

ABSENT = "not run"


@dataclass(frozen=True)
class Row:
    """A figure. `per_cpu` is the unit of the figure of CPU time."""

    key: str
    what: str
    unit: str = "s"
    per_cpu: str = "CPU s"
    more_is_better: bool = False


ROWS = (
    Row("prepare", "preparing: raw folder to data that lie ready"),
    Row("start", "start to the end of the first step; what a program keeps was prepared before"),
    Row("rate", "whole loop, evaluation apart", "img/s", "img a CPU s", more_is_better=True),
    Row("evaluate", "evaluation of a patient"),
    Row("memory", "peak memory of all processes", "GiB"),
    Row("whole", "raw folder to scored model"),
)
# Why segtrain is not ahead in a row, by what was measured; docs/performance.md has the measurements.
WHY: dict[str, str] = {
    "prepare": "MONAI caches resized slices in memory, 0.2 CPU s a patient, anew at each start; segtrain hashes every "
    "file, crops, resizes and normalises volumes and syncs a store, 0.5 CPU s a patient, and starts 2 workers, 3 CPU s"
}


def best(results: Mapping[str, Any], name: str, row: Row) -> Mapping[str, float] | None:
    """The least of the rounds, of images a second the most, of each clock by itself. None: it did not run."""
    rounds = [each[row.key] for each in results["peers"].get(name, {}).get("rounds", [])]
    if not rounds:
        return None
    pick = max if row.more_is_better or row.key == "memory" else min
    return {clock: pick(each[clock] for each in rounds) for clock in rounds[0]}


def ahead(results: Mapping[str, Any], row: Row) -> bool | None:
    """Segtrain is better than each of the others, by the clock that the results are judged by. None: no other ran."""
    clock = "gib" if row.key == "memory" else results["judged_by"]
    ours = best(results, "segtrain", row)
    others = [figure[clock] for name in NAMES[2:] if (figure := best(results, name, row))]
    if ours is None or not others:
        return None
    return ours[clock] > max(others) if row.more_is_better else ours[clock] < min(others)


def _cell(row: Row, figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ABSENT
    if row.key == "memory":
        return f"{figure['gib']:.2f} {row.unit}"
    return f"{figure['wall']:.2f} {row.unit} ({figure['cpu']:.2f} {row.per_cpu})"


def table(results: Mapping[str, Any]) -> list[list[str]]:
    """Heading and rows; those without a verdict are for information."""
    names = [name for name in NAMES if name in results["peers"]]
    lines = [["what", *(TITLES[name] for name in names), "ahead", "why not"]]
    for row in ROWS:
        verdict = ahead(results, row)
        why = WHY.get(row.key, "not found out yet") if verdict is False else ""
        cells = [_cell(row, best(results, name, row)) for name in names]
        lines.append([row.what, *cells, {True: "yes", False: "no", None: ""}[verdict], why])
    n = len(results["work"]["validation"])
    for key, what, style in (
        ("dsc", f"mean DSC of {n} patients after {results['work']['epochs']} epochs, for information", ".3f"),
        ("gflop", "GFLOP of an image forward", ".2f"),
        ("images", "images trained", ".0f"),
    ):
        last = [(results["peers"][name].get("rounds") or [{}])[-1].get(key) for name in names]
        lines.append([what, *("" if value is None else format(value, style) for value in last), "", ""])
    return lines


def markdown(results: Mapping[str, Any]) -> str:
    """The table below lines about machine and work, and above one about each program."""
    where, work = results["machine"], results["work"]
    patients = len(work["train"]) + len(work["validation"])
    count = max(len(peer["rounds"]) for peer in results["peers"].values())
    rounds = "one round" if count == 1 else f"the best of {count} rounds by turns"
    clock = {"wall": "the clock", "cpu": "CPU seconds, since other work ran beside"}[results["judged_by"]]
    about = (
        f"{where['cores']} cores of {where['cpu']} ({where['vector_units']}), Python {where['python']}, {patients} "
        f"{results['data']} patients ({len(work['validation'])} of them scored), {work['size_px']} px, "
        f"{work['features']} features, batch {work['batch']}, {work['epochs']} epochs of {work['steps']} steps, "
        f'float32 where nothing else is said; {rounds}; "ahead" by {clock}:'
    )
    heading, *lines = table(results)
    text = [about, "", *(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *lines)), ""]
    for name, peer in results["peers"].items():
        versions = [f"{key} {value}" for one in peer["rounds"][-1:] for key, value in one["versions"].items()]
        parts = [part for part in (peer["note"], ", ".join(versions), peer["failed"]) if part]
        if parts:
            text.append(f"- {TITLES[name]}: {'; '.join(parts)}.")
    return "\n".join(text) + "\n"
