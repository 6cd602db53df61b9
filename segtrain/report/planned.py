"""Runs that never began, and ends that a killed run could not write down, from the tables beside the runs."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from segtrain.run import Environment, QueueLine, read_queue, read_results


@dataclass(frozen=True)
class Listed:
    """A run as the tables beside it list it. `variant`: None unless an ablation lists it."""

    root: Path
    state: str
    why: str = ""
    variant: str | None = None
    fold: int | None = None
    seed: int | None = None
    repeat: int | None = None


def not_begun(begun: Sequence[Path], requested: Sequence[Path]) -> Iterator[Listed]:
    """The listed runs that have not begun: requested themselves, in a requested folder, or beside a run below one."""
    parents = [root.parent for root in begun if root not in requested]
    listed = {run.root: run for folder in dict.fromkeys([*requested, *parents]) for run in _runs_listed_in(folder)}
    for root in requested:
        if run := listed_run(root):
            listed[root] = run
    yield from (run for root, run in listed.items() if root not in begun)


def listed_run(root: Path) -> Listed | None:
    """The run with that directory, as the tables beside it list it."""
    return next((run for run in _runs_listed_in(root.parent) if run.root == root), None)


def end_in_queue(root: Path, start: Environment) -> QueueLine | None:
    """A queue's line on how this start of a run ended; None if the line is about an earlier start."""
    line = read_queue(root.parent).get(root.name)
    with suppress(ValueError, TypeError):
        if line and line.why and start.began_s <= datetime.fromisoformat(line.time).timestamp():
            return line
    return None


def _runs_listed_in(folder: Path) -> Iterator[Listed]:
    """The runs in an ablation's table and in a queue's. The queue knows more about a state."""
    results, queue = read_results(folder), read_queue(folder)
    for name in dict.fromkeys([*results, *queue]):
        result, line = results.get(name), queue.get(name)
        state = line.state if line else result.state if result else ""
        run = Listed(folder / name, state, line.why if line else "")
        if result:
            run = replace(run, variant=result.variant, fold=result.fold, seed=result.seed, repeat=result.repeat)
        yield run
