"""A store while it is built: one process builds, the others wait; a killed builder leaves nothing half-built (L11)."""

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import DataConfig
from segtrain.data.store import is_built, open_store
from segtrain.data.store_index import KINDS
from segtrain.data.store_reading import readable, waited_for
from segtrain.errors import DataError, LaunchError
from segtrain.runtime import files, lock, machine

log = logging.getLogger(__name__)

BUILDING = "building"  # how names of folders end that are built
SILENT_S = 3600.0  # without a patient, after which a builder of another node is taken for killed


@contextmanager
def building(path: Path, check: Callable[[], None]) -> Iterator[Path | None]:
    """Hold the store's lock: yields an empty folder to build in, renamed to `path` at the end, or None if it exists.

    While another process builds, waits and calls `check`, which may raise. Removes what killed builders left. A lock
    may exclude processes of this node alone, so the folder is this process's own. Raises DataError when the disk is
    full or the folder cannot be written; then nothing of the attempt is left.
    """
    with writable(path.parent):
        files.make_folder(path.parent)
        held = _wait_for_lock(_beside(path, f"lock{_suffix(path)}"), check)
    try:
        if is_built(path):
            yield None
            return
        aside = files.own_place(path, BUILDING)
        try:
            with writable(path.parent):
                files.remove_leftovers(path.parent, BUILDING, SILENT_S)
                shutil.rmtree(aside, ignore_errors=True)  # of a killed thread that had the number of this one
                for folder in (aside / "images", aside / "masks"):
                    files.make_folder(folder)
                yield aside
                files.share_all(aside)
                _publish(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    finally:
        held.release()


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _suffix(path: Path) -> str:
    """To the name of the lock: this user's, where the lock is private to another user."""
    file = _beside(path, "lock")
    if not file.exists() or os.access(file, os.R_OK, effective_ids=True):
        return ""
    log.warning("%s: private to %s; preparing without waiting for that user", file, files.owner_of(file))
    return f"-{os.geteuid()}"


def _wait_for_lock(file: Path, check: Callable[[], None]) -> lock.Lock:
    while (held := _take(file)) is None:
        check()
        time.sleep(0.1)
    return held


def _take(file: Path) -> lock.Lock | None:
    try:
        return lock.take(file)
    except OSError as error:
        if error.filename is not None:  # it cannot even be opened
            raise
        raise DataError(
            f"{file.parent}: the file system gives no lock ({error.strerror}); set data.store to a folder on another"
        ) from error


def _publish(aside: Path, path: Path) -> None:
    try:
        files.rename(aside, path)
    except OSError:
        if not path.is_dir():
            raise
        shutil.rmtree(aside, ignore_errors=True)  # another process, which this one could not exclude, was first


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turns an OSError of the block into a DataError that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if limit := machine.shortage(error):
            raise LaunchError(limit) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataError(
                f"{folder}: cannot write the store ({error.strerror}{_whose(folder)}); set data.store to a folder that "
                "this user may write"
            ) from error
        free_mb = shutil.disk_usage(folder).free >> 20 if folder.is_dir() else 0
        raise DataError(
            f"{folder}: cannot write the store ({error.strerror or error}, {free_mb} MiB free); "
            "free some space, or set data.store to a folder with room"
        ) from error


def _whose(folder: Path) -> str:
    try:
        return f", the folder belongs to {files.owner_of(folder)}"
    except OSError:
        return ""


def shared_store(cfg: DataConfig, path: Path) -> Path | None:
    """The same store in the default folder, where `path` is on a node's own disk: it is copied from there."""
    shared = Path(DataConfig().store) / path.name
    return shared if "$" in cfg.store and shared.resolve() != path.resolve() and is_built(shared) else None


def copy_store(shared: Path, aside: Path, check: Callable[[], None]) -> None:
    """Copy a whole store into the folder in which another is built; `check` is called at each file and may raise.

    Raises DataError, which names the shared file: it is not what was prepared, private, or stays away; OSError: `aside`
    cannot be written.
    """
    store = open_store(shared)
    for patient in store.patients:
        digests = store.sha256.get(patient, {})
        for kind in KINDS:
            _copy(shared, aside, f"{kind}/{patient}.npy", digests.get(kind), check)
    for path in sorted(shared.iterdir()):
        if path.is_file():
            _copy(shared, aside, path.name, None, check)


def _copy(shared: Path, aside: Path, name: str, sha256: str | None, check: Callable[[], None]) -> None:
    """Copy a file, which has that hash where it is known."""
    check()
    content = waited_for(shared, partial(_content, shared / name))
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise DataError(f"{shared / name}: is not what was prepared, damaged; rename {shared} and it is built again")
    (aside / name).write_bytes(content)


def _content(path: Path) -> bytes:
    with readable(path):
        return path.read_bytes()


def write_array(path: Path, array: NDArray[Any]) -> int:
    """Write `array` as .npy, synced; returns the bytes written."""
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=(1, 0))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
