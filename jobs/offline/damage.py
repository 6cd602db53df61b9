"""What of a run is damaged or lost, here or in its mirror, and what the run can do without."""

import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from segtrain.errors import DAMAGED
from segtrain.run import Run, layout, manifest
from segtrain.text_file import text_of


def checkpoint_of(name: str) -> str:
    """The folder of the checkpoint that a file of a run belongs to, step-00001000; empty for any other file."""
    parts = PurePosixPath(name).parts
    is_of_checkpoint = len(parts) == 3 and parts[0] == layout.CHECKPOINTS and layout.step_of(parts[1]) is not None
    return parts[1] if is_of_checkpoint else ""


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint here is what was written."""
    try:
        listed = manifest.read_manifest(checkpoint)
        return all(manifest.fingerprint(checkpoint / name) == listed[name] for name in listed)
    except DAMAGED:
        return False


def damaged_checkpoints(folder: Path, mirrored: Collection[str]) -> set[str]:
    """The checkpoints of a run here that are not what was written. `mirrored`: the files that its mirror has.

    Where neither side knows what was written, a checkpoint is taken as it is.
    """
    damaged = set()
    for checkpoint in map(Run(folder).checkpoint, Run(folder).saved_steps()):
        about = checkpoint / layout.MANIFEST
        can_tell = about.exists() or about.relative_to(folder).as_posix() in mirrored
        if can_tell and not is_whole(checkpoint):
            damaged.add(checkpoint.name)
    return damaged


def without_the_lost(run: Run, lost: Collection[str]) -> str:
    """Take out of a fetched run what it cannot use since files are `lost`, so that training goes on from what is left.

    Checkpoints that are not whole, with the best one all after it, since only training on from before it makes it
    again. Returns why the run cannot be used at all; "" if it can.
    """
    if vital := sorted(name for name in lost if _is_vital(run, run.root / name)):
        return f"{vital[0]} is lost"
    steps = {layout.step_of(checkpoint_of(name)) or 0 for name in lost if checkpoint_of(name)}
    if not steps:
        return ""
    best = layout.step_of(_name_in(run.best_pointer))
    if best in steps:
        steps |= {step for step in run.saved_steps() if step > best}
    newest = run.saved_step()
    for step in steps:
        shutil.rmtree(run.checkpoint(step), ignore_errors=True)
    for pointer in (run.best_pointer, run.latest_pointer):
        name = _name_in(pointer)
        if layout.step_of(name) is None or not (run.checkpoints / name).exists():
            pointer.unlink(missing_ok=True)
    if run.saved_step() < newest:  # there is something left to train
        run.outcome_file.unlink(missing_ok=True)
    return "" if run.saved_steps() else "no checkpoint of it is whole"


def _name_in(pointer: Path) -> str:
    try:
        return text_of(pointer).strip()
    except (OSError, ValueError):
        return ""


def _is_vital(run: Run, file: Path) -> bool:
    """Whether a run without this file is not the run that it was: going on does not make the file again."""
    is_table = file.parent == run.validation and file.suffix == ".csv"
    if is_table or run.code in file.parents:
        return True
    return file in (run.config_file, run.split_file, run.metrics, run.best_pointer)
