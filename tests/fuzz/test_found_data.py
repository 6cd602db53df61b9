"""The smallest input of each fault that the fuzz found in stores and data: refused in one line that names the file."""

import contextlib
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from data_readers import DATASET_JSON, nnunet_files, slices_files, stored, volumes
from limits import limited_memory
from readers import KINDS
from refusals import DEEP, DIGITS, put, refusal

from segtrain.config import DataConfig
from segtrain.data.prepare import ensure_store, summary
from segtrain.data.splits import make_split
from segtrain.data.store import open_store
from segtrain.data.store_index import with_hash
from segtrain.errors import DataError


def changed(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda index: index | values


def of_patient(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda index: index | {"patients": [index["patients"][0] | values, *index["patients"][1:]]}


INDEXES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "regions": changed(regions={"whole": 0.5}),
    "ignore": changed(ignore=0.5),
    "a size of more than there is": changed(size_px=10**30),
    "no size": changed(size_px=0),
    "a name above the store": of_patient(patient="../A1"),
    "areas of other slices": of_patient(areas=[1]),
    "a box outside": of_patient(
        geometry={"source_shape": [1, 1, 1], "box": [[0, 9]] * 3, "pad": [[0, 0]] * 2, "size_px": 16}
    ),
    "a hash of another file": of_patient(sha256={"a\0b": "0"}),
    "voxels without end": of_patient(region_voxels=[10**400, 1]),
    "no number as spacing": of_patient(spacing_mm=[float("nan"), 1.0, 1.0]),
    "a file's size without end": of_patient(bytes={"images": 1e999, "masks": 1}),
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("what", INDEXES)
def test_a_store(what: str, tmp_path: Path) -> None:
    file = put(tmp_path, dict(stored())) / "store" / "index.json"
    index = json.loads(file.read_text())
    del index["sha256"]
    next(file.parent.glob("columns-*.npz")).unlink()  # as in stores of earlier versions
    for damaged in (INDEXES[what](index), with_hash(INDEXES[what](index))):
        file.write_text(json.dumps(damaged))
        assert f"{file.parent}: damaged store" in refusal(lambda: open_store(file.parent))


@pytest.mark.law("L12")
def test_any_letter_of_a_store_s_index(tmp_path: Path) -> None:
    file = put(tmp_path, dict(stored())) / "store" / "index.json"
    whole = open_store(file.parent)
    text = file.read_text()
    entries = dict(whole.patients)
    next(file.parent.glob("columns-*.npz")).unlink()  # as in stores of earlier versions
    assert open_store(file.parent).patients == entries
    for place in range(0, len(text), 7):
        file.write_text(text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :])
        with contextlib.suppress(DataError):
            assert open_store(file.parent).patients == entries, f"{text[place]!r} at {place}"


def test_a_store_with_a_link_to_itself_is_summed_up(tmp_path: Path) -> None:
    store = open_store(put(tmp_path, dict(stored())) / "store")
    whole = summary(store)
    (store.path / "images" / "more.npy").symlink_to("more.npy")
    assert summary(store) == whole


def test_a_store_s_index_that_is_nested_too_deeply(tmp_path: Path) -> None:
    file = put(tmp_path, dict(stored())) / "store" / "index.json"
    next(file.parent.glob("columns-*.npz")).unlink()  # as in stores of earlier versions
    file.write_text(DEEP)
    assert "nested too deeply" in refusal(lambda: open_store(file.parent))


def test_a_split_and_a_table_of_people(tmp_path: Path) -> None:
    store = open_store(put(tmp_path, dict(stored())) / "store")
    (tmp_path / "split.json").write_text(DEEP)
    cfg = DataConfig(root="x", source="nifti", split="file", split_file=str(tmp_path / "split.json"))
    assert "split.json: not a split (nested too deeply)" in refusal(lambda: make_split(cfg, store))
    (tmp_path / "people.csv").write_text(f"A1,{DIGITS}\nB2,{DIGITS[1:]}2\n")
    people = DataConfig(
        root="x", source="nifti", split="kfold", split_seed=44, folds=2, groups=str(tmp_path / "people.csv")
    )
    assert make_split(people, store).train
    (tmp_path / "people.csv").write_text("A1," * 10_000)
    assert "people.csv, line 1" in refusal(lambda: make_split(people, store))


def prepared(root: Path, source: str) -> Callable[[], object]:
    cfg = DataConfig(source=source, root=str(root), store=str(root.parent / "prepared"), image_size=16, workers=1)
    return lambda: ensure_store(cfg)


LISTS: dict[str, dict[str, Any]] = {
    "a lesion that is background": {"labels": {"background": 0, "lesion": 0}},
    "a label below 0": {"labels": {"background": 0, "lesion": -5}},
    "a label that is no whole number": {"labels": {"background": 0, "lesion": 1e999}},
    "a name with a zero byte": {"dataset": {"A1": {"images": ["a\0b"], "label": "x"}}},
    "a name without end": {"dataset": {"A1": {"images": ["a" * 300], "label": "x"}}},
    "a folder as image": {"dataset": {"A1": {"images": ["/"], "label": "x"}}},
    "images that are no list": {"dataset": {"A1": {"images": 5, "label": "x"}}},
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("what", LISTS)
def test_a_dataset_json(what: str, tmp_path: Path) -> None:
    root = put(tmp_path, dict(nnunet_files(random.Random(0)))) / "data"
    (root / "dataset.json").write_text(json.dumps({**DATASET_JSON, **LISTS[what]}))
    assert str(root / "dataset.json") in refusal(prepared(root, "nnunet"))
    (root / "dataset.json").write_text(DEEP)
    assert "nested too deeply" in refusal(prepared(root, "nnunet"))


def header(path: Path, **fields: Any) -> bytes:
    """The file with fields of its NIfTI header changed, without the check of whoever writes one."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    layout = nibabel.Nifti1Header.template_dtype
    for name, value in fields.items():
        kind, offset = dict(layout.fields or {})[name][:2]
        part = np.zeros((), kind)
        part[...] = value
        content[offset : offset + kind.itemsize] = part.tobytes()
    return gzip.compress(bytes(content), mtime=0)


HEADERS: dict[str, dict[str, Any]] = {
    "more voxels than the file has": {"dim": [3, 4000, 4000, 8, 1, 1, 1, 1]},
    "more voxels than a scan has": {"dim": [3, 4096, 4096, 4096, 1, 1, 1, 1]},
    "fewer voxels than none": {"dim": [3, -16, 16, 4, 1, 1, 1, 1]},
    "a longer side than a scan has": {"dim": [3, 32767, 1, 1, 1, 1, 1, 1]},
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("what", HEADERS)
def test_a_volume_that_says_it_holds_gigabytes(what: str, tmp_path: Path) -> None:
    root = put(tmp_path, dict(volumes()[0])) / "data"
    file = root / "A1_flair.nii.gz"
    file.write_bytes(header(file, **HEADERS[what]))
    with limited_memory():
        assert str(file) in refusal(prepared(root, "nifti"))


@pytest.mark.law("L12")
def test_a_picture_that_says_it_holds_gigabytes(tmp_path: Path) -> None:
    root = put(tmp_path, dict(slices_files(random.Random(1)))) / "data"
    (file,) = (root / "A1").glob("A1_1.png")
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 13_000, 13_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)
    with limited_memory():
        assert f"{file}: 13000x13000 is more than a scan has" in refusal(prepared(root, "slices"))


def test_a_link_to_itself_among_slices(tmp_path: Path) -> None:
    root = put(tmp_path, dict(slices_files(random.Random(1)))) / "data"
    (file,) = (root / "A1").glob("A1_1.png")
    file.unlink()
    file.symlink_to(file.name)
    assert str(file) in refusal(prepared(root, "slices"))


def test_all_kinds_that_are_promised() -> None:
    assert {"configs", "weights", "checkpoints", "slices", "nifti", "stores", "splits", "runs"} <= KINDS.keys()
