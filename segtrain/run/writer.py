"""A run directory to be trained in: opened under a lock, added to, rewound to a step."""

import csv
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from segtrain.config import Config, first_difference, to_yaml
from segtrain.errors import DAMAGED, ConfigError, LaunchError, RunError
from segtrain.run.code import copy_code
from segtrain.run.environment import Environment
from segtrain.run.events import EvaluationEvent, Event, TrainEvent, to_line
from segtrain.run.layout import epoch_of
from segtrain.run.outcome import Outcome
from segtrain.run.reader import RunReader, refuse_private
from segtrain.runtime import files, lock, machine
from segtrain.runtime.outbox import Appended

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

PROBE_BYTES = 4096
FRESH = "--fresh starts over and keeps the old run beside it"


@dataclass(frozen=True)
class Run(RunReader):
    """One run, to be trained; making the object touches nothing."""

    @classmethod
    def of(cls, cfg: Config) -> Self:
        """The run that a config describes."""
        return cls(Path(cfg.runs_dir).expanduser() / cfg.name)

    def finished(self, cfg: Config) -> Outcome | None:
        """The outcome of a finished run of this config; None when there is something left to train.

        Changes nothing. Raises RunError when the directory holds no run, or a run of another config.
        """
        try:
            refuse_private(self.root)
            if not self._has_begun():
                return None
        except OSError as error:
            raise self._not_usable(error) from error
        try:
            theirs, outcome = self.config(), self.outcome()
        except (*DAMAGED, yaml.YAMLError, ConfigError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise self._not_usable(error) from error
            raise RunError(f"{self.root}: holds no readable run ({' '.join(str(error).split())}); {FRESH}") from error
        if difference := first_difference(cfg, theirs):
            key, ours, other = difference
            if key.startswith("code."):
                raise RunError(self._changed_code(key.removeprefix("code."), ours, other))
            raise RunError(f"{self.root}: this run has {key}={other}, not {ours}; choose another name=..., or {FRESH}")
        return outcome if outcome and outcome.state == "finished" and outcome.epochs >= cfg.train.epochs else None

    def _changed_code(self, name: str, ours: str | None, theirs: str | None) -> str:
        """The message where a file of an own part is not the one that the run was begun with."""
        file = Path(name).name
        digests = f"its SHA-256 was {str(theirs)[:12]} and is {str(ours)[:12]}"
        if theirs is None or ours is None:
            digests = "it was not used before" if theirs is None else "it is not used any more"
        return (
            f"{self.root}: {file} is other code than this run was begun with ({digests}); the run's copy is "
            f"{self.code / name}: bring it back, or train the new code as another run with name=..., or {FRESH}"
        )

    def _has_begun(self) -> bool:
        """Whether the directory holds a run, or anything else but what `open` makes first and may have left alone."""
        traces = (self.config_file, self.metrics, *self.checkpoints.glob("*step-*"))
        if any(file.exists() for file in traces):
            return True
        made_first = {self.tensorboard, self.checkpoints, self.validation, self.split_file, self.code}
        return self.root.exists() and any(
            path not in made_first and not path.name.startswith(".") for path in self.root.iterdir()
        )

    def open(
        self, cfg: Config, split: Mapping[str, Any], arguments: Sequence[str], start: Environment, fresh: bool = False
    ) -> None:
        """Make the directory, or go on in the existing one; with `fresh` that is moved aside.

        `arguments` are those of the training command. The run is locked until this process ends. Raises RunError when
        another process trains it, when it cannot be written, or when it has another split.
        """
        with self.usable():
            self._lock()
            if fresh and self.root.exists():
                self._set_aside()
            for folder in (self.tensorboard, self.checkpoints, self.validation):
                files.make_folder(folder)
            self._write_split(split)
            words = shlex.join(["python", "-m", "segtrain.train", *arguments])
            # A comment is one line, and YAML takes no control characters in it.
            command = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
            copy_code(cfg, self.code)
            files.write_text(self.config_file, f"# {command}\n{to_yaml(cfg)}")
            earlier = []
            if self.environment_file.exists():
                earlier = json.loads(self.environment_file.read_text(encoding="utf-8"))
            files.write_json(self.environment_file, [*earlier, asdict(start)])
            self.log_file.touch()
            self.outcome_file.unlink(missing_ok=True)

    def refuse_unwritable(self) -> None:
        """Raise RunError where nothing can be written into the run's folder, or into what it will lie in.

        For before the work that comes before `open`. Leaves nothing behind.
        """
        with self.usable():
            folder = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.is_dir())
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Turns an OSError of the block, before the first step, into a RunError with folder and remedy."""
        try:
            yield
        except OSError as error:
            if limit := machine.shortage(error):
                raise LaunchError(limit) from error
            raise self._not_usable(error) from error

    def _lock(self) -> None:
        """Hold the run for this process until it ends, however it ends."""
        files.make_folder(self.root.parent)
        if lock.take(self.lock_file) is None:
            raise RunError(f"{self.root}: another process trains in it; wait for it to end, or choose another name=...")

    def _not_usable(self, error: OSError) -> RunError:
        return RunError(
            f"{self.root}: cannot be written ({error.strerror or error}{self._whose(error)}); mend that, or set "
            "runs_dir to another folder"
        )

    def _whose(self, error: OSError) -> str:
        """Whose the file or folder is that this user may not write; empty where rights are not the reason."""
        if not isinstance(error, PermissionError):
            return ""
        path = Path(error.filename or self.root)
        existing = next(part for part in (path, *path.parents) if os.path.lexists(part))
        return f": {existing} belongs to {files.owner_of(existing)}"

    def _set_aside(self) -> None:
        """Rename the directory to the first free of name.1, name.2, ..."""
        names = (self.root.with_name(f"{self.root.name}.{number}") for number in range(1, 10_000))
        aside = next(path for path in names if not path.exists())
        try:
            self.root.rename(aside)
        except OSError as error:
            raise RunError(
                f"{self.root}: cannot be moved aside ({error.strerror}{self._whose(error)}); choose another name=..."
            ) from error
        log.info("the earlier run is kept as %s", aside)

    def _write_split(self, split: Mapping[str, Any]) -> None:
        ours = str(split["hash"])
        if self.split_file.exists():
            theirs = json.loads(self.split_file.read_text(encoding="utf-8"))
            if theirs["hash"] != ours:
                remedy = "restore the patients"
                if theirs.get("version", 1) != split.get("version", 1):
                    remedy = f"set data.split_version={theirs.get('version', 1)}"
                raise RunError(
                    f"{self.split_file}: this run used split {theirs['hash'][:12]}; the data now gives split "
                    f"{ours[:12]}; {remedy}, or --fresh starts over"
                )
        files.write_json(self.split_file, split)

    def rewind(self, step: int, epoch: int) -> tuple[list[Event], bool]:
        """Remove everything written after `step`, at which `epoch` epochs were evaluated.

        Returns the events that stay, and whether there was an evaluation at `step` itself: that is done again.
        """
        events: list[Event] = []
        evaluated_here = False
        for event in self.events():
            if event.step < step or (event.step == step and isinstance(event, TrainEvent)):
                events.append(event)
            evaluated_here |= event.step == step and isinstance(event, EvaluationEvent)
        files.write_text(self.metrics, "".join(map(to_line, events)))
        for file in self.validation.glob("epoch-*"):
            if (epoch_of(file.name) or 0) > epoch:
                file.unlink()
        return events, evaluated_here

    def begun_by(self, job: str | None) -> bool:
        """Whether an earlier start of this job began or continued the run."""
        return job is not None and any(start.job == job for start in self.starts())

    def record(self, event: Event) -> None:
        """Append an event to metrics.jsonl. A training does so through an outbox."""
        Appended(self.metrics).append(to_line(event).encode())

    def _have_validation(self) -> None:
        """Make the folder again where somebody removed it; not the run's: that may be on a disk that is away."""
        if not self.validation.is_dir():
            self.validation.mkdir()
            files.share(self.validation)

    def write_scores(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the table of an epoch's evaluation."""
        table_file = self.validation_table(epoch)
        self._have_validation()
        aside = table_file.with_suffix(".tmp")
        with aside.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        files.share(aside)
        aside.replace(table_file)

    def write_picture(self, epoch: int, picture_hwc: "NDArray[np.uint8]") -> None:
        """Write the overlays of an epoch's evaluation, uint8 [height, width, 3]."""
        from PIL import Image  # slow to import, and only rank 0 of a training writes pictures

        picture_file = self.validation_picture(epoch)
        self._have_validation()
        aside = picture_file.with_suffix(".tmp")
        Image.fromarray(picture_hwc).save(aside, format="PNG", optimize=True)
        files.share(aside)
        aside.replace(picture_file)

    def write_engine_settings(self, engine: str, settings: Mapping[str, Any]) -> None:
        """Write the settings given to the engine's library, in that library's own keys."""
        files.write_json(self.engine_settings(engine), settings)

    def record_out_of_memory(self, state: Mapping[str, Any]) -> None:
        """Leave the micro-batch to go on with to the next start."""
        files.write_json(self.out_of_memory_file, state)

    def end(self, outcome: Outcome) -> None:
        """Write outcome.json."""
        files.write_json(self.outcome_file, outcome.to_json())
