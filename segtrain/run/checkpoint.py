"""Checkpoints, each whole or not there (L7): written aside, synced, hashed, renamed; then the pointer, then pruning.

    checkpoints/step-00001000/model.safetensors       the plain state dict
                              optimizer.safetensors   moments as <parameter name>/<moment>
                              state.json              step, best score, losses not yet recorded, config, split
                              manifest.json           size and SHA-256 of the others (manifest.py)
    checkpoints/LATEST, checkpoints/BEST              the name of one

Tensors are safetensors, the rest is JSON: reading a checkpoint runs no code from it. It holds no generator state, since
order and augmentation are functions of (seed, epoch, position).
"""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtrain.config.json_text import json_in
from segtrain.errors import RunError
from segtrain.run.layout import BAD, MANIFEST, MODEL, OPTIMIZER, STATE
from segtrain.run.manifest import fingerprint, manifest_of, read_manifest
from segtrain.run.stored import NO_FILE
from segtrain.run.writer import FRESH, Run
from segtrain.runtime import files
from segtrain.runtime.outbox import Outbox

log = logging.getLogger(__name__)

MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Snapshot:
    """The whole state of a training, apart from its config: tensors by name, and `state`, which JSON can hold."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


class CorruptCheckpoint(Exception):
    """A checkpoint that differs from what was written; the loader sets it aside."""


def publish(folder: Path, snapshot: Snapshot) -> None:
    """Make `folder` a whole checkpoint, durably, or leave it as it was."""
    if folder.exists():  # a folder gets its name only when it is whole
        return
    # Not the run's own folder: where that is gone, a disk may not be mounted now.
    folder.parent.mkdir(exist_ok=True)
    aside = files.free_place(folder, "tmp")
    aside.mkdir()
    files.share(aside)
    try:
        save_file(dict(snapshot.model), aside / MODEL)
        save_file(dict(snapshot.optimizer), aside / OPTIMIZER)
        files.write_json(aside / STATE, snapshot.state)
        for name in (MODEL, OPTIMIZER):
            files.copy_rights(aside / STATE, aside / name)  # safetensors makes files of mode 600, whatever the umask
            files.sync_file(aside / name)
        listed = {name: fingerprint(aside / name) for name in (MODEL, OPTIMIZER, STATE)}
        files.write_json(aside / MANIFEST, manifest_of(listed))
        files.share_all(aside)
        files.rename(aside, folder)
    except SafetensorError as error:
        raise _os_error(error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(folder: Path) -> Snapshot:
    """A checkpoint, verified against its manifest. Raises CorruptCheckpoint; an OSError when it cannot be read now.

    One whose manifest lists no moments, as in an archive of results, is read without them.
    """
    try:
        listed = read_manifest(folder)
        if OPTIMIZER not in listed and (folder / OPTIMIZER).exists():
            raise CorruptCheckpoint(f"{MANIFEST} lists no moments, and there are some")
        for name in listed:
            if listed[name] != fingerprint(folder / name):
                raise CorruptCheckpoint(f"{name} is not what was written")
        state = json_in(folder / STATE)
        if not isinstance(state, dict):
            raise CorruptCheckpoint(f"{STATE} is no mapping")
        optimizer = load_file(folder / OPTIMIZER) if OPTIMIZER in listed else {}
        return Snapshot(load_file(folder / MODEL), optimizer, state)
    except OSError as error:
        if not isinstance(error, MISSING) and error.errno not in NO_FILE:
            raise
        raise CorruptCheckpoint(" ".join(f"{type(error).__name__} {error}".split())) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptCheckpoint(" ".join(f"{type(error).__name__} {error}".split())) from error


def newest(run: Run) -> str | None:
    """The name of the newest whole checkpoint, None if the run has none yet.

    A damaged one is renamed to bad-... and kept, with a warning, and the one before is used. Raises RunError when
    there are checkpoints and none is whole: no run is ever started over silently.
    """
    folders = [run.checkpoint(step) for step in run.saved_steps()]
    had_some = bool(folders) or run.latest_pointer.exists() or any(run.checkpoints.glob(f"{BAD}step-*"))
    for folder in reversed(folders):
        try:
            read(folder)
        except CorruptCheckpoint as error:
            aside = folder.with_name(f"{BAD}{folder.name}-{time.time_ns()}")
            files.rename(folder, aside)
            log.warning("checkpoint %s is damaged (%s); kept as %s; using the one before", folder, error, aside)
        except OSError as error:  # from the disk or the network: the checkpoint may be good
            raise RunError(f"{folder}: cannot be read ({error}); repair that and run the same command again") from error
        else:
            if not (folder / OPTIMIZER).exists():
                raise RunError(
                    f"{folder}: holds weights alone, as archives of results do, so it cannot be resumed; train a run "
                    f"with another name that starts from it: model.weights={folder / MODEL}"
                )
            return folder.name
    if had_some:
        raise RunError(f"{run.root}: it had checkpoints and none is whole; {FRESH}")
    return None


def remove_leftovers(run: Run) -> None:
    """Remove checkpoints that a killed start, or a bad folder, left half-written or half-removed."""
    for folder in (*run.checkpoints.glob(".step-*.tmp*"), *run.checkpoints.glob(".step-*.removed*")):
        shutil.rmtree(folder, ignore_errors=True)


def prune(run: Run, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` and those that a pointer names."""
    named = run.pointed_checkpoints()
    for folder in map(run.checkpoint, run.saved_steps()[:-keep]):
        if folder.name not in named:
            files.remove_folder(folder)


@dataclass
class _Pending:
    """A checkpoint that is still to be written; without a snapshot, one that is written and still to be marked."""

    step: int
    snapshot: Snapshot | None
    best: bool = False


class Saver:
    """Publishes checkpoints through the run's outbox, one after the other; the loop waits for the one before alone.

    While the folder is bad, the newest checkpoint and the best one wait in memory: others are left out, as they would
    be pruned. Any other error of the thread is raised in the loop, at the next call.
    """

    WHAT = "the last checkpoint"

    def __init__(self, run: Run, keep: int, outbox: Outbox | None = None) -> None:
        self.run, self.keep = run, keep
        self.outbox = outbox or Outbox(run.root)
        self.write_s = 0.0  # the longest write so far
        self._pending: list[_Pending] = []  # in the order of their steps
        self._writing: _Pending | None = None
        self._lock = threading.Lock()

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Publish a snapshot, whose tensors may not change now, and point LATEST at it.

        Waits for the last save, unless the folder is bad.
        """
        self.outbox.keep_up()
        with self._lock:
            self._pending.append(_Pending(step, snapshot))
            self._drop_superseded()
        self._hand_over()

    def mark_best(self, step: int) -> None:
        """Point BEST at the checkpoint of `step`, the last that was saved, once it is published."""
        with self._lock:
            for earlier in self._pending:
                earlier.best = False
            mine = next((pending for pending in self._pending if pending.step == step), None)
            if mine is None:
                mine = _Pending(step, None)
                self._pending.append(mine)
            mine.best = True
            self._drop_superseded()
        self._hand_over()

    def failed(self) -> bool:
        """Wait for the last save; whether it failed, and is to be tried again."""
        return self.outbox.drain(patience_s=0.0) is not None

    def close(self) -> None:
        """Wait for all writes into the run. Raises RunError when one could not be made."""
        self.outbox.finish()

    def _hand_over(self) -> None:
        self.outbox.put(self.WHAT, self._write, large=True)

    def _drop_superseded(self) -> None:
        newest = self._pending[-1:]
        self._pending = [p for p in self._pending if p.best or p is self._writing or p in newest]

    def _write(self) -> None:
        """Write all that is pending, in order: what a checkpoint says of the best one holds when LATEST names it."""
        remove_leftovers(self.run)  # of a try that failed
        while pending := self._begin():
            try:
                if pending.snapshot is not None:
                    self._publish(self.run.checkpoint(pending.step), pending.snapshot)
                best = pending.best
                if best:
                    files.write_text(self.run.best_pointer, self.run.checkpoint(pending.step).name + "\n")
                with self._lock:
                    if pending.best == best:  # else it was marked meanwhile
                        self._pending.remove(pending)
            finally:
                self._writing = None

    def _begin(self) -> _Pending | None:
        with self._lock:
            self._drop_superseded()
            self._writing = self._pending[0] if self._pending else None
            return self._writing

    def _publish(self, folder: Path, snapshot: Snapshot) -> None:
        started = time.monotonic()
        if self.run.metrics.exists():  # events up to here must be as durable as the checkpoint
            files.sync_file(self.run.metrics)
        publish(folder, snapshot)
        files.write_text(self.run.latest_pointer, folder.name + "\n")
        prune(self.run, self.keep)
        self.write_s = max(self.write_s, time.monotonic() - started)


def _os_error(error: SafetensorError) -> OSError:
    """The operating system's error in one of safetensors, which tells its number in its text alone."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
