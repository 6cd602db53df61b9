"""index.json of a store: what was prepared, checked against its own hash and against the files' sizes.

    {"label": ..., "size_px": ..., "patients": [a line for each], "sha256": the hash of all that stands before it}

An index of an earlier version has no hash, and nothing that this version does not know. Whole indices are read of
stores of earlier versions alone; of others see store_columns.py.
"""

import gc
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from segtrain.config import LGG_CONTRASTS
from segtrain.config.json_text import json_in
from segtrain.data.geometry import Geometry

INDEX = "index.json"
OWN = "sha256"  # the entry about the index itself
MASK_BYTES, IMAGE_BYTES = 1, 2  # of a voxel: uint8, float16
KINDS = ("images", "masks")  # of a patient's files, and their folders
Count = Annotated[int, Field(ge=0, le=2**53)]
Side = Annotated[int, Field(ge=1)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class StoredPatient:
    """A patient's entry in the index.

    areas: per prepared slice the pixels of any region; unlabelled: slices of which no voxel is known; spacing_mm: in
    the source, between slices, rows and columns; label_voxels, region_voxels: in the source, of each value of the
    mask's files, and of each region; person: where the source names whose scan it is; pixels, mask: hashes of what was
    read, empty in stores of earlier versions (content.py).
    """

    patient: str
    institution: str
    areas: tuple[Count, ...]
    slice_numbers: tuple[int, ...]  # the source's numbers of the prepared slices
    geometry: Geometry
    missing_channels: tuple[str, ...]
    unlabelled: tuple[Count, ...] = ()
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    label_voxels: Mapping[int, Count] = field(default_factory=dict)
    region_voxels: tuple[Count, ...] = ()
    person: str | None = None
    pixels: str = ""
    mask: str = ""

    @property
    def slices(self) -> int:
        return len(self.areas)

    @property
    def lesion_voxels(self) -> int:
        return sum(self.areas)


@dataclass(frozen=True)
class StoredFiles:
    """The files of a patient by folder, `images` and `masks`: their sizes, and hashes where there are any."""

    bytes: Mapping[str, Count]
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """The content of an index, without its patients; see `Store`."""

    label: str
    size_px: Side
    skipped: Mapping[str, str]
    contrasts: tuple[str, ...] = LGG_CONTRASTS
    regions: Mapping[str, tuple[int, ...]] | None = None
    ignore: tuple[int, ...] = ()
    remap: Mapping[int, int] | None = None
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""


Entry = tuple[StoredPatient, StoredFiles]


def with_hash(index: Mapping[str, Any]) -> dict[str, Any]:
    """The index as it is written."""
    tree = json.loads(json.dumps(index))
    return {**tree, OWN: _hash(tree)}


def read_index(path: Path) -> tuple[Index, dict[str, StoredPatient], dict[str, StoredFiles]]:
    """The index of the store at `path`, its patients and their files. Raises OSError; ValueError: damaged."""
    with without_collections():
        return _read_index(path)


@contextmanager
def without_collections() -> Iterator[None]:
    """No search for unreachable cycles in the block: an index has none, and the search takes long as it grows."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_index(path: Path) -> tuple[Index, dict[str, StoredPatient], dict[str, StoredFiles]]:
    tree = json_in(path / INDEX)
    if not isinstance(tree, dict) or not isinstance(tree.get("patients"), list):
        raise ValueError(f"{INDEX} lists no patients")
    written = tree.pop(OWN, None)
    if written is None and (unknown := tree.keys() - {"patients", *(key.name for key in fields(Index))}):
        raise ValueError(f"{INDEX} has no hash, but {sorted(unknown)[0]!r}")
    if written is not None and written != _hash(tree):
        raise ValueError(f"{INDEX} is not what was written")
    index = head_of(tree)
    entries = entries_of(index, tree["patients"])
    return index, {name: one for name, (one, _) in entries.items()}, {name: own for name, (_, own) in entries.items()}


def head_of(tree: Any) -> Index:
    """The index of its tree, without the patients. Raises ValueError."""
    return _checked(Index, tree, "")  # type: ignore[no-any-return]


def entries_of(index: Index, trees: Sequence[Any]) -> dict[str, Entry]:
    """The entries of all patients by name. Raises ValueError: one is wrong, or a patient is listed twice."""
    entries: dict[str, Entry] = {}
    for number, tree in enumerate(trees):
        entry = entry_of(index, tree, f"patients.{number}.")
        patient = entry[0].patient
        if patient in entries or Path(patient).name != patient:
            raise ValueError(f"patients.{number}.patient is {patient!r}")
        entries[patient] = entry
    return entries


def entry_of(index: Index, tree: Any, where: str) -> Entry:
    """A patient's entry of its tree. Raises ValueError."""
    patient, files = _checked(StoredPatient, tree, where), _checked(StoredFiles, tree, where)
    _refuse_unfit(index, patient, files, where)
    return patient, files


def _hash(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: type, tree: Any, where: str) -> Any:
    try:
        return _adapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{where}{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _refuse_unfit(index: Index, patient: StoredPatient, files: StoredFiles, where: str) -> None:
    """Raise ValueError where the numbers contradict each other: files are read by them."""
    if files.sha256 and files.sha256.keys() != set(KINDS):
        raise ValueError(f"{where}sha256 is not of {', '.join(KINDS)}")
    slices, voxels = patient.slices, patient.slices * index.size_px**2
    needed = {"images": voxels * len(index.contrasts) * IMAGE_BYTES, "masks": voxels * MASK_BYTES}
    for kind, size in needed.items():
        if not slices or files.bytes.get(kind, 0) < size:
            raise ValueError(f"{where}bytes.{kind} is {files.bytes.get(kind)} for {slices} slices of {size} bytes")
    if len(patient.slice_numbers) != slices or max(patient.unlabelled, default=0) >= slices:
        raise ValueError(f"{where}slice_numbers or unlabelled is not of {slices} slices")
    if len(patient.region_voxels) not in (0, len(index.regions or [0])):
        raise ValueError(f"{where}region_voxels has {len(patient.region_voxels)} values")
    geometry = patient.geometry
    is_inside = all(0 <= a < b <= side for (a, b), side in zip(geometry.box, geometry.source_shape, strict=True))
    if not is_inside or geometry.size_px != index.size_px or geometry.box[0][1] - geometry.box[0][0] != slices:
        raise ValueError(f"{where}geometry is not of {slices} slices of {index.size_px} px")
