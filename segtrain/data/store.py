"""The store: a source prepared once, read by every run with the same source and settings.

    <data.store>/<source>-<size>px-<settings>-<fingerprint>/
        index.json             fingerprint, per-patient geometry and slice areas, patients left out
        images/<patient>.npy   float16 [slice, size, size, contrast], z-scored
        masks/<patient>.npy    uint8 bits of regions [slice, size, size]

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
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from segtrain.config import LESION, LGG_CONTRASTS, DataConfig, MaskLayout, Reference, name_of
from segtrain.data.geometry import Geometry
from segtrain.data.preprocess import VERSIONS
from segtrain.data.sources import Source, make_source
from segtrain.errors import DAMAGED, DataError
from segtrain.runtime import files, machine
from segtrain.runtime.outbox import patiently

log = logging.getLogger(__name__)

INDEX = "index.json"
# Settings, besides regions, that decide what is read and how it is prepared.
READING = (
    "files", "contrasts", "missing", "ignore", "remap", "soft_above", "rater", "resample", "protocol", "spacing_mm",
)  # fmt: skip
FORMAT = 2  # of the files of a store and of how a source's files are read; a change prepares all stores anew


@dataclass(frozen=True)
class StoredPatient:
    """A patient's entry in the index.

    areas: per prepared slice the pixels of any region; unlabelled: slices of which no voxel is known; spacing_mm: in
    the source, between slices, rows and columns; label_voxels, region_voxels: in the source, of each value of the
    mask's files, and of each region; person: where the source names whose scan it is.
    """

    patient: str
    institution: str
    areas: tuple[int, ...]
    slice_numbers: tuple[int, ...]  # the source's numbers of the prepared slices
    geometry: Geometry
    missing_channels: tuple[str, ...]
    unlabelled: tuple[int, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    label_voxels: Mapping[int, int] = field(default_factory=dict)
    region_voxels: tuple[int, ...] = ()
    person: str | None = None

    @property
    def slices(self) -> int:
        return len(self.areas)

    @property
    def lesion_voxels(self) -> int:
        return sum(self.areas)


@dataclass(frozen=True)
class Store:
    """A built store, opened: the index in memory, the arrays read on demand.

    regions: the labels of each region; None where the source's masks are black and white. warnings: what looked wrong
    when the data were prepared. source: the layout that `data.source=auto` found.
    """

    path: Path
    label: str
    size_px: int
    patients: dict[str, StoredPatient]
    skipped: dict[str, str]
    contrasts: tuple[str, ...] = LGG_CONTRASTS
    regions: Mapping[str, tuple[int, ...]] | None = None
    ignore: tuple[int, ...] = ()
    remap: Mapping[int, int] | None = None
    warnings: tuple[str, ...] = ()
    source: str | None = None

    @property
    def layout(self) -> MaskLayout:
        """What a mask's bits are."""
        return MaskLayout(tuple(self.regions or (LESION,)), bool(self.ignore))

    def resolved(self, cfg: DataConfig) -> DataConfig:
        """The config with the contrasts, regions and ignored labels that came with the data where it was silent."""
        if self.source and cfg.source == "auto":
            cfg = replace(cfg, source=self.source)
        return _filled(cfg, self.contrasts, self.regions, self.ignore)

    def read(self, patient: str, first: int, image_shwc: NDArray[np.float16], mask_shw: NDArray[np.uint8]) -> None:
        """Fill both arrays with slices from `first` on; waits for a folder that is away. Raises DataError."""
        try:
            patiently(self.path, partial(self._read, patient, first, image_shwc, mask_shw))
        except OSError as error:
            if machine.shortage(error):  # told by whoever ends the command
                raise
            reason = error.strerror or error
            raise DataError(f"{self.path}: cannot be read ({reason}); bring the folder back and try again") from error

    def _read(self, patient: str, first: int, image_shwc: NDArray[np.float16], mask_shw: NDArray[np.uint8]) -> None:
        """Raises OSError where the folder may be away, DataError where the file alone is missing or cut short."""
        arrays: dict[str, NDArray[Any]] = {"images": image_shwc, "masks": mask_shw}
        for kind, array in arrays.items():
            path = self.path / kind / f"{patient}.npy"
            try:
                with readable(path), path.open("rb") as file:
                    header_bytes = 10 + int.from_bytes(file.read(10)[8:], "little")  # version 1.0 of the format
                    file.seek(header_bytes + first * array[0].nbytes)
                    read_bytes = file.readinto(array.data.cast("B"))
            except FileNotFoundError as error:
                if not (self.path / INDEX).exists():
                    raise
                raise DataError(f"{path}: is missing; rename {self.path} and it is built again") from error
            if read_bytes != array.nbytes:
                raise DataError(f"{path}: cut short; rename {self.path} and it is built again")

    def volume(self, patient: str) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """All slices of a patient: image float16 [s, h, w, c], mask uint8 [s, h, w]."""
        shape = self.patients[patient].slices, self.size_px, self.size_px
        image_shwc, mask_shw = np.empty((*shape, len(self.contrasts)), np.float16), np.empty(shape, np.uint8)
        self.read(patient, 0, image_shwc, mask_shw)
        return image_shwc, mask_shw

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
    return replace(
        cfg,
        contrasts=cfg.contrasts or contrasts_of_data,
        regions=cfg.regions or (None if regions is None else dict(regions)),
        ignore=ignore,
    )


def store_path(cfg: DataConfig, source_fingerprint: str) -> Path:
    """The folder of this source's store at these settings, built or not."""
    return Path(cfg.store).expanduser() / f"{_settings(cfg)}-{source_fingerprint[:12]}"


def stores_like(cfg: DataConfig) -> list[Path]:
    """The stores at these settings, of any content."""
    return sorted(Path(cfg.store).expanduser().glob(f"{_settings(cfg)}-*"))


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
    """Whether the store at `path` is there. Raises DataError for one in a private folder."""
    with readable(path):
        return path.is_dir()


def open_store(path: Path) -> Store:
    """The store at `path`. Raises DataError when its index or a file of it is private, missing or of the wrong size."""
    adapter = TypeAdapter(StoredPatient)
    try:
        with readable(path):
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            patients = {entry["patient"]: adapter.validate_python(entry) for entry in index["patients"]}
            for entry in index["patients"]:
                for kind, size in entry["bytes"].items():
                    _check_file(path / kind / f"{entry['patient']}.npy", size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged store ({' '.join(str(error).split())}); rename it and it is built again"
        ) from error
    regions, remap = index.get("regions"), index.get("remap")
    return Store(
        path=path,
        label=index["label"],
        size_px=index["size_px"],
        patients=patients,
        skipped=index["skipped"],
        contrasts=tuple(index.get("contrasts", LGG_CONTRASTS)),
        regions=regions and {name: tuple(labels) for name, labels in regions.items()},
        ignore=tuple(index.get("ignore", ())),
        remap=remap and {int(label): target for label, target in remap.items()},
        warnings=tuple(index.get("warnings", ())),
    )


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
        return str(json.loads((path / INDEX).read_text(encoding="utf-8"))["label"])
    except DAMAGED:
        return None
