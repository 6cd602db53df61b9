"""The store: a source prepared once, read by every run with the same source and settings.

    <data.store>/<source>-<size>px-<settings>-<fingerprint>/
        index.json             fingerprint, per-patient geometry and slice areas, patients left out
        images/<patient>.npy   float16 [slice, size, size, 3], z-scored
        masks/<patient>.npy    uint8 0/1 [slice, size, size]

A patient's slices are contiguous in its file, so a sample is one read. These are plain reads, since a memory map's
pages count as the rank's own memory and grow with the number of patients.

L11: the folder's name is the key of source and settings, so a store is built or not, and never changed. A builder holds
an exclusive `flock`, which the kernel releases when the process dies, builds aside and renames. Builders that cannot
exclude each other build each their own; the first one counts.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from segtrain.config import DataConfig
from segtrain.data.preprocess import PREPROCESS_VERSION, Geometry
from segtrain.errors import DAMAGED, DataError, LaunchError
from segtrain.runtime import files, lock, machine

log = logging.getLogger(__name__)

FORMAT = 2  # of the files of a store and of how a source's files are read; a change prepares all stores anew


@dataclass(frozen=True)
class StoredPatient:
    """A patient's entry in the index; `areas` are lesion pixels per prepared slice."""

    patient: str
    institution: str
    areas: tuple[int, ...]
    slice_numbers: tuple[int, ...]  # the source's numbers of the prepared slices
    geometry: Geometry
    missing_channels: tuple[str, ...]

    @property
    def slices(self) -> int:
        return len(self.areas)

    @property
    def lesion_voxels(self) -> int:
        return sum(self.areas)


@dataclass(frozen=True)
class Store:
    """A built store, opened: the index in memory, the arrays read on demand."""

    path: Path
    label: str
    size_px: int
    patients: dict[str, StoredPatient]
    skipped: dict[str, str]

    def read(self, patient: str, first: int, image_shwc: NDArray[np.float16], mask_shw: NDArray[np.uint8]) -> None:
        """Fill both contiguous arrays with the patient's slices from `first` on. Raises DataError: file cut short."""
        arrays: dict[str, NDArray[Any]] = {"images": image_shwc, "masks": mask_shw}
        for kind, array in arrays.items():
            path = self.path / kind / f"{patient}.npy"
            with readable(path), path.open("rb") as file:
                header_bytes = 10 + int.from_bytes(file.read(10)[8:], "little")  # version 1.0 of the format
                file.seek(header_bytes + first * array[0].nbytes)
                if file.readinto(array.data.cast("B")) != array.nbytes:
                    raise DataError(f"{path}: cut short; rename {self.path} and it is built again")

    def volume(self, patient: str) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """All slices of a patient: image float16 [s, h, w, 3], mask uint8 [s, h, w]."""
        shape = self.patients[patient].slices, self.size_px, self.size_px
        image_shwc, mask_shw = np.empty((*shape, 3), np.float16), np.empty(shape, np.uint8)
        self.read(patient, 0, image_shwc, mask_shw)
        return image_shwc, mask_shw

    def require(self, patients: Iterable[str]) -> None:
        """Raises DataError for a patient that the store does not have."""
        if strangers := sorted(set(patients) - self.patients.keys()):
            raise DataError(
                f"patient {strangers[0]} is not in {self.label} ({len(strangers)} such); set data.root to the data "
                "that has it"
            )


def neighbours_of(number: int, slices: int, neighbours: int) -> NDArray[np.int64]:
    """Indices [2 * neighbours + 1] of the slices around slice `number`, from below to above; edges repeat."""
    return np.clip(np.arange(number - neighbours, number + neighbours + 1), 0, slices - 1)


def as_channels(window_nhwc: NDArray[np.float16]) -> NDArray[np.float16]:
    """Slices [n, h, w, 3] as the channels of one image [h, w, 3 * n], slice by slice."""
    n, height, width, contrasts = window_nhwc.shape
    return np.moveaxis(window_nhwc, 0, 2).reshape(height, width, n * contrasts)


def with_neighbours(volume_shwc: NDArray[np.float16], neighbours: int) -> NDArray[np.float16]:
    """Each slice with those above and below it as channels (2.5D): [s, h, w, 3 * (2 * neighbours + 1)]."""
    if neighbours == 0:
        return volume_shwc
    slices = len(volume_shwc)
    return np.stack([as_channels(volume_shwc[neighbours_of(z, slices, neighbours)]) for z in range(slices)])


def store_path(cfg: DataConfig, source_fingerprint: str) -> Path:
    """The folder of this source's store at these settings, built or not."""
    return Path(cfg.store).expanduser() / f"{_settings(cfg)}-{source_fingerprint[:12]}"


def stores_like(cfg: DataConfig) -> list[Path]:
    """The stores at these settings, of any content."""
    return sorted(Path(cfg.store).expanduser().glob(f"{_settings(cfg)}-*"))


def _settings(cfg: DataConfig) -> str:
    settings = repr((FORMAT, PREPROCESS_VERSION, cfg.image_size, cfg.skip_bad))
    return f"{cfg.source}-{cfg.image_size}px-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def is_built(path: Path) -> bool:
    """Whether the store at `path` is there. Raises DataError for one in a private folder."""
    with readable(path):
        return path.is_dir()


def open_store(path: Path) -> Store:
    """The store at `path`. Raises DataError when its index or a file of it is private, missing or of the wrong size."""
    adapter = TypeAdapter(StoredPatient)
    try:
        with readable(path):
            index = json.loads((path / "index.json").read_text(encoding="utf-8"))
            patients = {entry["patient"]: adapter.validate_python(entry) for entry in index["patients"]}
            for entry in index["patients"]:
                for kind, size in entry["bytes"].items():
                    _check_file(path / kind / f"{entry['patient']}.npy", size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged store ({' '.join(str(error).split())}); rename it and it is built again"
        ) from error
    return Store(path, index["label"], index["size_px"], patients, index["skipped"])


def _check_file(file: Path, size: int) -> None:
    if file.stat().st_size != size:
        store = file.parent.parent
        raise DataError(f"{file}: {file.stat().st_size} bytes in place of {size}; rename {store} and it is built again")
    if not os.access(file, os.R_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns a lack of rights in the block into a DataError that says whose the store, or a file of it, is."""
    try:
        yield
    except PermissionError as error:
        barrier = files.barrier(Path(error.filename or path))
        raise DataError(
            f"{path}: a private store: {barrier}; prepare another one with data.store=FOLDER, or ask for that one's "
            "rights"
        ) from error


def label_of(path: Path) -> str | None:
    """The label of the store's source; None where it is damaged or private."""
    try:
        return str(json.loads((path / "index.json").read_text(encoding="utf-8"))["label"])
    except DAMAGED:
        return None


@contextmanager
def building(path: Path, check: Callable[[], None]) -> Iterator[Path | None]:
    """Hold the store's lock: yields an empty folder to build in, renamed to `path` at the end, or None if it exists.

    While another process builds, waits and calls `check`, which may raise. Removes what a killed builder left. Raises
    DataError when the disk is full or the folder cannot be written; then nothing of the attempt is left.
    """
    with writable(path.parent):
        files.make_folder(path.parent)
        suffix = _suffix(path)
        held = _wait_for_lock(_beside(path, f"lock{suffix}"), check)
    try:
        if is_built(path):
            yield None
            return
        aside = files.free_place(path, f"building{suffix}")
        try:
            with writable(path.parent):
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
    """To the names of lock and building folder: this user's, where the lock is private to another user."""
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
            f"{file.parent}: the file system has no locks ({error.strerror}); set data.store to a folder on another"
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


def write_array(path: Path, array: NDArray[Any]) -> int:
    """Write `array` as .npy, synced; returns the bytes written."""
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=(1, 0))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
