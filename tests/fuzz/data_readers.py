"""Readers of data: slices, volumes, data sets, stores, splits and tables, with valid files of each."""

import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from segtrain.commands.evaluate import _from_file
from segtrain.config import (
    DataConfig,
)
from segtrain.config.json_text import parse_json
from segtrain.data.label_table import label_rows, log_labels, region_rows
from segtrain.data.people import read_groups
from segtrain.data.prepare import ensure_store, log_left_out, summary, verify
from segtrain.data.sources import find_source
from segtrain.data.sources.open import LAYOUT_OF
from segtrain.data.sources.phantom import phantom_patient
from segtrain.data.splits import make_split
from segtrain.data.store import open_store
from segtrain.data.store_index import INDEX, with_hash

Files = Mapping[str, bytes]
SIDE = 16


def of_folder(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def once(make: Callable[[Path], None]) -> Files:
    """What `make` puts into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return of_folder(Path(folder))


def _image_bytes(array: np.ndarray, suffix: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG" if suffix == ".png" else "TIFF", **options)
    return stream.getvalue()


@lru_cache
def _slice_sets() -> list[Files]:
    image_shwc, mask_shw = phantom_patient(5, 1, 64)
    place = int(mask_shw.sum(axis=(1, 2)).argmax())
    image_shwc, mask_shw = image_shwc[place - 1 : place + 3, ::4, ::4], mask_shw[place - 1 : place + 3, ::4, ::4]
    sets: list[dict[str, bytes]] = []
    for suffix, kind in ((".tif", "rgb"), (".png", "rgb"), (".png", "grey"), (".tif", "16"), (".png", "palette")):
        files = {}
        for patient in ("A1", "B2"):
            for number, (image, mask) in enumerate(zip(image_shwc, mask_shw, strict=True), start=1):
                image = image if patient == "A1" else image[::-1] ^ np.uint8(1)
                pixels = image if kind == "rgb" else image[..., 1]
                if kind == "16":
                    pixels = pixels.astype(np.uint16) * np.uint16(200)
                white = mask.astype(np.uint8) * np.uint8(255)
                stem = f"data/{patient}/{patient}_{number}"
                files[f"{stem}{suffix}"] = _image_bytes(pixels, suffix)
                files[f"{stem}_mask{suffix}"] = _image_bytes(white, suffix)
                if kind == "palette":
                    stream = io.BytesIO()
                    Image.fromarray(white).convert("P").save(stream, "PNG")
                    files[f"{stem}_mask{suffix}"] = stream.getvalue()
        sets.append(files)
    spacing = {270: "ImageJ=1.53\nunit=mm\nspacing=2.0\n", 282: 1.0, 283: 1.0}
    sets[0]["data/A1/A1_1.tif"] = _image_bytes(image_shwc[0], ".tif", tiffinfo=spacing)
    return [{**files, "groups.csv": b"patient,person\nA1,a\nB2,b\n"} for files in sets]


def slices_files(rng: random.Random) -> Files:
    return rng.choice(_slice_sets())


def _prepare(folder: Path, source: str, rng: random.Random, **data: Any) -> None:
    """As `segtrain prepare` and `segtrain predict` read them."""
    root = folder / "data"
    data |= {"groups": str(folder / "groups.csv")} if rng.random() < 0.2 else {}
    if rng.random() < 0.5:
        layout = rng.choice((LAYOUT_OF["auto"], LAYOUT_OF[source]))
        images = find_source(root, layout, DataConfig(source=source))
        for patient in images.patients():
            volume = images.read(patient)
            shape = volume.image_shwc.shape[:3]
            images.write_mask(patient, np.zeros(shape, np.bool_), folder / "out")
            images.write_probability(patient, np.zeros(shape, np.float32), folder / "out")
        return
    cfg = DataConfig(
        source=rng.choice((source, "auto")),
        root=str(root),
        store=str(folder / "prepared"),
        image_size=SIDE,
        workers=1,
        skip_bad=rng.random() < 0.3,
        **data,
    )
    store = ensure_store(cfg)
    log_left_out(cfg, store)
    log_labels(store)
    summary(store, cfg.groups)
    for patient in store.patients:
        store.volume(patient)


def read_slices(folder: Path, rng: random.Random) -> None:
    is_lgg = (folder / "data" / "A1" / "A1_1.tif").exists()
    _prepare(folder, rng.choice(("lgg", "slices")) if is_lgg else "slices", rng)


@lru_cache
def volumes() -> list[Files]:
    rng = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE, 4), np.uint8)
    mask[5:10, 6:11, 1:3] = 1
    sets = []
    for ending, dtype in ((".nii.gz", np.int16), (".nii", np.uint8), (".nii.gz", np.float32)):
        files = {}
        for patient in ("A1", "B2"):
            for role in ("t1", "flair", "seg"):
                voxels = np.zeros(mask.shape, dtype)
                voxels[1:-1, 1:-1] = rng.integers(20, 250, (SIDE - 2, SIDE - 2, 4))
                image = nibabel.Nifti1Image(mask if role == "seg" else voxels, np.diag([-1.0, -1.0, 3.0, 1.0]))
                image.header.set_slope_inter(1, 0)
                files[f"data/{patient}_{role}{ending}"] = _volume_bytes(image, ending)
        sets.append(files)
    return [{**files, "groups.csv": b"patient,person\nA1,a\nB2,b\n"} for files in sets]


def _volume_bytes(image: Any, ending: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"v{ending}"
        nibabel.save(image, path)
        return path.read_bytes()


def nifti_files(rng: random.Random) -> Files:
    return rng.choice(volumes())


def read_nifti(folder: Path, rng: random.Random) -> None:
    more: dict[str, Any] = {"regions": {"lesion": (1,)}} if rng.random() < 0.3 else {}
    if rng.random() < 0.2:
        more["resample"] = "truth"
    if rng.random() < 0.2:
        more["spacing_mm"] = 2.0
        more["protocol"] = "zscore"
    _prepare(folder, "nifti", rng, **more)


DATASET_JSON: Mapping[str, Any] = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "whole": [1, 2], "core": 1},
    "regions_class_order": [1, 2],
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
DECATHLON: Mapping[str, Any] = {
    "name": "x",
    "tensorImageSize": "3D",
    "modality": {"0": "T1", "1": "FLAIR"},
    "labels": {"0": "background", "1": "lesion"},
    "numTraining": 2,
    "training": [{"image": f"./imagesTr/{p}.nii.gz", "label": f"./labelsTr/{p}.nii.gz"} for p in ("A1", "B2")],
    "test": [],
}


def nnunet_files(rng: random.Random) -> Files:
    given = volumes()[0]
    files = {"data/dataset.json": json.dumps(rng.choice((DATASET_JSON, DECATHLON))).encode()}
    for patient in ("A1", "B2"):
        for number, role in enumerate(("t1", "flair")):
            files[f"data/imagesTr/{patient}_{number:04d}.nii.gz"] = given[f"data/{patient}_{role}.nii.gz"]
        files[f"data/labelsTr/{patient}.nii.gz"] = given[f"data/{patient}_seg.nii.gz"]
    return {**files, "groups.csv": given["groups.csv"]}


def read_nnunet(folder: Path, rng: random.Random) -> None:
    _prepare(folder, "nnunet", rng)


@lru_cache
def stored() -> Files:
    def make(folder: Path) -> None:
        for name, content in volumes()[0].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        store = ensure_store(
            DataConfig(source="nifti", root=str(folder / "data"), store=str(folder), image_size=SIDE, workers=1,
                       regions={"whole": (1, 2), "core": (1,)})
        )  # fmt: skip
        store.path.rename(folder / "store")
        shutil.rmtree(folder / "data")

    stored = once(make)
    return {name: content for name, content in stored.items() if name.startswith("store/")}


def read_store(folder: Path, rng: random.Random) -> None:
    if rng.random() < 0.6:
        _forge_index(folder / "store" / INDEX)
    store = open_store(folder / "store")
    label_rows(store)
    region_rows(store)
    log_labels(store)
    summary(store)
    make_split(DataConfig(validation_patients=1, root="x", source="nifti"), store)
    for patient in store.patients:
        store.volume(patient)
    verify(store)


def _forge_index(file: Path) -> None:
    """Make the hash in the index fit the rest, where there is any, in a store of an earlier version."""
    if not file.is_file() or file.is_symlink():
        return
    for columns in file.parent.glob("columns-*.npz"):
        if not columns.is_dir():
            columns.unlink()
    try:
        tree = parse_json(file.read_text())
    except ValueError:
        return
    if isinstance(tree, dict):
        tree.pop("sha256", None)
        file.write_text(json.dumps(with_hash(tree)))


def split_files(rng: random.Random) -> Files:
    one = {"train": ["A1"], "validation": ["B2"]}
    folds = [{"train": ["A1"], "val": ["B2"]}, {"train": ["B2"], "val": ["A1"]}]
    return {
        "split.json": json.dumps(rng.choice((one, folds, ["A1", "B2"]))).encode(),
        "groups.csv": b"patient,person\nA1,a\nB2,b\n",
        **stored(),
    }


def read_splits(folder: Path, rng: random.Random) -> None:
    store = open_store(folder / "store")
    cfg = DataConfig(root="x", source="nifti", split="file", split_file=str(folder / "split.json"))
    way = rng.randrange(4)
    if way == 0:
        store.require(_from_file(folder / "split.json"))
    elif way == 1:
        read_groups(folder / "groups.csv")
        make_split(replace(cfg, split="kfold", folds=2, groups=str(folder / "groups.csv")), store)
    else:
        make_split(replace(cfg, fold=way - 2, groups=str(folder / "groups.csv") if way == 3 else None), store)
