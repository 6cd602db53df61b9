"""Data known by their content: damaged stores, changed sources, patients under another name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import run
from predictions import table, write_patient

from segtrain.commands import evaluate as evaluate_command
from segtrain.commands import predict as predict_command
from segtrain.commands import prepare as prepare_command
from segtrain.config import Config, DataConfig, to_yaml
from segtrain.data.prepare import ensure_store, verify
from segtrain.data.sources.phantom import phantom_patient
from segtrain.data.store import Store, open_store
from segtrain.errors import DataError
from segtrain.run import Run
from segtrain.runtime.process import run_command


def sevens(file: Path) -> None:
    mask = np.load(file)
    mask[:] = 7
    with file.open("wb") as stream:
        np.lib.format.write_array(stream, mask, version=(1, 0))


def zeros(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:128] + bytes(len(content) - 128))


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a mask of sevens": ("masks", sevens),
    "an image of zeros": ("images", zeros),
    "one bit of an image": ("images", one_bit),
}


@pytest.fixture
def copied(tiny_store: Store, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    return Path(shutil.copytree(tiny_store.path, tmp_path / tiny_store.path.name))


@pytest.mark.law("L11")
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_of_a_store_is_refused_when_it_is_read(copied: Path, how: str) -> None:
    kind, damage = DAMAGE[how]
    first, second, *_ = sorted(open_store(copied).patients)
    damage(copied / kind / f"{second}.npy")
    store = open_store(copied)
    store.volume(first)
    with pytest.raises(DataError, match=rf"{second}.npy: is not what was prepared.*rename"):
        store.volume(second)


@pytest.mark.law("L11")
def test_prepare_verifies_every_file(tiny: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = replace(tiny.data, store=str(tmp_path / "store"))
    path = ensure_store(cfg).path
    (tmp_path / "c.yaml").write_text(to_yaml(replace(tiny, data=cfg)))
    arguments = ["--verify", "--config", str(tmp_path / "c.yaml")]
    assert run_command(prepare_command.command, arguments) == 0
    assert "are what was prepared" in capsys.readouterr().err
    patients = sorted(open_store(path).patients)
    for patient, (kind, damage) in zip(patients, DAMAGE.values(), strict=False):
        damage(path / kind / f"{patient}.npy")
    assert run_command(prepare_command.command, arguments) == 2
    output = capsys.readouterr().err
    assert "(and 2 more patients)" in output.splitlines()[-1]
    assert all(f"{patient}.npy: is not what was prepared" in output for patient in patients[: len(DAMAGE)])


def test_a_store_of_an_earlier_version_is_read_and_cannot_be_verified(copied: Path, tiny_store: Store) -> None:
    index = json.loads((copied / "index.json").read_text())
    del index["sha256"]
    for entry in index["patients"]:
        for key in ("sha256", "pixels", "mask"):
            del entry[key]
    (copied / "index.json").write_text(json.dumps(index))
    next(copied.glob("columns-*.npz")).unlink()
    store = open_store(copied)
    for patient in store.patients:
        (image_shwc, mask_shw), (theirs_shwc, theirs_shw) = store.volume(patient), tiny_store.volume(patient)
        assert np.array_equal(image_shwc, theirs_shwc)
        assert np.array_equal(mask_shw, theirs_shw)
    assert store.pixels(store.patients) == {}
    with pytest.raises(DataError, match="earlier version"):
        verify(store)


@pytest.fixture
def slices_of_a_lab(tmp_path: Path) -> DataConfig:
    for number in range(4):
        write_patient(tmp_path / "in", f"TCGA_AB_{number:04d}", *phantom_patient(5, number, 64))
    return DataConfig(
        source="lgg", root=str(tmp_path / "in"), store=str(tmp_path / "store"), image_size=32, split="kfold", folds=2
    )


@pytest.mark.law("L4")
@pytest.mark.parametrize("what", ["pixels", "mask"])
def test_a_run_does_not_go_on_with_other_images_under_the_same_names(
    what: str, tiny: Config, slices_of_a_lab: DataConfig, tmp_path: Path
) -> None:
    cfg = replace(tiny, data=slices_of_a_lab)
    assert run(tmp_path, cfg, "train.epochs=1").returncode == 0
    image_shwc, mask_shw = phantom_patient(5, 1, 64)
    if what == "pixels":  # the same lesion, so the same slices in the same order, on another image
        image_shwc = np.where(image_shwc > 200, image_shwc - 1, image_shwc)
    else:  # of the same area in each slice, elsewhere
        mask_shw = np.roll(mask_shw, 1, axis=1)
    shutil.rmtree(tmp_path / "in" / "TCGA_AB_0001")
    write_patient(tmp_path / "in", "TCGA_AB_0001", image_shwc, mask_shw)
    before = {file: file.read_bytes() for file in (tmp_path / "runs" / "tiny").rglob("*") if file.is_file()}
    refused = run(tmp_path, cfg, "train.epochs=2")
    assert refused.returncode == 2
    message = refused.stderr.strip().splitlines()[-1]
    change = {"pixels": "other pixels", "mask": "another mask"}[what]
    assert f"patient TCGA_AB_0001 has {change} than this run was begun with" in message
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.law("L1")
@pytest.mark.parametrize("what", ["evaluate", "predict"])
def test_a_training_patient_under_another_name_is_known(
    what: str, tiny: Config, slices_of_a_lab: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, replace(tiny, data=slices_of_a_lab), "train.epochs=1").returncode == 0
    trained = Run(tmp_path / "runs" / "tiny")
    name = trained.split()["train"][0]
    new = tmp_path / "new"
    for number in range(3):
        write_patient(new, f"TCGA_ZZ_{number:04d}", *phantom_patient(77, number, 64))
    write_patient(new, "TCGA_ZZ_0009", *phantom_patient(5, int(name[-4:]), 64))
    out = tmp_path / "out"
    arguments = [str(trained.root), "--out", str(out)]
    if what == "predict":
        assert run_command(predict_command.command, [*arguments, "--images", str(new)]) == 0
        seen = {row["patient"]: row["trained_on"] for row in table(out / "scores.csv")}
        assert seen == {**{f"TCGA_ZZ_{number:04d}": "no" for number in range(3)}, "TCGA_ZZ_0009": "yes"}
    else:
        assert run_command(evaluate_command.command, [*arguments, "--split", "all", f"data.root={new}"]) == 2
        assert not out.exists()
    output = capsys.readouterr().err
    assert f"patient TCGA_ZZ_0009 has the pixels of {name}" in output
    assert "TCGA_ZZ_0001 has the pixels" not in output
