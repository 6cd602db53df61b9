"""What torchrun starts for a job: `segtrain.train`, whose exit code is written down, since torchrun flattens it."""

import os
import sys
from pathlib import Path

from segtrain.launch import env_int
from segtrain.train import main

CODES = "SEGTRAIN_CODES"  # the folder for rank-<r>


def _main() -> int:
    code = main()
    if folder := os.environ.get(CODES):
        Path(folder, f"rank-{env_int('RANK', 0)}").write_text(str(code))
    return code


if __name__ == "__main__":
    sys.exit(_main())
