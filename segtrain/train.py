"""The entry `python -m segtrain.train`, for torchrun."""

import sys
from collections.abc import Sequence

from segtrain.commands.train import command
from segtrain.runtime.launcher import leave
from segtrain.runtime.process import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of training by the command line that is given, or by this process's."""
    return run_command(command, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
