"""The entry `python -m segtrain.train`, for torchrun; called from Python, the function `segtrain.train`."""

import sys
from collections.abc import Sequence

from segtrain import CallableModule
from segtrain.__main__ import run
from segtrain.runtime.launcher import leave

sys.modules[__name__].__class__ = CallableModule


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of training by the command line that is given, or by this process's."""
    return run("train", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
