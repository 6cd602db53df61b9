"""Scores that `segtrain evaluate` wrote into a run: of which checkpoint they have to be, and the command for them."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from segtrain.report.collect import Collected

LAST = "validation-last"  # the folder whose scores are compared across image sizes
# The folder of a checkpoint that the run may leave behind; that of a step stays what it was.
NAME = re.compile(r"(?P<split>.+)-(?P<checkpoint>last|best)(?P<postprocessed>-postprocessed)?")
SPLITS = {"validation": "", "train": " --split train --include-training", "all": " --split all --include-training"}


def is_current(run: Collected, folder: str, summary: Mapping[str, Any]) -> bool:
    """Whether scores are of the checkpoint that their folder's name says, as the run is by now.

    Raises KeyError or TypeError: the summary does not say of which they are.
    """
    if not (name := NAME.fullmatch(folder)):
        return True
    scored = run.last if name["checkpoint"] == "last" else run.best
    checkpoints = [one["checkpoint"] for one in summary["runs"]]
    return scored is not None and checkpoints == [run.run.checkpoint(scored.step).name]


def command(run: Collected, folder: str) -> str:
    """The line for a shell that writes the scores of a folder that NAME takes, with the settings that it stands for."""
    name = NAME.fullmatch(folder)
    assert name is not None, "a folder of another name has its scores for good"
    split = SPLITS.get(name["split"], " --split FILE")
    source = "chosen" if name["postprocessed"] else "configured"
    root = shlex.quote(str(run.run.root))
    return f"segtrain evaluate {root} --checkpoint {name['checkpoint']}{split} --postprocessing {source}"
