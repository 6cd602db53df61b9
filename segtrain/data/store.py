"""The store: a source prepared once, read by every run with the same source and settings.

    <data.store>/<source>-<size>px-<settings>-<fingerprint>/
        index.json             fingerprint, per-patient geometry and slice areas, patients left out (store_index.py)
        columns-<hash>.npz     what a start needs of all patients, and where each one's entry is (store_columns.py)
        images/<patient>.npy   float16 [slice, size, size, contrast], z-scored
        masks/<patient>.npy    uint8 bits of regions [slice, size, size]

A sample is one plain read of a patient's file: the pages of a memory map would count as the rank's own memory.

L11: the folder's name is the key of source and settings, so a store is built or not, and never changed. A builder holds
a lock, which is free when its process dies, builds aside and renames. If builders cannot exclude each other, each
builds its own; the first one counts.
"""

import errno
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from segtrain.config import LESION, LGG_CONTRASTS, DataConfig, MaskLayout, Reference, name_of
from segtrain.data.preprocess import VERSIONS
from segtrain.data.sources import Source, make_source
from segtrain.data.store_columns import Columns, ColumnsFile, OnDemand, read_columns
from segtrain.data.store_folder import stores_folder
from segtrain.data.store_index import INDEX, KINDS, Entry, StoredPatient, read_index
from segtrain.data.store_reading import damaged, is_folder, means_damage, readable, waited_for
from segtrain.errors import DataError
from segtrain.runtime import files

log = logging.getLogger(__name__)

# Settings, besides regions, that decide what is read and how it is prepared.
READING = (
    "files", "contrasts", "missing", "ignore", "remap", "soft_above", "rater", "resample", "protocol", "spacing_mm",
)  # fmt: skip
DIGITS = 12  # of the fingerprint in a store's name
FORMAT = 2  # of the files of a store and of how a source's files are read; a change prepares all stores anew


@dataclass(frozen=True)
class Store:
    """A built store, opened: columns in memory, arrays and whole entries of the index read on demand.

    patients: read whole; what is wanted of many patients, `columns` may have. regions: the labels of each region; None
    where the source's masks are black and white. warnings: what looked wrong when the data were prepared. source: the
    layout that `data.source=auto` found. licence: as the data state it. sha256: of each patient's files by folder,
    checked when a process first reads the patient; none in stores of earlier versions.
    """

    path: Path
    label: str
    size_px: int
    patients: Mapping[str, StoredPatient]
    skipped: dict[str, str]
    contrasts: tuple[str, ...] = LGG_CONTRASTS
    regions: Mapping[str, tuple[int, ...]] | None = None
    ignore: tuple[int, ...] = ()
    remap: Mapping[int, int] | None = None
    warnings: tuple[str, ...] = ()
    source: str | None = None
    licence: str | None = None
    sha256: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _verified: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def layout(self) -> MaskLayout:
        """What a mask's bits are."""
        return MaskLayout(tuple(self.regions or (LESION,)), bool(self.ignore))

    @cached_property
    def columns(self) -> Columns:
        """What a start needs of all patients."""
        return self.patients.columns if isinstance(self.patients, OnDemand) else Columns.of(self.patients.values())

    def resolved(self, cfg: DataConfig) -> DataConfig:
        """The config with the contrasts, regions, ignored labels and licence of the data where it was silent."""
        if self.source and cfg.source == "auto":
            cfg = replace(cfg, source=self.source)
        cfg = replace(cfg, licence=cfg.licence or self.licence)
        return _filled(cfg, self.contrasts, self.regions, self.ignore)

    def read(self, patient: str, first: int, image_shwc: NDArray[np.float16], mask_shw: NDArray[np.uint8]) -> None:
        """Fill both arrays with slices from `first` on; waits for a folder that is away. Raises DataError."""
        waited_for(self.path, partial(self._read, patient, first, image_shwc, mask_shw))

    def _read(self, patient: str, first: int, image_shwc: NDArray[np.float16], mask_shw: NDArray[np.uint8]) -> None:
        """Raises OSError where the folder may be away, DataError where the file alone is missing or cut short."""
        arrays: dict[str, NDArray[Any]] = {"images": image_shwc, "masks": mask_shw}
        for kind, array in arrays.items():
            path = self.path / kind / f"{patient}.npy"
            with self._reading(path), path.open("rb") as file:
                header_bytes = 10 + int.from_bytes(file.read(10)[8:], "little")  # version 1.0 of the format
                file.seek(header_bytes + first * array[0].nbytes)
                read_bytes = file.readinto(array.data.cast("B"))
            if read_bytes != array.nbytes:
                raise DataError(f"{path}: cut short; rename {self.path} and it is built again")
        if patient not in self._verified:
            self.verify(patient)

    def verify(self, patient: str) -> None:
        """Raises DataError where a file of the patient is not what was prepared, OSError where it cannot be read."""
        for kind, expected in self.sha256.get(patient, {}).items():
            path = self.path / kind / f"{patient}.npy"
            with self._reading(path):
                is_whole = files.sha256(path) == expected
            if not is_whole:
                raise DataError(f"{path}: is not what was prepared, damaged; rename {self.path} and it is built again")
        self._verified.add(patient)

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Turns a file that is missing or private in the block into a DataError, unless the whole store is away."""
        try:
            with readable(path):
                yield
        except FileNotFoundError as error:
            if not (self.path / INDEX).exists():
                raise
            raise DataError(f"{path}: is missing; rename {self.path} and it is built again") from error

    def volume(self, patient: str) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """All slices of a patient: image float16 [s, h, w, c], mask uint8 [s, h, w]."""
        shape = *self.columns.slices_of([patient]).values(), self.size_px, self.size_px
        image_shwc, mask_shw = np.empty((*shape, len(self.contrasts)), np.float16), np.empty(shape, np.uint8)
        self.read(patient, 0, image_shwc, mask_shw)
        return image_shwc, mask_shw

    def pixels(self, patients: Iterable[str]) -> dict[str, str]:
        """The hashes of the patients' images, as far as they are known."""
        names = list(patients)
        hashes = self.columns.pixels[self.columns.rows(names)].tolist()
        return {patient: digest.decode() for patient, digest in zip(names, hashes, strict=True) if digest}

    def require(self, patients: Iterable[str]) -> None:
        """Raises DataError for a patient that the store does not have."""
        if strangers := sorted(set(patients) - self.patients.keys()):
            raise DataError(
                f"patient {strangers[0]} is not in {self.label} ({len(strangers)} such); set data.root to the data "
                "that has it"
            )


def resolved_by_source(cfg: DataConfig, source: Source | None = None) -> DataConfig:
    """As `Store.resolved`, by names of files and headers alone: for what comes before there is a store.

    source: that of the config, where it was made already. Raises DataError or ConfigError: it cannot be found.
    """
    if cfg.source == "lgg":
        return cfg  # nothing is left to the data, and the folder may not be at hand
    source = source or make_source(cfg)
    return _filled(cfg, source.contrasts, source.rules.regions, source.rules.ignore)


def _filled(
    cfg: DataConfig,
    contrasts: tuple[str, ...],
    regions: Mapping[str, tuple[int, ...]] | None,
    ignore: tuple[int, ...],
) -> DataConfig:
    contrasts_of_data = None if contrasts == LGG_CONTRASTS else contrasts
    try:
        return replace(
            cfg,
            contrasts=cfg.contrasts or contrasts_of_data,
            regions=cfg.regions or (None if regions is None else dict(regions)),
            ignore=ignore,
        )
    except ValidationError as error:
        first = error.errors()[0]
        what = ".".join(map(str, first["loc"]))
        raise DataError(f"{cfg.root}: gives data.{what}={first['input']!r}: {first['msg']}; mend the data") from error


def store_path(cfg: DataConfig, source_fingerprint: str) -> Path:
    """The folder of this source's store at these settings, built or not."""
    return stores_folder(cfg) / f"{_settings(cfg)}-{source_fingerprint[:DIGITS]}"


def stores_like(cfg: DataConfig) -> list[Path]:
    """The stores at these settings, of any content, without those that a user has renamed."""
    return sorted(stores_folder(cfg).glob(f"{_settings(cfg)}-{'[0-9a-f]' * DIGITS}"))


def _settings(cfg: DataConfig) -> str:
    settings = repr((FORMAT, VERSIONS[cfg.protocol], cfg.image_size, cfg.skip_bad))
    if cfg.regions and len(cfg.regions) == 1:  # its name changes no voxel
        (labels,) = cfg.regions.values()
        settings += f" lesion {sorted(set(labels))}"
    elif cfg.regions:
        settings += f" regions {dict(cfg.regions)}"
    default = DataConfig()
    settings += "".join(f" {key}={value}" for key in READING if (value := getattr(cfg, key)) != getattr(default, key))
    return f"{_source_name(cfg)}-{cfg.image_size}px-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _source_name(cfg: DataConfig) -> str:
    """The source's name in a folder's: a part of the user's own has a path, and options, which its fingerprint has."""
    reference = Reference.parse(name_of(cfg.source))
    return name_of(cfg.source) if reference is None else re.sub(r"\W", "_", reference.name)


def is_built(path: Path) -> bool:
    """Whether the store at `path` is there; waits where that cannot be told. Raises DataError: in a private folder."""
    return waited_for(path, partial(is_folder, path))


def open_store(path: Path, check_files: bool = True) -> Store:
    """The store at `path`. Raises DataError when its index or a file of it is private, missing or damaged.

    Waits where they cannot be read now. check_files: else neither the files nor the whole index are looked at, as where
    another process of this node has done so.
    """
    return waited_for(path, partial(_open_store, path, check_files))


def _open_store(path: Path, check_files: bool) -> Store:
    """Raises DataError: private, missing or damaged; OSError where the folder may be away."""
    patients: Mapping[str, StoredPatient]
    sha256: Mapping[str, Mapping[str, str]]
    try:
        with readable(path):
            file = read_columns(path)
            if file is not None:
                index, sizes = file.index, dict(zip(file.columns.patients, file.bytes.tolist(), strict=True))
                patients = OnDemand(file.columns, partial(_patient_of, path, file))
                sha256 = OnDemand(file.columns, partial(_hashes_of, path, file))
                if check_files:
                    file.refuse_other_index(path)
            else:
                index, patients, stored_files = read_index(path)
                sizes = {patient: [own.bytes[kind] for kind in KINDS] for patient, own in stored_files.items()}
                sha256 = {patient: own.sha256 for patient, own in stored_files.items()}
            if check_files:
                _check_files(path, sizes)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and not means_damage(error):
            raise
        raise damaged(path, error) from error
    return Store(
        path=path,
        label=index.label,
        size_px=index.size_px,
        patients=patients,
        skipped=dict(index.skipped),
        contrasts=index.contrasts,
        regions=index.regions,
        ignore=index.ignore,
        remap=index.remap,
        warnings=index.warnings,
        sha256=sha256,
    )


def _patient_of(path: Path, file: ColumnsFile, patient: str) -> StoredPatient:
    return waited_for(path, partial(_entry, path, file, patient))[0]


def _hashes_of(path: Path, file: ColumnsFile, patient: str) -> Mapping[str, str]:
    return waited_for(path, partial(_entry, path, file, patient))[1].sha256


def _entry(path: Path, file: ColumnsFile, patient: str) -> Entry:
    """Raises DataError: damaged or private; OSError."""
    try:
        with readable(path):
            return file.entry(path, patient)
    except ValueError as error:
        raise damaged(path, error) from error


def _check_files(store: Path, sizes: Mapping[str, Iterable[int]]) -> None:
    """Strings in place of paths: of 100,000 patients, making the paths takes longer than asking the system."""
    for patient, of_patient in sizes.items():
        for kind, size in zip(KINDS, of_patient, strict=True):
            file = f"{store}/{kind}/{patient}.npy"
            if (size_now := os.stat(file).st_size) != size:  # noqa: PTH116
                raise DataError(f"{file}: {size_now} bytes in place of {size}; rename {store} and it is built again")
            if not os.access(file, os.R_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)
