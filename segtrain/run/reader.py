"""The names in a run directory, and what it holds, read. See `run` for the directory as a whole.

Nothing here changes a run.
"""

import csv
import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segtrain.config import Config, from_tree
from segtrain.errors import RunError
from segtrain.run.events import Event, best_of, evaluations, from_lines
from segtrain.run.outcome import Outcome, outcome_from_json


@dataclass(frozen=True)
class RunFiles:
    """One run's directory, to be looked at; making the object touches nothing."""

    root: Path

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best_pointer(self) -> Path:
        return self.checkpoints / "BEST"

    @property
    def latest_pointer(self) -> Path:
        return self.checkpoints / "LATEST"

    @property
    def stop_file(self) -> Path:
        return self.root / "STOP"

    @property
    def log_file(self) -> Path:
        return self.root / "log.txt"

    @property
    def lock_file(self) -> Path:
        return self.root.with_name(f".{self.root.name}.lock")

    @property
    def memory_file(self) -> Path:
        """The micro-batch that a start that was out of memory leaves to the next."""
        return self.root / "memory.json"

    @property
    def ranks(self) -> Path:
        return self.root / "ranks"

    def rank_state(self, rank: int) -> Path:
        """What a rank says of itself while it trains."""
        return self.ranks / f"{rank}.json"

    def rank_stacks(self, rank: int) -> Path:
        """Where it stood when it made no progress."""
        return self.ranks / f"{rank}.stacks"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"

    def saved_step(self) -> int:
        """The step of the newest checkpoint, whole or not; 0 before the first."""
        return max((int(folder.name.removeprefix("step-")) for folder in self.checkpoints.glob("step-*")), default=0)

    def evaluation(self, patients: str, checkpoint: str) -> Path:
        """Where `segtrain evaluate` puts its scores."""
        return self.root / "evaluation" / f"{patients}-{checkpoint}"

    def validation_table(self, epoch: int) -> Path:
        return self.root / "validation" / f"epoch-{epoch:04d}.csv"

    def validation_picture(self, epoch: int) -> Path:
        return self.validation_table(epoch).with_suffix(".png")

    def events(self) -> list[Event]:
        """What was recorded, without a line that is only half there."""
        return from_lines(self.metrics.read_text().splitlines()) if self.metrics.exists() else []

    def result(self) -> dict[str, Any]:
        """What the run has come to: state (`none` before it began, `running` before it ended), epochs, best and last
        mean DSC over `n` validation patients, hours from its first to its last event."""
        found: dict[str, Any] = {"state": "running" if self.root.exists() else "none"}
        if outcome := self.outcome():
            found |= {
                "state": outcome.state,
                "step": outcome.step,
                "epochs": outcome.epochs,
                "best_dsc": outcome.best_dsc,
            }
        events = self.events()
        if scores := evaluations(events):
            best = best_of(scores)
            found |= {"best_epoch": best.epoch, "ci_low": best.ci_low, "ci_high": best.ci_high}
            found |= {"best_dsc": best.val_dsc, "last_dsc": scores[-1].val_dsc, "n": best.n}
            found |= {"hours": round((events[-1].time - events[0].time) / 3600, 4)}
        return found

    def config_tree(self) -> dict[str, Any]:
        """What config.yaml holds. Raises RunError when this is no run."""
        try:
            tree = yaml.safe_load((self.root / "config.yaml").read_text())
            return dict(tree)
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{self.root}: holds no readable run ({reason}); name the folder of a run") from error

    def split(self) -> dict[str, list[str]]:
        """The patients of each side, `train` and `validation`. Raises RunError."""
        try:
            tree = json.loads((self.root / "split.json").read_text())
            return {side: [str(patient) for patient in tree[side]] for side in ("train", "validation")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.root}: its split.json cannot be read ({error}); bring it back") from error

    def config(self) -> Config:
        """What it was trained with. Raises OSError, YAMLError or ConfigError when that cannot be read."""
        return from_tree(yaml.safe_load((self.root / "config.yaml").read_text()), where=str(self.root), stored=True)

    def scores(self, epoch: int) -> list[dict[str, str]]:
        """The per-patient table of an epoch's evaluation, as `write_scores` wrote it."""
        with self.validation_table(epoch).open(newline="") as file:
            return list(csv.DictReader(file))

    def outcome(self) -> Outcome | None:
        """How the last start ended; None before the first and while one goes on. Raises one of DAMAGED."""
        return outcome_from_json(json.loads(self._outcome.read_text())) if self._outcome.exists() else None

    def starts(self) -> list[dict[str, Any]]:
        """What environment.json says of each start; empty before the first."""
        try:
            return list(json.loads((self.root / "environment.json").read_text()))
        except (OSError, ValueError):
            return []

    def shortage(self) -> dict[str, Any] | None:
        """What a start that was out of memory left to the next, None if there was none."""
        try:
            return dict(json.loads(self.memory_file.read_text()))
        except (OSError, ValueError):
            return None

    def busy(self) -> bool:
        """Whether a process trains in it, as far as this machine can see; not for polling beside a start."""
        try:
            with self.lock_file.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def _outcome(self) -> Path:
        return self.root / "outcome.json"
