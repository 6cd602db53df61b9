"""torchrun on one node of a job: an ordinary stop leaves no traceback of it, a rank that was killed leaves its name.

dead-<host> in the start's folder holds the ranks of this node that a signal killed, as JSON: [[rank, signal], ...].
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.rank import START_FOLDER
from segtrain.errors import EXIT_FINISHED
from segtrain.runtime import files
from segtrain.runtime.launcher import signal_when_parent_dies
from segtrain.runtime.outbox import patiently
from segtrain.runtime.torchrun import EXPLAINED, FAILED, launch

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(argv: Sequence[str]) -> int:
    """Run torchrun; its exit code. Raises ChildFailedError where a rank ended without saying why."""
    signal_when_parent_dies(signal.SIGTERM)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch(argv)
    except SignalException:
        return FAILED
    except ChildFailedError as error:
        _write_down_the_dead(error)
        if any(failure.exitcode in EXPLAINED for failure in error.failures.values()):
            return FAILED
        raise
    return EXIT_FINISHED


def _write_down_the_dead(error: "ChildFailedError") -> None:
    """torchrun itself ends the other ranks by SIGTERM."""
    dead = [
        (rank, failure.signal_name())
        for rank, failure in sorted(error.failures.items())
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    ]
    if dead and (folder := os.environ.get(START_FOLDER)):
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        file = Path(folder, f"dead-{host}")
        patiently(file, partial(files.write_json, file, dead))


def dead_ranks(folder: Path) -> list[str]:
    """The ranks that a signal killed in the start with that folder, in words."""
    dead = [
        (rank, name, file.name.removeprefix("dead-"))
        for file in folder.glob("dead-*")
        for rank, name in json.loads(file.read_text(encoding="utf-8"))
    ]
    return [f"rank {rank} on {node} was killed by {name}" for rank, name, node in sorted(dead)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
