"""The start sequence, dry, for the runs of an ablation, before the first of them is trained.

A process of its own, since it imports torch: `python -m segtrain.training.preflight FOLDER RANKS OUT PARENT` reads a
config a run in FOLDER and writes the runs that cannot be trained here, each with its reason, to the JSON file OUT. It
ends with the process PARENT, which started it.
"""

import signal
import sys
from pathlib import Path

from segtrain.config import load_config
from segtrain.errors import SegtrainError
from segtrain.runtime import files
from segtrain.runtime.launcher import signal_when_parent_dies
from segtrain.runtime.process import start_logging


def main(folder: str, ranks: str, out: str, parent: str) -> int:
    """Check all configs of the folder."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # it has nothing to save
    signal_when_parent_dies(signal.SIGTERM, int(parent))
    start_logging()
    from segtrain.training.start import Rehearsal  # imports torch: seconds

    rehearsal = Rehearsal(int(ranks))
    problems = {}
    for file in sorted(Path(folder).glob("*.yaml")):
        try:
            rehearsal.check(load_config(file))
        except SegtrainError as error:
            problems[file.name.removesuffix(".yaml")] = str(error)
    files.write_json(Path(out), problems)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
