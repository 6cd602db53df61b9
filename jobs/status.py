"""Every run at a glance: `segtrain status`, or `python -m jobs.status`, from run directories, and SLURM if present."""

import argparse
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.live import Live

from jobs.overview import rows
from jobs.run_state import STATES
from jobs.status_table import status_table
from segtrain.errors import EXIT_FINISHED, RunError
from segtrain.run.layout import CONFIG
from segtrain.run.reader import refuse_private
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show, show_text, standard_output

DAY_S = 86400.0
EXAMPLES = """\
examples:
  segtrain status
  segtrain status --watch
  segtrain status --state failed,stalled --name 'loss/*'
  segtrain status /scratch/runs --json

state: none, pending, suspended, running, finished, stopped, diverged, failed; stalled: no progress for watch.stall_s,
with where each rank stands; broken off: it ended without saying how; unreadable: one of its files is broken; unknown:
SLURM cannot be asked, and the files do not say. The job that makes an ablation's report is a line after its runs.
why: of what waits SLURM's reason, and when it expects the start; of what ended SLURM's verdict, as TIMEOUT, and what
the run itself wrote down. step: of what does not run, where it goes on.
A job is SLURM's of that number only if cluster, user, name and folder are those that it was submitted with.
CPU %: of the run's processes, 100 is one core. RSS: the memory that they hold. GPU %, GPU GiB, W, C: of its GPUs.
"""


@dataclass(frozen=True)
class Choice:
    """The rows that are shown: those whose name fits the pattern, in one of the states, or in any without states."""

    runs_dir: Path
    pattern: str = "*"
    states: frozenset[str] = frozenset()

    @classmethod
    def of(cls, arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Self:
        """That of a command line."""
        states = frozenset(word.strip().replace("-", " ") for text in arguments.state for word in text.split(","))
        if wrong := sorted(states - set(STATES)):
            parser.error(f"--state {wrong[0]}: no such state; choose from {', '.join(STATES)}")
        return cls(arguments.runs_dir.absolute(), arguments.name, states)

    def rows(self) -> tuple[list[dict[str, Any]], int]:
        """The rows as they are now, and how many there are in whatever state."""
        all_rows = list(rows(self.runs_dir, time.time(), self.pattern))
        return [row for row in all_rows if not self.states or row["state"] in self.states], len(all_rows)


def command(argv: Sequence[str]) -> int:
    """Print the table, or JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain status",
        description="Show every run: state, job, epoch, DSC, speed, ETA.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs_dir", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="S[,S]",
        help="only runs in these states, as broken-off",
    )
    parser.add_argument("--name", default="*", metavar="PATTERN", help="only runs of this name; * stands for anything")
    help_watch = "stay, and look again every S seconds (default 5) until Ctrl-C"
    parser.add_argument("--watch", nargs="?", type=float, const=5.0, metavar="S", help=help_watch)
    arguments = parser.parse_args(list(argv))
    if arguments.watch is not None and not 0 < arguments.watch <= DAY_S:
        parser.error(f"--watch {arguments.watch:g}: give seconds, more than 0 and at most {DAY_S:g}")
    choice = Choice.of(arguments, parser)
    refuse_private(arguments.runs_dir)
    if not arguments.runs_dir.is_dir():
        raise RunError(f"{arguments.runs_dir}: no such folder; name the runs_dir that holds the runs")
    if (arguments.runs_dir / CONFIG).exists():
        run = arguments.runs_dir.absolute()
        words = ["segtrain", "status", str(run.parent), "--name", run.name]
        raise RunError(f"{arguments.runs_dir}: is a run itself; {shlex.join(words)} shows it")
    if arguments.watch is not None:
        return _watch(choice, arguments.watch, arguments.json)
    table, in_all = choice.rows()
    if arguments.json:
        show_text(json.dumps(table, indent=1))
    elif in_all:
        standard_output().print(status_table(table, sum_line(table, in_all)))
    else:
        show(f"{arguments.runs_dir}: no runs" + (f" named {choice.pattern}" if choice.pattern != "*" else ""))
    return EXIT_FINISHED


def _watch(choice: Choice, every_s: float, as_json: bool) -> int:
    """Draw the table anew until Ctrl-C; as JSON, a line each time."""
    try:
        if as_json:
            while True:
                show(json.dumps(choice.rows()[0]))
                time.sleep(every_s)
        with Live(console=standard_output(), auto_refresh=False) as live:
            while True:
                table, in_all = choice.rows()
                live.update(status_table(table, sum_line(table, in_all)), refresh=True)
                time.sleep(every_s)
    except KeyboardInterrupt:
        return EXIT_FINISHED


def sum_line(table: Sequence[Mapping[str, Any]], in_all: int) -> str:
    """How many runs there are, or are shown of all, and how many of them in each state."""
    counts = Counter(row["state"] for row in table)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    kinds = Counter(row["kind"] for row in table)
    count = " and ".join(f"{kinds[kind]} {kind}{'s' * (kinds[kind] != 1)}" for kind in ("run", "report") if kinds[kind])
    if len(table) < in_all:
        count = f"{len(table)} of {in_all} shown"
    return f"{count}: {states}" if states else count


if __name__ == "__main__":
    sys.exit(main(command))
