"""The content of a run directory, read. Nothing here changes a run."""

import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segtrain.config import Config, from_tree
from segtrain.config.yaml_text import parse_yaml
from segtrain.errors import DAMAGED, DamagedFile, RunError
from segtrain.run.environment import Environment
from segtrain.run.events import Event
from segtrain.run.layout import BEGIN, END, RunLayout, step_of
from segtrain.run.milestones import Milestones, events_in, milestones_in
from segtrain.run.outcome import Outcome, outcome_from_json
from segtrain.run.result import Result, result_of
from segtrain.run.split import RunSplit
from segtrain.run.stored import built, reading, shown, table_in, tree_in
from segtrain.runtime import files, lock
from segtrain.text_file import text_of

log = logging.getLogger(__name__)

LONGEST_CONFIG = 2**20  # bytes; reading a MiB of YAML takes half a minute
_SECTION = re.compile(r"^train:.*\n(?:[ #].*\n|\n)*", re.MULTILINE)  # of config.yaml


def refuse_private(folder: Path) -> None:
    """Raises RunError for a folder that is there and that this user may not read."""
    try:
        is_private = folder.is_dir() and not files.may_enter(folder)
    except PermissionError:
        is_private = True
    if is_private:
        raise RunError(f"{folder}: private: {files.barrier(folder)}; ask for its rights, or name another folder")


@dataclass(frozen=True)
class _MicroBatch:
    """The content of memory.json."""

    micro_batch: int
    asked: int | str | None
    device: str
    why: str
    time: float


@dataclass(frozen=True)
class RunReader(RunLayout):
    """One run, to be read; making the object touches nothing."""

    def events(self) -> list[Event]:
        """Everything that was recorded, without a line that is only half there. Raises DamagedFile; OSError."""
        return events_in(self.metrics) if os.path.lexists(self.metrics) else []

    def milestones(self) -> Milestones:
        """The events that say how far the run has come. Raises DamagedFile; OSError."""
        return milestones_in(self.metrics) if os.path.lexists(self.metrics) else Milestones()

    def result(self) -> Result:
        """What the run has achieved so far. A run that cannot be read is no reason to lose the results of others."""
        if not self.root.exists():
            return Result("none")
        try:
            return result_of(self.outcome(), self.milestones())
        except DAMAGED as error:
            log.warning("%s: cannot be read (%s)", self.root, error)
            return Result("unreadable")

    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints, whole or not, in order.

        Folders with other names than training gives are ignored, for example a copy made by hand.
        """
        folders = (folder for folder in self.checkpoints.glob("step-*") if folder.is_dir())
        return sorted(step for folder in folders if (step := step_of(folder.name)) is not None)

    def saved_step(self) -> int:
        """The step of the newest checkpoint, whole or not; 0 before the first."""
        return max(self.saved_steps(), default=0)

    def best_checkpoint(self) -> str | None:
        """The name of the checkpoint with the best evaluation, which BEST says; None where there is none.

        Where BEST is lost or damaged, or names nothing that is there, the events say it.
        """
        if name := self._pointed(self.best_pointer):
            return name
        try:
            evaluation = self.milestones().best
        except DAMAGED:
            return None
        best = self.checkpoint(evaluation.step) if evaluation else None
        return best.name if best and best.is_dir() else None

    def latest_checkpoint(self) -> str | None:
        """The name of the checkpoint that LATEST says, of the newest where that is lost; None where there is none."""
        steps = self.saved_steps()
        return self._pointed(self.latest_pointer) or (self.checkpoint(steps[-1]).name if steps else None)

    def pointed_checkpoints(self) -> set[str]:
        """The names of the best and of the latest checkpoint, as far as there are any."""
        return {name for name in (self.best_checkpoint(), self.latest_checkpoint()) if name}

    def _pointed(self, pointer: Path) -> str | None:
        """The name in a pointer, if a checkpoint of that name is there."""
        try:
            name = text_of(pointer).strip()
            return name if step_of(name) is not None and (self.checkpoints / name).is_dir() else None
        except (OSError, ValueError):
            return None

    def config_tree(self) -> dict[str, Any]:
        """The content of config.yaml. Raises RunError when this is no run."""
        refuse_private(self.root)
        try:
            return self._stored_config()
        except (OSError, DamagedFile) as error:
            raise RunError(f"{self.root}: holds no readable run ({error}); name the folder of a run") from error

    def planned_epochs(self) -> int | None:
        """The `train.epochs` of config.yaml; None where it does not say.

        Read from that section alone where it can be: who shows hundreds of runs would wait for YAML most of the time.
        """
        try:
            section = _SECTION.search(text_of(self.config_file, LONGEST_CONFIG))
            tree = parse_yaml(section[0]) if section else {}
        except (OSError, ValueError, yaml.YAMLError):
            tree = {}
        with suppress(RunError, ValueError, LookupError, TypeError, OverflowError):
            return int((tree if tree else self.config_tree())["train"]["epochs"])
        return None

    def config(self) -> Config:
        """The config of the training. Raises DamagedFile; OSError; ConfigError: not one of this version."""
        return from_tree(self._stored_config(), where=str(self.root), stored=True)

    def _stored_config(self) -> dict[str, Any]:
        with reading(self.config_file):
            try:
                text = text_of(self.config_file, LONGEST_CONFIG)
                tree = parse_yaml(text)
            except yaml.YAMLError as error:
                raise ValueError(f"not YAML: {error}") from error
            if f"\n{BEGIN}" in text and not f"{text.rstrip()}\n".endswith(f"\n{END}"):
                raise ValueError(f"it is cut off: its last line is not {END.strip()}")
            if not isinstance(tree, dict):
                raise ValueError(f"it holds {shown(tree)}, not a mapping")
            return tree

    def split(self) -> dict[str, list[str]]:
        """The patients of each side, `train` and `validation`. Raises RunError."""
        split = self.split_record()
        return {"train": list(split.train), "validation": list(split.validation)}

    def split_record(self) -> RunSplit:
        """All that split.json says. Raises RunError."""
        remedy = "restore the file from a copy of the run"
        try:
            with reading(self.split_file, remedy):
                return RunSplit.from_json(tree_in(self.split_file, dict, remedy))
        except OSError as error:
            raise RunError(f"{self.split_file}: cannot be read ({error.strerror}); restore the file") from error

    def scores(self, epoch: int) -> list[dict[str, str]]:
        """The table of an epoch's evaluation: a row a patient, or a patient and region where there are several.

        Raises DamagedFile; OSError.
        """
        return table_in(self.validation_table(epoch))

    def outcome(self) -> Outcome | None:
        """How the last start ended; None before the first and during one. Raises DamagedFile; OSError."""
        if not os.path.lexists(self.outcome_file):
            return None
        with reading(self.outcome_file):
            return outcome_from_json(tree_in(self.outcome_file, dict))

    def starts(self) -> list[Environment]:
        """The environment of each start; none before the first. Raises DamagedFile; OSError.

        An entry that is no mapping is an empty environment.
        """
        if not os.path.lexists(self.environment_file):
            return []
        with reading(self.environment_file):
            entries = tree_in(self.environment_file, list)
            if entries and not any(isinstance(entry, dict) for entry in entries):
                raise ValueError("it has no entry that can be read")
            return [Environment.from_json(entry if isinstance(entry, dict) else {}) for entry in entries]

    def known_starts(self) -> list[Environment]:
        """The same for those who can go on without; none where they cannot be read."""
        try:
            return self.starts()
        except DAMAGED:
            return []

    def out_of_memory(self) -> dict[str, Any] | None:
        """The micro-batch for the next start, left by a start that ran out of memory; None if there was none.

        One that is damaged is found again by trying.
        """
        try:
            with reading(self.out_of_memory_file, "the micro-batch is found again"):
                tree = tree_in(self.out_of_memory_file, dict, "the micro-batch is found again")
                if built(_MicroBatch, tree).micro_batch < 1:
                    raise ValueError(f"micro_batch is {tree['micro_batch']}")
                return tree
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            log.warning("%s", error)
            return None

    def busy(self) -> bool:
        """Whether a process trains this run, as far as this machine can see.

        Not for polling: the shared lock that is tried here would make a training refuse to start at that moment.
        """
        return lock.is_taken(self.lock_file)
