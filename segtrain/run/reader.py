"""The content of a run directory, read. Nothing here changes a run."""

import csv
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segtrain.config import Config, from_tree
from segtrain.errors import DAMAGED, RunError
from segtrain.run.environment import Environment
from segtrain.run.events import Event, from_lines
from segtrain.run.layout import RunLayout, step_of
from segtrain.run.outcome import Outcome, outcome_from_json
from segtrain.run.result import Result, result_of
from segtrain.runtime import files, lock

log = logging.getLogger(__name__)


def refuse_private(folder: Path) -> None:
    """Raises RunError for a folder that is there and that this user may not read."""
    try:
        is_private = folder.is_dir() and not files.may_enter(folder)
    except PermissionError:
        is_private = True
    if is_private:
        raise RunError(f"{folder}: private: {files.barrier(folder)}; ask for its rights, or name another folder")


@dataclass(frozen=True)
class RunReader(RunLayout):
    """One run, to be read; making the object touches nothing."""

    def events(self) -> list[Event]:
        """Everything that was recorded, without a line that is only half there."""
        return from_lines(self.metrics.read_text(encoding="utf-8").splitlines()) if self.metrics.exists() else []

    def result(self) -> Result:
        """What the run has achieved so far. A run that cannot be read is no reason to lose the results of others."""
        if not self.root.exists():
            return Result("none")
        try:
            return result_of(self.outcome(), self.events())
        except DAMAGED as error:
            log.warning("%s: cannot be read (%s: %s)", self.root, type(error).__name__, error)
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

    def pointed_checkpoints(self) -> set[str]:
        """The names of the best and of the latest checkpoint, as far as there are pointers to them."""
        pointers = [pointer for pointer in (self.best_pointer, self.latest_pointer) if pointer.exists()]
        return {pointer.read_text(encoding="utf-8").strip() for pointer in pointers}

    def config_tree(self) -> dict[str, Any]:
        """The content of config.yaml. Raises RunError when this is no run."""
        refuse_private(self.root)
        try:
            tree = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
            return dict(tree)
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{self.root}: holds no readable run ({reason}); name the folder of a run") from error

    def config(self) -> Config:
        """The config of the training. Raises OSError, YAMLError or ConfigError when it cannot be read."""
        tree = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        return from_tree(tree, where=str(self.root), stored=True)

    def split(self) -> dict[str, list[str]]:
        """The patients of each side, `train` and `validation`. Raises RunError."""
        with self._readable_split() as tree:
            return {side: [str(patient) for patient in tree[side]] for side in ("train", "validation")}

    def people(self) -> dict[str, str]:
        """The person of each patient who is not the person's only one; empty in a run from before there were groups.

        Raises RunError.
        """
        with self._readable_split() as tree:
            return {str(patient): str(person) for patient, person in tree.get("people", {}).items()}

    def split_version(self) -> int | None:
        """The definition that its split follows; None for one from before there were versions. Raises RunError."""
        with self._readable_split() as tree:
            return None if tree.get("version") is None else int(tree["version"])

    @contextmanager
    def _readable_split(self) -> Iterator[dict[str, Any]]:
        """The content of split.json; what is wrong with it is a RunError in the block."""
        try:
            yield json.loads(self.split_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{self.split_file}: cannot be read ({error}); restore the file") from error

    def scores(self, epoch: int) -> list[dict[str, str]]:
        """The table of an epoch's evaluation: a row a patient, or a patient and region where there are several."""
        with self.validation_table(epoch).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def outcome(self) -> Outcome | None:
        """How the last start ended; None before the first and during one. Raises one of DAMAGED."""
        if not self.outcome_file.exists():
            return None
        return outcome_from_json(json.loads(self.outcome_file.read_text(encoding="utf-8")))

    def starts(self) -> list[Environment]:
        """The environment of each start; none before the first, and where the file is no JSON.

        A damaged entry is an empty environment. Raises TypeError when all are damaged.
        """
        try:
            entries = list(json.loads(self.environment_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return []
        if entries and not any(isinstance(entry, dict) for entry in entries):
            raise TypeError(f"{self.environment_file.name} has no entry that can be read")
        return [Environment.from_json(entry if isinstance(entry, dict) else {}) for entry in entries]

    def out_of_memory(self) -> dict[str, Any] | None:
        """The micro-batch for the next start, left by a start that ran out of memory; None if there was none."""
        try:
            return dict(json.loads(self.out_of_memory_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def busy(self) -> bool:
        """Whether a process trains this run, as far as this machine can see.

        Not for polling: the shared lock that is tried here would make a training refuse to start at that moment.
        """
        return lock.is_taken(self.lock_file)
