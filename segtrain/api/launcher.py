"""The launcher of a training that Python started with several ranks: torchrun's, and it ends with that process.

python -m segtrain.api.launcher PARENT --nproc-per-node=2 -m segtrain.api.rank FOLDER
"""

import signal
import sys
from collections.abc import Sequence

from segtrain.runtime import torchrun
from segtrain.runtime.launcher import signal_when_parent_dies
from segtrain.runtime.process import run_command


def main(argv: Sequence[str]) -> int:
    """The exit code of the rank that ended it."""
    parent, *options = argv
    signal_when_parent_dies(signal.SIGTERM, int(parent))
    return torchrun.main(options)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
