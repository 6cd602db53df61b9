"""The folder of a run's checkpoint, as a command line names it."""

from pathlib import Path

from segtrain.errors import ConfigError, RunError
from segtrain.run import Run


def checkpoint_folder(run: Run, which: str) -> Path:
    """The folder of the checkpoint `best`, `last` or of a step. Raises ConfigError; RunError when it is not there."""
    if which in ("best", "last"):
        name = run.best_checkpoint() if which == "best" else run.latest_checkpoint()
        if name is None:
            steps = ", ".join(map(str, run.saved_steps()))
            raise RunError(
                f"{run.root}: has no {which} checkpoint; train it, or name a step with --checkpoint: there are "
                f"{steps or '(none)'}"
            )
        folder = run.checkpoints / name
    elif which.isdecimal():
        folder = run.checkpoint(int(which))
    else:
        raise ConfigError(f"--checkpoint {which}: not best, last or the number of a step; give one of these")
    if not folder.is_dir():
        steps = ", ".join(map(str, run.saved_steps()))
        raise RunError(f"{folder}: no such checkpoint; there are those of steps {steps or '(none)'}")
    return folder
