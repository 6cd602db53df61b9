"""A rank of a training that Python started: it reads the config from a folder, and leaves its error there."""

import signal
from collections.abc import Sequence
from pathlib import Path

from segtrain.api.ranks import CONFIG, leave_error, say_that_it_listens
from segtrain.config import load_config
from segtrain.errors import EXIT_FINISHED, SegtrainError
from segtrain.run import Run
from segtrain.runtime import process
from segtrain.runtime.launcher import env_int, follow_torchrun, leave
from segtrain.runtime.stop import Stop
from segtrain.training.rank import train


def command(argv: Sequence[str]) -> int:
    """Train on this rank; the exit code."""
    folder = Path(argv[0])
    stop = Stop()
    stop.listen()
    say_that_it_listens(folder)
    follow_torchrun(signal.SIGKILL)
    process.start_logging(rank=env_int("RANK", 0))
    try:
        cfg = load_config(folder / CONFIG)
        train(cfg, ["--config", str(Run.of(cfg).config_file)], "--fresh" in argv, stop)
    except SegtrainError as error:
        leave_error(folder, error)
        raise
    return EXIT_FINISHED


if __name__ == "__main__":
    leave(process.main(command))
