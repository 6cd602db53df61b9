"""What a start needs of all patients of a store, as columns beside index.json: a rank does not read the whole index.

    columns-<SHA-256 of the file>.npz
        text                        JSON: the index without its patients, its SHA-256, names, and people where known
        slices, areas, ...          see Columns
        bytes, span, digest         sizes of a patient's files; first and last byte of its entry in index.json; SHA-256
                                    of the entry

`prepare` writes both. A file that does not have the hash in its name is damaged. A store of an earlier version has no
such file, one of a later version perhaps another: its index is read, and the columns are made of that.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segtrain.config.json_text import parse_json
from segtrain.data.ragged import Ragged, starts
from segtrain.data.store_index import (
    INDEX,
    KINDS,
    OWN,
    Entry,
    Index,
    StoredPatient,
    entries_of,
    entry_of,
    head_of,
    read_index,
    with_hash,
    without_collections,
)
from segtrain.runtime import files
from segtrain.text_file import open_file

log = logging.getLogger(__name__)

PATTERN = "columns-*.npz"
NONE = -1  # in place of a count that an earlier version did not make

Spacing = tuple[float, float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """Of all patients, in the order of the index; see StoredPatient.

    people: of the patients whose person the source names. slices: int64 [patient]; areas: of each patient's slices;
    unlabelled: bool, a flag for each number of `areas`; spacing_mm: float64 [patient, 3], NaN where it is not known;
    region_voxels: int64 [patient, region]; pixels, mask: ASCII [patient].
    """

    patients: tuple[str, ...]
    people: Mapping[str, str]
    areas: Ragged
    unlabelled: NDArray[np.bool_]
    spacing_mm: NDArray[np.float64]
    region_voxels: NDArray[np.int64]
    pixels: NDArray[np.bytes_]
    mask: NDArray[np.bytes_]

    @classmethod
    def of(cls, patients: Iterable[StoredPatient]) -> "Columns":
        """Those of these patients."""
        every = list(patients)
        areas = Ragged.of([one.areas for one in every])
        unlabelled = np.zeros(len(areas.flat), bool)
        for first, one in zip(areas.first.tolist(), every, strict=True):
            if one.unlabelled:
                unlabelled[np.add(first, one.unlabelled)] = True
        regions = max((len(one.region_voxels) for one in every), default=0)
        none = (NONE,) * regions
        return cls(
            tuple(one.patient for one in every),
            {one.patient: one.person for one in every if one.person},
            areas,
            unlabelled,
            np.array([one.spacing_mm or (np.nan,) * 3 for one in every], float).reshape(len(every), 3),
            np.array([one.region_voxels or none for one in every], np.int64).reshape(len(every), regions),
            np.array([one.pixels for one in every], np.bytes_),
            np.array([one.mask for one in every], np.bytes_),
        )

    @property
    def slices(self) -> NDArray[np.int64]:
        """Of each patient, int64 [patient]."""
        return self.areas.counts

    @cached_property
    def row(self) -> Mapping[str, int]:
        """Where each patient is in the columns."""
        return {patient: number for number, patient in enumerate(self.patients)}

    def rows(self, patients: Iterable[str]) -> NDArray[np.int64]:
        """Where these are, in their order."""
        return np.array([self.row[patient] for patient in patients], np.int64)

    def slices_of(self, patients: Iterable[str]) -> dict[str, int]:
        """The number of slices of each of these."""
        names = list(patients)
        return dict(zip(names, self.slices[self.rows(names)].tolist(), strict=True))

    def spacings_of(self, patients: Iterable[str]) -> dict[str, Spacing | None]:
        """The spacing in mm of each of these, None where it is not known."""
        names = list(patients)
        known = self.spacing_mm[self.rows(names)].tolist()
        return {name: None if np.isnan(mm[0]) else (mm[0], mm[1], mm[2]) for name, mm in zip(names, known, strict=True)}

    def region_voxels_of(self, patients: Iterable[str]) -> list[list[int]]:
        """The voxels of each region of each of these, none where they were not counted."""
        return [[n for n in voxels if n != NONE] for voxels in self.region_voxels[self.rows(patients)].tolist()]


@dataclass(frozen=True)
class ColumnsFile:
    """The file, and how an entry of the index is read by it.

    sha256: of index.json; bytes: int64 [patient, kind] as in KINDS; span: int64 [patient, 2]; digest: uint8
    [patient, 32].
    """

    index: Index
    columns: Columns
    sha256: str
    bytes: NDArray[np.int64]
    span: NDArray[np.int64]
    digest: NDArray[np.uint8]

    def refuse_other_index(self, store: Path) -> None:
        """Read all of the index. Raises OSError; ValueError where it is not the one that was written with this file."""
        if files.sha256(store / INDEX) != self.sha256:
            raise ValueError(f"{INDEX} is not what was written")

    def entry(self, store: Path, patient: str) -> Entry:
        """A patient's entry of the store's index. Raises OSError; ValueError: damaged; KeyError: there is none."""
        number = self.columns.row[patient]
        first, end = self.span[number].tolist()
        with open_file(store / INDEX) as file:
            file.seek(first)
            text = file.read(end - first)
        if hashlib.sha256(text).digest() != self.digest[number].tobytes():
            raise ValueError(f"{INDEX}: the entry of patient {patient} is not what was written")
        return entry_of(self.index, parse_json(text.decode()), f"patients.{number}.")


class OnDemand(Mapping[str, T]):
    """Something of each patient, read when it is asked for."""

    def __init__(self, columns: Columns, read: Callable[[str], T]) -> None:
        self.columns = columns
        self._read = read

    def __getitem__(self, patient: str) -> T:
        if patient not in self.columns.row:
            raise KeyError(patient)
        return self._read(patient)

    def __contains__(self, patient: object) -> bool:
        return patient in self.columns.row

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns.patients)

    def __len__(self) -> int:
        return len(self.columns.patients)


def write_index(store: Path, index: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    """Write index.json, a line for each patient, and the columns. Raises OSError; ValueError: an entry is wrong."""
    with without_collections():
        tree = with_hash({**index, "patients": entries})
        digest, trees = tree.pop(OWN), tree.pop("patients")
        head = head_of(tree)
        checked = entries_of(head, trees).values()
        lines = [json.dumps(entry) for entry in trees]  # ASCII, so that letters are bytes
        before = json.dumps(tree, indent=1).removesuffix("\n}") + ',\n "patients": [\n'
        text = before + ",\n".join(lines) + f'\n ],\n "{OWN}": "{digest}"\n}}\n'
        files.write_text(store / INDEX, text)
        sizes = np.array([len(line) for line in lines])
        first = len(before) + starts(sizes + len(",\n"))
        _write_columns(
            store,
            ColumnsFile(
                head,
                Columns.of(patient for patient, _ in checked),
                hashlib.sha256(text.encode()).hexdigest(),
                np.array([[own.bytes[kind] for kind in KINDS] for _, own in checked], np.int64),
                np.stack([first, first + sizes], axis=1),
                np.array([list(hashlib.sha256(line.encode()).digest()) for line in lines], np.uint8),
            ),
        )


def _write_columns(store: Path, file: ColumnsFile) -> None:
    columns = file.columns
    text = {
        "index": asdict(file.index),
        "sha256": file.sha256,
        "patients": columns.patients,
        "people": columns.people,
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        text=np.frombuffer(json.dumps(text).encode(), np.uint8),
        slices=columns.slices,
        areas=columns.areas.flat.astype(np.min_scalar_type(int(columns.areas.flat.max(initial=0)))),
        unlabelled=columns.unlabelled,
        spacing_mm=columns.spacing_mm,
        region_voxels=columns.region_voxels,
        pixels=columns.pixels,
        mask=columns.mask,
        bytes=file.bytes,
        span=file.span,
        digest=file.digest,
    )
    content = buffer.getvalue()
    with files.aside(store / PATTERN.replace("*", hashlib.sha256(content).hexdigest())) as temporary:
        temporary.write_bytes(content)


def read_columns(store: Path) -> ColumnsFile | None:
    """The columns of the store; None: it has none, or another version's. Raises OSError; ValueError: damaged."""
    name = next((name for name in sorted(store.iterdir()) if name.match(PATTERN)), None)
    if name is None:
        return None
    with open_file(name) as opened:
        content = opened.read()
    if PATTERN.replace("*", hashlib.sha256(content).hexdigest()) != name.name:
        raise ValueError(f"{name.name} is not what was written")
    with np.load(io.BytesIO(content)) as arrays, suppress(KeyError):  # as written, but not as this version writes it
        text = json.loads(arrays["text"].tobytes())
        columns = Columns(
            tuple(text["patients"]),
            text["people"],
            Ragged(arrays["areas"].astype(np.int64), arrays["slices"]),
            *(arrays[name] for name in ("unlabelled", "spacing_mm", "region_voxels", "pixels", "mask")),
        )
        where = (arrays[name] for name in ("bytes", "span", "digest"))
        return ColumnsFile(head_of(text["index"]), columns, text["sha256"], *where)
    log.info("%s: its columns are of another version of segtrain; its index is read", store)
    return None


def label_of(store: Path) -> str | None:
    """The label of the store's source; None where it is damaged or private."""
    try:
        file = read_columns(store)
        return (file.index if file else read_index(store)[0]).label
    except (OSError, ValueError):
        return None
