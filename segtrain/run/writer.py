"""A run directory to be trained in: opened under a lock, added to, rewound to a step."""

import logging
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from segtrain.config import Config, first_difference, to_yaml
from segtrain.config.paths import expanded
from segtrain.errors import DAMAGED, ConfigError, DamagedFile, LaunchError, RunError
from segtrain.run.code import copy_code
from segtrain.run.environment import Environment
from segtrain.run.events import EvaluationEvent, Event, TrainEvent, best_of, evaluations, to_line
from segtrain.run.layout import BEGIN, BESIDE_RUNS, END, epoch_of
from segtrain.run.outcome import Outcome
from segtrain.run.reader import RunReader, refuse_private
from segtrain.run.split import merged
from segtrain.run.stored import tree_in
from segtrain.runtime import files, lock, machine
from segtrain.runtime.cells import csv_text
from segtrain.runtime.outbox import Appended

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

PROBE_BYTES = 4096
DAMAGED_NAME = ".damaged-"  # before a number: a damaged file that was kept
FRESH = "--fresh starts over and keeps the old run beside it"


@dataclass(frozen=True)
class Run(RunReader):
    """One run, to be trained; making the object touches nothing."""

    @classmethod
    def of(cls, cfg: Config) -> Self:
        """The run that a config describes."""
        return cls(expanded(cfg.runs_dir) / cfg.name)

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
            theirs, outcome = self.config(), self._known_outcome()
        except (*DAMAGED, ConfigError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise self._not_usable(error) from error
            raise RunError(f"{self.root}: holds no readable run ({' '.join(str(error).split())}); {FRESH}") from error
        if difference := first_difference(cfg, theirs):
            key, ours, other = difference
            if key.startswith("code."):
                raise RunError(self._changed_code(key.removeprefix("code."), ours, other))
            raise RunError(f"{self.root}: this run has {key}={other}, not {ours}; choose another name=..., or {FRESH}")
        return outcome if outcome and outcome.state == "finished" and outcome.epochs >= cfg.train.epochs else None

    def _known_outcome(self) -> Outcome | None:
        """The outcome; None where it is damaged: a training that goes on to its end writes it again."""
        try:
            return self.outcome()
        except DamagedFile as error:
            log.warning("%s", error)
            return None

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
    ) -> lock.Lock:
        """Make the directory, or go on in the existing one; with `fresh` that is moved aside. The lock on the run.

        `arguments` are those of the training command. Raises RunError when another training has the run, when it cannot
        be written, or when it has another split.
        """
        with self.usable():
            held = self._lock()
            try:
                self._prepare(cfg, split, arguments, start, fresh)
            except BaseException:
                held.release()
                raise
            return held

    def _prepare(
        self, cfg: Config, split: Mapping[str, Any], arguments: Sequence[str], start: Environment, fresh: bool
    ) -> None:
        if fresh and self.root.exists():
            self._set_aside()
        for folder in (self.tensorboard, self.checkpoints, self.validation):
            files.make_folder(folder)
        self._write_split(split)
        words = shlex.join(["python", "-m", "segtrain.train", *arguments])
        # A comment is one line, and YAML takes no control characters in it.
        command = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
        copy_code(cfg, self.code)
        files.write_text(self.config_file, f"# {command}\n{BEGIN}{to_yaml(cfg)}{END}")
        files.write_json(self.environment_file, [*self._earlier_starts(), asdict(start)])
        self.log_file.touch()
        if self.outcome_file.is_dir():
            files.keep_aside(self.outcome_file, DAMAGED_NAME)
        self.outcome_file.unlink(missing_ok=True)

    def _earlier_starts(self) -> list[Any]:
        """The entries of environment.json as they are; a damaged file is kept beside the new one."""
        try:
            return tree_in(self.environment_file, list)
        except FileNotFoundError:
            return []
        except DamagedFile as error:
            log.warning("%s; it is kept as %s", error, files.keep_aside(self.environment_file, DAMAGED_NAME).name)
            return []

    def refuse_unwritable(self) -> None:
        """Raise RunError where nothing can be written into the run's folder, or into what it will lie in.

        Nor where the folder is that of an ablation or a queue, which --fresh would move aside with all its runs.

        For before the work that comes before `open`. Leaves nothing behind.
        """
        if not self.config_file.exists() and (names := [n for n in BESIDE_RUNS if (self.root / n).exists()]):
            raise RunError(f"{self.root}: is a folder of runs, with their {names[0]}; choose another name=...")
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

    def _lock(self) -> lock.Lock:
        """Hold the run for this process, until it is released or the process ends, however it ends."""
        files.make_folder(self.root.parent)
        if held := lock.take(self.lock_file):
            return held
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
        try:
            aside = files.keep_aside(self.root, ".")
        except OSError as error:
            raise RunError(
                f"{self.root}: cannot be moved aside ({error.strerror}{self._whose(error)}); choose another name=..."
            ) from error
        log.info("the earlier run is kept as %s", aside)

    def _write_split(self, split: Mapping[str, Any]) -> None:
        if os.path.lexists(self.split_file):
            self.split_record()  # raises what is wrong with it
            split = merged(self.split_file, tree_in(self.split_file, dict), split)
        files.write_json(self.split_file, split)

    def rewind(self, step: int, epoch: int, recorded: int = 0) -> tuple[list[Event], bool]:
        """Remove everything written after `step`, at which `epoch` epochs were evaluated.

        `recorded`: the last step that was recorded before it, for a warning where that is lost.
        Returns the events that stay, and whether there was an evaluation at `step` itself: that is done again.
        """
        events: list[Event] = []
        evaluated_here = False
        for event in self.events():
            if event.step < step or (event.step == step and isinstance(event, TrainEvent)):
                events.append(event)
            evaluated_here |= event.step == step and isinstance(event, EvaluationEvent)
        if (last := max((event.step for event in events), default=0)) < recorded:
            log.warning("%s: what was recorded of steps %d to %d is lost", self.metrics, last + 1, recorded)
        files.write_text(self.metrics, "".join(map(to_line, events)))
        for file in self.validation.glob("epoch-*"):
            if (epoch_of(file.name) or 0) > epoch:
                if file.is_dir() and not file.is_symlink():
                    files.keep_aside(file, DAMAGED_NAME)
                else:
                    file.unlink()
        for pointer in (self.best_pointer, self.latest_pointer):
            if pointer.is_dir():
                files.keep_aside(pointer, DAMAGED_NAME)
        self._restore_best(events)
        return events, evaluated_here

    def _restore_best(self, events: Sequence[Event]) -> None:
        """Write BEST again where it is lost or damaged."""
        best = self.best_checkpoint()
        if best and self._pointed(self.best_pointer) is None:
            files.write_text(self.best_pointer, f"{best}\n")
            log.warning("%s: was lost; by the events the best checkpoint is %s", self.best_pointer, best)
        elif best is None and (scores := evaluations(events)):
            log.warning(
                "%s: the checkpoint of the best epoch, step %d, is lost; the next epoch that scores higher is kept",
                self.root,
                best_of(scores).step,
            )

    def begun_by(self, job: str | None) -> bool:
        """Whether an earlier start of this job began or continued the run."""
        return job is not None and any(start.job == job for start in self.known_starts())

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
        with (
            files.aside(table_file, durable=False) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            file.write(csv_text(rows, line_end="\r\n"))

    def write_picture(self, epoch: int, picture_hwc: "NDArray[np.uint8]") -> None:
        """Write the overlays of an epoch's evaluation, uint8 [height, width, 3]."""
        from PIL import Image  # slow to import, and only rank 0 of a training writes pictures

        picture_file = self.validation_picture(epoch)
        self._have_validation()
        with files.aside(picture_file, durable=False) as temporary:
            Image.fromarray(picture_hwc).save(temporary, format="PNG", optimize=True)

    def write_engine_settings(self, engine: str, settings: Mapping[str, Any]) -> None:
        """Write the settings given to the engine's library, in that library's own keys."""
        files.write_json(self.engine_settings(engine), settings)

    def record_out_of_memory(self, state: Mapping[str, Any]) -> None:
        """Leave the micro-batch to go on with to the next start."""
        files.write_json(self.out_of_memory_file, state)

    def end(self, outcome: Outcome) -> None:
        """Write outcome.json."""
        files.write_json(self.outcome_file, outcome.to_json())
