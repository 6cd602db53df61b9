"""The command `segtrain watch`: runs that train elsewhere, from their files, in place until they end."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live
from rich.text import Text

from segtrain.errors import EXIT_FINISHED, ConfigError, RunError
from segtrain.report.snapshot import EVERY_S, Snapshot, Watcher
from segtrain.run import RunLayout
from segtrain.run.layout import run_folders
from segtrain.run.reader import refuse_private
from segtrain.runtime.terminal import show_text, standard_output

DAY_S = 86400.0
EXAMPLES = """\
examples:
  segtrain watch runs/lgg
  segtrain watch runs                # all that train in the folder, those too that begin later
  segtrain watch runs/a runs/b --once

Epoch, step, mean DSC with its n, images a second, time left of the whole run, curves of loss and DSC, the newest
warning. It ends with code 0 when the runs have ended, however they did; Ctrl-C leaves and stops no training.
stalled: no progress for watch.stall_s. broken off: no sign of life, as of a job that was killed; it is waited for.
Where the output is no terminal, one block is printed. Nothing but the runs' files is needed, from any machine that
sees them; times are those of the file server's clock. segtrain status knows of SLURM, too.
"""


def command(argv: Sequence[str]) -> int:
    """Show the runs until they end, or once."""
    parser = argparse.ArgumentParser(
        "segtrain watch",
        description="Watch runs that train elsewhere.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = [Path("runs")]
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", default=default, help="or a folder of runs: runs")
    parser.add_argument("--once", action="store_true", help="print one block and end")
    parser.add_argument("--every", type=float, default=EVERY_S, metavar="S", help=f"seconds, default {EVERY_S:g}")
    arguments = parser.parse_intermixed_args(list(argv))
    if not 0 < arguments.every <= DAY_S:
        raise ConfigError(f"--every {arguments.every:g}: give seconds, more than 0 and at most {DAY_S:g}")
    watched = _Watched(arguments.runs)
    try:
        if arguments.once or not sys.stdout.isatty():
            show_text(_block(watched.look(), arguments.runs))
        else:
            _show_in_place(watched, arguments)
    except KeyboardInterrupt:
        pass
    return EXIT_FINISHED


def _show_in_place(watched: "_Watched", arguments: argparse.Namespace) -> None:
    with Live(console=standard_output(), auto_refresh=False) as live:
        while True:
            snapshots = watched.look()
            live.update(Text(_block(snapshots, arguments.runs)), refresh=True)
            if all(snapshot.ended for snapshot in snapshots):
                return
            time.sleep(arguments.every)


def _block(snapshots: Sequence[Snapshot], paths: Sequence[Path]) -> str:
    nothing = f"{', '.join(map(str, paths))}: no run trains here now"
    return "\n".join(snapshot.text for snapshot in snapshots) or nothing


class _Watched:
    """The runs that are watched: those that were named, and all that train, or did at some look, in the folders."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises RunError: no such folder, or one that is neither a run nor of runs."""
        self.folders: list[Path] = []
        self.watchers: dict[Path, Watcher] = {}
        self._idle: dict[Path, Watcher] = {}
        for path in paths:
            refuse_private(path)
            if RunLayout(path).config_file.exists():
                self.watchers[path] = Watcher(path)
            elif path.is_dir():
                self.folders.append(path)
            else:
                beside = Path("runs") / path
                hint = f"did you mean {beside}?" if beside.is_dir() else "name the folder of a run, or of runs"
                raise RunError(f"{path}: no such folder; {hint}")

    def look(self) -> list[Snapshot]:
        """Each run as it is now."""
        snapshots = {path: watcher.look() for path, watcher in self.watchers.items()}
        for root in sorted(root for folder in self.folders for root in run_folders(folder)):
            if root not in snapshots and (snapshot := self._found(root)):
                snapshots[root] = snapshot
        return list(snapshots.values())

    def _found(self, root: Path) -> Snapshot | None:
        """A run of a folder that is not watched yet, and from now on is, if it trains."""
        if os.path.lexists(RunLayout(root).outcome_file):  # it has ended, and nothing of it is read
            return None
        try:
            watcher = self._idle.get(root) or Watcher(root)
        except RunError:  # not whole, or another user's
            return None
        snapshot = watcher.look()
        trains = snapshot.state in ("running", "stalled")
        (self.watchers if trains else self._idle)[root] = watcher
        return snapshot if trains else None
