"""How the commands of this package are called."""

import sys
from collections.abc import Callable, Sequence

from segtrain.runtime.process import run_command, start_logging


def main(command: Callable[[Sequence[str]], int]) -> int:
    """The exit code of the command on this process's arguments; a user's error is one line on standard error."""
    start_logging()
    return run_command(command, sys.argv[1:])
