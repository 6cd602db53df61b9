"""Checkpoints, each whole or not there (L7): written aside, synced, hashed, renamed; then the pointer, then pruning.

    checkpoints/step-00001000/model.safetensors       the plain state dict
                              optimizer.safetensors   moments as <parameter name>/<moment>
                              state.json              step, best score, losses not yet recorded, config, split
                              manifest.json           size and SHA-256 of the others
    checkpoints/LATEST, checkpoints/BEST              the name of one

Tensors are safetensors, the rest is JSON: reading a checkpoint runs no code from it. It holds no generator state, since
order and augmentation are functions of (seed, epoch, position).
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtrain.errors import RunError
from segtrain.run.layout import BAD, MANIFEST, MODEL, OPTIMIZER, STATE
from segtrain.run.writer import FRESH, Run
from segtrain.runtime import files

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
    aside = files.free_place(folder, "tmp")
    files.make_folder(aside)
    try:
        save_file(dict(snapshot.model), aside / MODEL)
        save_file(dict(snapshot.optimizer), aside / OPTIMIZER)
        files.write_json(aside / STATE, snapshot.state)
        for name in (MODEL, OPTIMIZER):
            files.copy_rights(aside / STATE, aside / name)  # safetensors makes files of mode 600, whatever the umask
            files.sync_file(aside / name)
        files.write_json(aside / MANIFEST, {name: _fingerprint(aside / name) for name in (MODEL, OPTIMIZER, STATE)})
        files.share_all(aside)
        files.rename(aside, folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(folder: Path) -> Snapshot:
    """A checkpoint, verified against its manifest. Raises CorruptCheckpoint; an OSError when it cannot be read now.

    One whose manifest lists no moments, as in an archive of results, is read without them.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        names = [name for name in (MODEL, OPTIMIZER, STATE) if name != OPTIMIZER or name in manifest]
        for name in names:
            if manifest[name] != _fingerprint(folder / name):
                raise CorruptCheckpoint(f"{name} is not what was written")
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        assert isinstance(state, dict), "its hash is that of a state that was written"
        optimizer = load_file(folder / OPTIMIZER) if OPTIMIZER in names else {}
        return Snapshot(load_file(folder / MODEL), optimizer, state)
    except (*MISSING, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptCheckpoint(" ".join(f"{type(error).__name__} {error}".split())) from error


def weights_sha256(folder: Path) -> str:
    """The hash of a checkpoint's weights from its manifest; `sha256sum model.safetensors` gives the same."""
    return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[MODEL]["sha256"])


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
    """Remove checkpoints that a killed start left half-written or half-removed."""
    for folder in (*run.checkpoints.glob(".step-*.tmp*"), *run.checkpoints.glob(".step-*.removed*")):
        shutil.rmtree(folder, ignore_errors=True)


def prune(run: Run, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` and those that a pointer names."""
    named = run.pointed_checkpoints()
    for folder in map(run.checkpoint, run.saved_steps()[:-keep]):
        if folder.name not in named:
            files.remove_folder(folder)


class Saver:
    """Publishes checkpoints in a thread, one after the other; the loop waits only for the copy.

    A full disk ends no training: it is logged, the last good checkpoint stays, the next save tries again. Any other
    error of the thread is raised in the loop, at the next call.
    """

    def __init__(self, run: Run, keep: int) -> None:
        self.run, self.keep = run, keep
        self.write_s = 0.0  # the longest write so far
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None
        self.failure: OSError | None = None  # of the last save

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Wait for the last save, then publish a snapshot, whose tensors may not change now, and point LATEST at it."""
        self.wait()
        self._job = self._pool.submit(self._publish, self.run.checkpoint(step), snapshot)

    def mark_best(self, step: int) -> bool:
        """Point BEST at the checkpoint of `step` once it is published; whether there was room for it."""
        self.wait()
        if self.failure is None:
            files.write_text(self.run.best_pointer, self.run.checkpoint(step).name + "\n")
        return self.failure is None

    def wait(self) -> None:
        """Wait for the last save; afterwards `failure` is the error of a full disk, or None."""
        if self._job is None:
            return
        job, self._job = self._job, None
        try:
            job.result()
            self.failure = None
        except OSError as error:
            self.failure = error
            log.warning("no room for the checkpoint (%s); the last good one is kept; the next save tries again", error)

    def failed(self) -> bool:
        """Wait for the last save; whether it failed because the disk was full."""
        self.wait()
        return self.failure is not None

    def finish(self) -> None:
        """Wait for the last save after an error, which remains the error that the run ends with."""
        try:
            self.wait()
        except Exception:
            log.exception("the last checkpoint could not be written; the one before is kept")

    def close(self) -> None:
        """Wait for the last save and end the thread. Raises RunError when the last checkpoint could not be written."""
        self.wait()
        self._pool.shutdown()
        if self.failure is not None:
            raise RunError(
                f"{self.run.checkpoints}: the last checkpoint could not be written ({self.failure}); free some space "
                "and run the same command again, which goes on from the checkpoint before"
            )

    def _publish(self, folder: Path, snapshot: Snapshot) -> None:
        started = time.monotonic()
        if self.run.metrics.exists():  # events up to here must be as durable as the checkpoint
            files.sync_file(self.run.metrics)
        publish(folder, snapshot)
        files.write_text(self.run.latest_pointer, folder.name + "\n")
        prune(self.run, self.keep)
        self.write_s = max(self.write_s, time.monotonic() - started)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
