"""The run directory, a public interface (DESIGN 5): `run_files` and this file alone know the names in it.

runs/<name>/
  config.yaml        resolved, loadable; opens with the command that made it
  environment.json   versions, devices, world size, git commit, one entry a start
  split.json         patients per side, hash
  deepspeed.json     what DeepSpeed is told, with engine=deepspeed
  metrics.jsonl      one event a line; the curves are derived from it
  tensorboard/       loss, val_loss, val_dsc, lr, images/s, memory, overlays
  checkpoints/       step-00001000/, LATEST, BEST
  validation/        epoch-0012.csv and .png
  evaluation/        <patients>-<checkpoint>/scores.csv and summary.json, by `segtrain evaluate`
  memory.json        the micro-batch to go on with, where a start was out of memory and could not go on itself
  ranks/             what each rank uses, where it stands; its stacks when it stalls
  outcome.json       finished | stopped | diverged | failed; step, reason, best DSC
  log.txt            what the terminal showed; other ranks' warnings too
  STOP               `touch` it: all ranks save and leave
"""

import csv
import fcntl
import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import Config, first_difference, to_yaml
from segtrain.errors import DAMAGED, ConfigError, RunError
from segtrain.run.environment import environment
from segtrain.run.events import EvaluationEvent, Event, TrainEvent, to_line
from segtrain.run.outcome import Outcome
from segtrain.run.reader import RunFiles
from segtrain.runtime import files

log = logging.getLogger(__name__)


def write_evaluation(folder: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """scores.csv and summary.json. Raises RunError when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / "scores.csv", files.csv_text(rows))
        files.write_json(folder / "summary.json", summary)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from error


@dataclass(frozen=True)
class Run(RunFiles):
    """One run's directory, to be trained in; making the object touches nothing."""

    def finished(self, cfg: Config) -> Outcome | None:
        """The outcome of a run of this config that has come to its end; None when there is something to do.

        Changes nothing. Raises RunError when the directory holds no run, or a run of another config.
        """
        begun = (self.root / "config.yaml", self.metrics, *self.checkpoints.glob("*step-*"))
        if not self.root.exists() or not (any(file.exists() for file in begun) or self._strangers()):
            return None
        fresh = "--fresh starts over and keeps what is there beside it"
        try:
            theirs, outcome = self.config(), self.outcome()
        except (*DAMAGED, yaml.YAMLError, ConfigError) as error:
            raise RunError(f"{self.root}: holds no readable run ({' '.join(str(error).split())}); {fresh}") from error
        if different := first_difference(cfg, theirs):
            key, ours, other = different
            raise RunError(f"{self.root}: this run has {key}={other}, not {ours}; choose another name=..., or {fresh}")
        return outcome if outcome and outcome.state == "finished" and outcome.epochs >= cfg.train.epochs else None

    def _strangers(self) -> list[Path]:
        """What lies in the directory and is not what `open` makes first."""
        ours = {self.tensorboard, self.checkpoints, self.validation_table(0).parent, self.root / "split.json"}
        return [path for path in self.root.iterdir() if path not in ours and not path.name.startswith(".")]

    def open(
        self, cfg: Config, split: Mapping[str, Any], arguments: Sequence[str], fresh: bool, world_size: int, device: str
    ) -> None:
        """Make the directory, or go on in the one that is there; with `fresh` that is moved aside.

        Raises RunError when another process trains in it, when it cannot be written, or when the run that is there has
        another split.
        """
        self._lock()
        if fresh and self.root.exists():
            kept = next(p for n in range(1, 10_000) if not (p := self.root.with_name(f"{self.root.name}.{n}")).exists())
            self.root.rename(kept)
            log.info("the earlier run is kept as %s", kept)
        try:
            for folder in (self.tensorboard, self.checkpoints, self.validation_table(0).parent):
                folder.mkdir(parents=True, exist_ok=True)
            self._keep_split(split)
            command = shlex.join(["python", "-m", "segtrain.train", *arguments])
            files.write_text(self.root / "config.yaml", f"# {command}\n{to_yaml(cfg)}")
        except OSError as error:
            raise RunError(
                f"{self.root}: cannot be written ({error.strerror}); set runs_dir to another folder"
            ) from error
        starts = self.root / "environment.json"
        earlier = json.loads(starts.read_text()) if starts.exists() else []
        files.write_json(starts, [*earlier, environment(world_size, device)])
        self._outcome.unlink(missing_ok=True)

    def _lock(self) -> None:
        """Hold the run for this process until it ends, however it ends."""
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{self.root}: another process trains in it; wait for it, or choose another name=..."
            ) from error
        except OSError as error:
            raise RunError(
                f"{self.root}: cannot be written ({error.strerror}); set runs_dir to another folder"
            ) from error

    def _keep_split(self, split: Mapping[str, Any]) -> None:
        file, ours = self.root / "split.json", str(split["hash"])
        if file.exists() and (theirs := json.loads(file.read_text())["hash"]) != ours:
            raise RunError(
                f"{file}: this run was split otherwise ({theirs[:12]}) than the data is now ({ours[:12]}); "
                "bring the patients back, or --fresh starts over"
            )
        files.write_json(file, split)

    def rewind(self, step: int, epoch: int) -> tuple[list[Event], bool]:
        """Forget what was written after `step`, at which `epoch` epochs were evaluated.

        Returns the events that stay, and whether there was an evaluation at `step` itself: that is done again.
        """
        events, evaluated_here = [], False
        for event in self.events():
            if event.step < step or (event.step == step and isinstance(event, TrainEvent)):
                events.append(event)
            evaluated_here |= event.step == step and isinstance(event, EvaluationEvent)
        files.write_text(self.metrics, "".join(map(to_line, events)))
        for file in self.validation_table(0).parent.glob("epoch-*"):
            if int(file.stem.removeprefix("epoch-").split(".")[0]) > epoch:
                file.unlink()
        return events, evaluated_here

    def begun_by(self, job: str | None) -> bool:
        """Whether this job, at an earlier start, began or went on with the run."""
        return job is not None and any(start.get("job") == job for start in self.starts())

    def record(self, event: Event) -> None:
        """Append an event to metrics.jsonl."""
        line = to_line(event)
        with self.metrics.open("a") as file:
            file.write(line)

    def write_scores(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """The per-patient table of an epoch's evaluation."""
        tmp = self.validation_table(epoch).with_suffix(".tmp")
        with tmp.open("w", newline="") as file:
            table = csv.DictWriter(file, fieldnames=list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        tmp.replace(self.validation_table(epoch))

    def write_engine_settings(self, engine: str, settings: Mapping[str, Any]) -> None:
        """What the engine's library is told, in its own words."""
        files.write_json(self.root / f"{engine}.json", settings)

    def remember_shortage(self, found: Mapping[str, Any]) -> None:
        """Leave to the next start with which micro-batch to go on."""
        files.write_json(self.memory_file, found)

    def write_picture(self, epoch: int, picture_hwc: NDArray[np.uint8]) -> None:
        """The overlays of an epoch's evaluation, uint8 [height, width, 3]."""
        tmp = self.validation_picture(epoch).with_suffix(".tmp")
        Image.fromarray(picture_hwc).save(tmp, format="PNG", optimize=True)
        tmp.replace(self.validation_picture(epoch))

    def end(self, outcome: Outcome) -> None:
        """Write outcome.json."""
        files.write_json(self._outcome, outcome.to_json())
