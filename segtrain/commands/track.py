"""The command `segtrain track`: runs sent to a tracker of experiments, from their files."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from segtrain.errors import EXIT_FINISHED, ConfigError, RunError
from segtrain.run.layout import run_folders
from segtrain.run.reader import RunReader, refuse_private
from segtrain.runtime.process import start_logging
from segtrain.tracking import TRACKERS, Destination, send_run
from segtrain.tracking.record import is_run
from segtrain.tracking.tracker import PROJECT

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain track runs --to wandb                       # all runs in the folder, and what is new of them the next time
  segtrain track runs/lgg --to mlflow --uri sqlite:///mlflow.db
  segtrain track runs/lgg --to swanlab --offline       # files, which swanlab sync sends from elsewhere

Sent are the settings, all events, the best and the evaluated scores with n and interval, the state and versions; no
patient's name, picture or weights. Run it while runs train, after they were preempted, or when they are at home, as
often as you like: what was sent is not sent again, and a run that goes on goes on in the same tracked run.
Keys are those of wandb login, swanlab login and MLflow's variables; segtrain writes none of them.
"""


def command(argv: Sequence[str]) -> int:
    """Send the runs. A run that cannot be read is told at the end: the others are sent."""
    arguments = parser().parse_intermixed_args(list(argv))
    start_logging()
    if arguments.to == "mlflow" and (arguments.offline or arguments.dir):
        option = "--offline" if arguments.offline else "--dir"
        raise ConfigError(f"{option}: MLflow writes where --uri says, as sqlite:///mlflow.db; leave {option} out")
    if arguments.to != "mlflow" and arguments.uri:
        raise ConfigError(f"--uri {arguments.uri}: is for --to mlflow; leave it out")
    if not arguments.project.strip():
        raise ConfigError("--project: is empty; give it a name")
    runs = list(_runs(arguments.runs))
    tracker = TRACKERS[arguments.to](
        Destination(arguments.project, arguments.uri, arguments.offline, arguments.dir),
    )
    failures: list[RunError] = []
    for root in runs:
        try:
            tracked = send_run(RunReader(root), tracker, arguments.again)
        except RunError as error:
            failures.append(error)
            log.warning("%s: not sent: %s", root, error)
        except OSError as error:
            failures.append(RunError(f"{root}: cannot be read ({error.strerror}); mend that, and track it again"))
            log.warning("%s", failures[-1])
        else:
            new = f"{tracked.points} new events, {tracked.where}" if tracked.where else "nothing new"
            log.info("%s: %s", root, new)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise RunError(f"{len(failures)} of {len(runs)} runs were not sent, the first: {failures[0]}")
    return EXIT_FINISHED


def _runs(paths: Sequence[Path]) -> Iterator[Path]:
    """The runs that are named, and those in the folders that are. Raises RunError: neither."""
    for path in paths:
        refuse_private(path)
        if is_run(path):
            yield path
        elif path.is_dir() and (roots := sorted(run_folders(path))):
            yield from roots
        else:
            raise RunError(f"{path}: holds no run; name the folder of a run, or of runs")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        "segtrain track",
        description="Send runs to a tracker of experiments, from their files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="or a folder of runs")
    add(
        "--to",
        choices=TRACKERS,
        required=True,
        help="which tracker; its package has to be installed: pip install wandb, mlflow or swanlab",
    )
    add("--project", default=PROJECT, metavar="NAME", help=f"the tracker's project or experiment (default: {PROJECT})")
    add("--uri", metavar="URI", help="MLflow's store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here)")
    add("--offline", action="store_true", help="wandb, swanlab: write files here, to be sent by their own sync")
    add("--dir", type=Path, metavar="DIR", help="wandb, swanlab: where their files go (default: wandb or swanlog here)")
    add("--again", action="store_true", help="send all once more, as after the tracked run was deleted")
    return parser
