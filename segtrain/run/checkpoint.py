"""A checkpoint is whole or is not there (L7): written aside, synced, hashed, renamed; then the pointer, then pruning.

    checkpoints/step-00001000/model.safetensors       the plain state dict
                              optimizer.safetensors   moments as <parameter name>/<moment>
                              state.json              step, best score, losses not yet recorded, config, split
                              manifest.json           size and SHA-256 of the others
    checkpoints/LATEST, checkpoints/BEST              the name of one

Tensors are safetensors, the rest is JSON: reading a checkpoint runs no code from it. There is no generator state in it,
since order and augmentation are functions of (seed, epoch, position).
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
from segtrain.run.writer import Run
from segtrain.runtime import files

log = logging.getLogger(__name__)

MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Snapshot:
    """All that a training is, apart from its config: tensors by name, and what JSON can hold."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


class CorruptCheckpoint(Exception):
    """A checkpoint that is not what was written; the loader sets it aside."""


def publish(folder: Path, snapshot: Snapshot) -> None:
    """Make `folder` a whole checkpoint, durably, or leave it as it was."""
    if folder.exists():  # it was whole when it got its name
        return
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        save_file(dict(snapshot.model), aside / MODEL)
        save_file(dict(snapshot.optimizer), aside / OPTIMIZER)
        files.write_json(aside / STATE, snapshot.state)
        for name in (MODEL, OPTIMIZER):
            files.sync_file(aside / name)
        files.write_json(aside / MANIFEST, {name: _fingerprint(aside / name) for name in (MODEL, OPTIMIZER, STATE)})
        files.rename(aside, folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(folder: Path) -> Snapshot:
    """A checkpoint, verified against its manifest. Raises CorruptCheckpoint; an OSError when it cannot be read now.

    One whose manifest names no moments, as archives of results hold it, comes without them.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        named = [name for name in (MODEL, OPTIMIZER, STATE) if name != OPTIMIZER or name in manifest]
        for name in named:
            if manifest[name] != _fingerprint(folder / name):
                raise CorruptCheckpoint(f"{name} is not what was written")
        state = json.loads((folder / STATE).read_text())
        assert isinstance(state, dict), "a manifest that fits names a state that was written"
        optimizer = load_file(folder / OPTIMIZER) if OPTIMIZER in named else {}
        return Snapshot(load_file(folder / MODEL), optimizer, state)
    except (*MISSING, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptCheckpoint(" ".join(f"{type(error).__name__} {error}".split())) from error


def weights_sha256(folder: Path) -> str:
    """The hash of a checkpoint's weights, as its manifest has it: `sha256sum model.safetensors` gives the same."""
    return str(json.loads((folder / MANIFEST).read_text())[MODEL]["sha256"])


def newest(run: Run) -> str | None:
    """The name of the newest whole checkpoint, None if the run has none yet.

    A bad one is renamed to bad-... and kept, with a warning, and the one before is taken. Raises RunError when
    there are checkpoints and none is whole: nothing is ever started over silently.
    """
    folders = sorted((f for f in run.checkpoints.glob("step-*") if f.is_dir()), reverse=True)
    had_some = bool(folders) or run.latest_pointer.exists() or any(run.checkpoints.glob("bad-step-*"))
    for folder in folders:
        try:
            read(folder)
        except CorruptCheckpoint as error:
            aside = folder.with_name(f"bad-{folder.name}-{time.time_ns()}")
            files.rename(folder, aside)
            log.warning("checkpoint %s is damaged (%s); kept as %s; the one before is taken", folder, error, aside)
        except OSError as error:  # of the disk or the network: the checkpoint may be good
            raise RunError(f"{folder}: cannot be read ({error}); mend that and run the same command again") from error
        else:
            if not (folder / OPTIMIZER).exists():
                raise RunError(
                    f"{folder}: holds weights alone, as archives of results do; it cannot be resumed: train in another "
                    f"folder, from it with model.weights={folder / MODEL}"
                )
            return folder.name
    if had_some:
        raise RunError(f"{run.root}: it had checkpoints and none is whole; --fresh starts over and keeps what is there")
    return None


def remove_leftovers(run: Run) -> None:
    """Remove what a start that was killed left half-written, or half-removed."""
    for folder in (*run.checkpoints.glob(".step-*.tmp"), *run.checkpoints.glob(".step-*.removed")):
        shutil.rmtree(folder, ignore_errors=True)


def prune(run: Run, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and those that a pointer names."""
    named = {pointer.read_text().strip() for pointer in (run.latest_pointer, run.best_pointer) if pointer.exists()}
    for folder in sorted(run.checkpoints.glob("step-*"), reverse=True)[keep:]:
        if folder.name not in named:
            files.remove_folder(folder)


class Saver:
    """Publishes checkpoints in the background, one after the other; the loop waits only for the copy.

    A full disk is said and outlived: the last good checkpoint stays, the next save tries again. Any other error of the
    writer is raised in the loop, at the next call.
    """

    def __init__(self, run: Run, keep: int) -> None:
        self.run, self.keep = run, keep
        self.write_s = 0.0  # the longest that a write took
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None
        self.failure: OSError | None = None  # of the last save

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Publish a snapshot, whose tensors nobody changes any more and point LATEST at it; waits for the last one."""
        self.wait()
        self._job = self._pool.submit(self._publish, self.run.checkpoint(step), snapshot)

    def mark_best(self, step: int) -> bool:
        """Point BEST at the checkpoint of `step`, once that is published; whether there was room for it."""
        self.wait()
        if self.failure is None:
            files.write_text(self.run.best_pointer, self.run.checkpoint(step).name + "\n")
        return self.failure is None

    def wait(self) -> None:
        """Wait for the writer; `failure` says afterwards whether the disk was full."""
        if self._job is None:
            return
        job, self._job = self._job, None
        try:
            job.result()
            self.failure = None
        except OSError as error:
            self.failure = error
            log.warning("no room for the checkpoint (%s); the last good one is kept; trying again later", error)

    def failed(self) -> bool:
        """Wait for the writer; whether the last save failed for want of space."""
        self.wait()
        return self.failure is not None

    def finish(self) -> None:
        """Wait for the writer after an error: that error stays what the run ended with, whatever the writer says."""
        try:
            self.wait()
        except Exception:
            log.exception("the last checkpoint was not written; the one before is kept")

    def close(self) -> None:
        """Wait for the writer and end it. Raises RunError when the last checkpoint could not be written."""
        self.wait()
        self._pool.shutdown()
        if self.failure is not None:
            raise RunError(
                f"{self.run.checkpoints}: the last checkpoint could not be written ({self.failure}); free some space "
                "and run the same command again: it goes on from the checkpoint before"
            )

    def _publish(self, folder: Path, snapshot: Snapshot) -> None:
        started = time.monotonic()
        if self.run.metrics.exists():  # what was told up to here is as durable as the checkpoint
            files.sync_file(self.run.metrics)
        publish(folder, snapshot)
        files.write_text(self.run.latest_pointer, folder.name + "\n")
        prune(self.run, self.keep)
        self.write_s = max(self.write_s, time.monotonic() - started)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
