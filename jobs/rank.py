"""What torchrun starts for a job: `segtrain.train`; writes down exit code and last words, which torchrun loses.

rank-<r> in the start's folder: the code, and below it the message, as far as there was one.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from segtrain.commands.train import command
from segtrain.errors import SegtrainError
from segtrain.runtime.launcher import env_int, leave
from segtrain.runtime.process import run_command

CODES = "SEGTRAIN_CODES"  # the folder for rank-<r>


def main(argv: Sequence[str]) -> int:
    """Train; the exit code, which is written down."""
    words = ""

    def training(argv: Sequence[str]) -> int:
        nonlocal words
        try:
            return command(argv)
        except SegtrainError as error:
            words = str(error)
            raise

    code = run_command(training, argv)
    if folder := os.environ.get(CODES):
        Path(folder, f"rank-{env_int('RANK', 0)}").write_text(f"{code}\n{words}")
    return code


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
