"""`segtrain predict`: masks lie where the input lies, and are those that `segtrain evaluate` scores."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import volume_of
from numpy.typing import NDArray
from predictions import pages, read, table, write_patient
from scipy import ndimage

from segtrain.commands import evaluate
from segtrain.commands.predict import command
from segtrain.config import DataConfig
from segtrain.data.geometry import to_source
from segtrain.data.prepare import ensure_store
from segtrain.data.preprocess import Preparation, Prepared, preprocess
from segtrain.data.sources.base import read_with_mask
from segtrain.data.sources.lgg import LggSource
from segtrain.data.sources.phantom import phantom_patient
from segtrain.errors import DataError
from segtrain.evaluation.bars import Bar, chart
from segtrain.run import Run
from segtrain.runtime.process import run_command

Volume = NDArray[np.uint8]


@pytest.fixture(scope="module")
def images(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's own phantoms as TIFF: those that validate, one that it trained on, one without masks."""
    folder = tmp_path_factory.mktemp("images")
    sides = trained_run.split()
    for patient in [*sides["validation"], sides["train"][0]]:
        write_patient(folder, patient, *phantom_patient(0, int(patient[-4:]), 64))
    write_patient(folder, "NEW_0001", phantom_patient(1, 0, 64)[0], None)
    return folder


@pytest.fixture(scope="module")
def predicted(trained_run: Run, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    assert command([str(trained_run.root), "--images", str(images), "--out", str(out), "--probabilities"]) == 0
    return out


def truth(source: LggSource, patient: str) -> Volume:
    _, mask_shw = read_with_mask(source, patient)
    return mask_shw


def masks(folder: Path, source: LggSource, patient: str) -> Volume:
    paths = [folder / "masks" / patient / f"{image.stem}_mask.tif" for image in source.files(patient).images]
    return np.stack([read(path) for path in paths])


def test_every_slice_has_its_mask_and_its_picture(images: Path, predicted: Path) -> None:
    source = LggSource(images)
    for patient in source.patients():
        found = masks(predicted, source, patient)
        assert found.shape == source.read(patient).image_shwc.shape[:3]
        assert set(np.unique(found)) <= {0, 255}
        assert not found[[0, -1]].any(), "preparation drops the first and the last"
        assert pages(predicted / "probabilities" / f"{patient}.tif").shape == found.shape
        assert read(predicted / "sheets" / f"{patient}.png").ndim == 3
        overlays = {path.stem for path in (predicted / "overlays" / patient).iterdir()}
        assert overlays == {path.stem for path in source.files(patient).images}
    files = {str(f.relative_to(predicted)) for f in predicted.rglob("*") if f.is_file()}
    with ZipFile(predicted / "predictions.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(files - {"predictions.zip"})


@pytest.mark.law("L10")
def test_the_masks_are_those_that_evaluate_scores(
    trained_run: Run, images: Path, predicted: Path, tmp_path: Path
) -> None:
    """Taken through preparation again, each gives the counts of the prepared volume."""
    assert evaluate.command([str(trained_run.root), "--out", str(tmp_path)]) == 0
    source = LggSource(images)
    for row in csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()):
        raw, _ = read_with_mask(source, row["patient"])
        written = replace(raw, mask_shw=masks(predicted, source, row["patient"]) // 255)
        ours = preprocess(written, Preparation(32), "ours").mask_shw
        true = preprocess(raw, Preparation(32), "true").mask_shw
        counts = [int((ours & true).sum()), int((ours & (1 - true)).sum()), int(((1 - ours) & true).sum())]
        assert counts == [int(row[name]) for name in ("tp", "fp", "fn")]
        assert counts[0] + counts[1] > 0, "something is predicted, or this test says nothing"


@pytest.mark.law("L10")
def test_the_scores_are_those_of_evaluate_in_the_original_geometry(
    trained_run: Run, predicted: Path, tmp_path: Path
) -> None:
    """The one from files and through preparation, the other from the store."""
    assert evaluate.command([str(trained_run.root), "--out", str(tmp_path), "--geometry", "original"]) == 0
    ours = {row["patient"]: row for row in table(predicted / "scores.csv")}
    theirs = table(tmp_path / "scores.csv")
    assert len(theirs) == 2
    for row in theirs:
        for name in ("slices", "voxels", "tp", "fp", "fn", "dsc"):
            assert ours[row["patient"]][name] == row[f"original_{name}"]


@pytest.mark.law("L1")
def test_scores_are_of_the_patients_with_masks_and_say_who_was_trained_on(
    trained_run: Run, images: Path, predicted: Path
) -> None:
    sides = trained_run.split()
    rows = list(csv.DictReader((predicted / "scores.csv").read_text().splitlines()))
    assert {row["patient"]: row["trained_on"] for row in rows} == {
        **dict.fromkeys(sides["validation"], "no"),
        sides["train"][0]: "yes",
    }
    source = LggSource(images)
    for row in rows:
        found, true = masks(predicted, source, row["patient"]) > 0, truth(source, row["patient"]) > 0
        dsc = 2 * (found & true).sum() / (found.sum() + true.sum())
        assert float(row["dsc"]) == pytest.approx(dsc, abs=1e-6)
    assert read(predicted / "dsc.png").ndim == 3


def test_without_any_mask_there_are_no_scores(trained_run: Run, tmp_path: Path) -> None:
    write_patient(tmp_path / "in", "NEW", phantom_patient(1, 0, 64)[0], None)
    run = str(trained_run.root)
    assert command([run, "--images", str(tmp_path / "in"), "--out", str(tmp_path / "a" / "out")]) == 0
    assert {path.name for path in (tmp_path / "a" / "out").iterdir()} == {
        "masks", "overlays", "sheets", "predictions.zip", "NOTICE.txt",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def broken_folder(folder: Path, fault: str) -> str:
    """Patients A and C, and between them B with a fault, the words of which are returned."""
    image, mask = phantom_patient(1, 0, 64)
    for patient in "AC":
        write_patient(folder, patient, image, mask)
    write_patient(folder, "B", np.zeros_like(image) if fault == "constant" else image, mask)
    if fault == "broken":
        (folder / "B" / "B_7.tif").write_bytes(b"II*\0")
    elif fault == "gap":
        (folder / "B" / "B_5.tif").unlink()
        (folder / "B" / "B_5_mask.tif").unlink()
    elif fault == "half the masks":
        (folder / "B" / "B_3_mask.tif").unlink()
    return {
        "broken": "B_7.tif: not a readable TIFF",
        "constant": "constant volume",
        "gap": "slice 5 is missing",
        "half the masks": "slice 3 has no mask",
    }[fault]


FAULTS = ("broken", "constant", "gap", "half the masks")


@pytest.mark.law("L12")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_patient_is_named_and_the_others_are_predicted(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    words = broken_folder(tmp_path / "in", fault)
    out = tmp_path / "out"
    assert run_command(command, [str(trained_run.root), "--images", str(tmp_path / "in"), "--out", str(out)]) == 2
    output = capsys.readouterr().err
    message = output.strip().splitlines()[-1]
    assert message.startswith("segtrain: error: patient B is not predicted, the other patients are: ")
    assert words in message
    assert output.count(words) == 1, "told once"
    assert {path.name for path in (out / "masks").iterdir()} == {"A", "C"}
    assert [row["patient"] for row in table(out / "scores.csv")] == ["A", "C"]
    (row,) = table(out / "not_predicted.csv")
    assert row["patient"] == "B"
    assert words in row["reason"]
    with ZipFile(out / "predictions.zip") as archive:
        assert not [name for name in archive.namelist() if "/B" in name]
        assert "not_predicted.csv" in archive.namelist()


@pytest.mark.law("L12")
@pytest.mark.parametrize("fault", [*FAULTS, "none", "taken", "inside"])
def test_what_cannot_be_predicted_is_named_and_nothing_is_left(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    places = {"none": "0 patient folders", "taken": "there already", "inside": "inside --images"}
    words = places.get(fault) or broken_folder(folder, fault)
    if fault in FAULTS:
        shutil.rmtree(folder / "A")
        shutil.rmtree(folder / "C")
    else:
        broken_folder(folder, "constant")
    if fault == "taken":
        write_patient(out, "mine", phantom_patient(1, 0, 64)[0][:1], None)
    out = folder / "out" if fault == "inside" else out
    (tmp_path / "empty").mkdir()
    source = tmp_path / "empty" if fault == "none" else folder
    before = sorted(tmp_path.rglob("*"))
    assert run_command(command, [str(trained_run.root), "--images", str(source), "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("segtrain: error: ")
    assert words in said
    assert sorted(tmp_path.rglob("*")) == before


def test_training_still_needs_every_mask(tmp_path: Path) -> None:
    write_patient(tmp_path, "A", phantom_patient(1, 0, 64)[0], None)
    source = LggSource(tmp_path)
    assert source.read("A").mask_shw is None
    with pytest.raises(DataError, match=r"patient A: has no mask .* add its masks"):
        read_with_mask(source, "A")
    cfg = DataConfig(source="lgg", root=str(tmp_path), store=str(tmp_path / "store"), image_size=32, workers=1)
    with pytest.raises(DataError, match="patient A: has no mask"):
        ensure_store(cfg)


def prepared(mask_shw: Volume, box: tuple[int, int, int, int], size_px: int) -> Prepared:
    """Preparation of a volume whose image fills `box` (rows, columns) of its slices."""
    y0, y1, x0, x1 = box
    image = np.zeros((*mask_shw.shape, 3), np.uint8)
    inside = image[:, y0:y1, x0:x1]
    inside[...] = np.random.default_rng(0).integers(60, 256, inside.shape, dtype=np.uint8)
    return preprocess(volume_of(image, mask_shw), Preparation(size_px), "made up")


spans = st.integers(24, 60).flatmap(lambda length: st.tuples(st.integers(0, 64 - length), st.just(length)))


@settings(max_examples=60, deadline=None)
@given(rows=spans, columns=spans, size_px=st.sampled_from([16, 32, 48, 64, 96]), seed=st.integers(0, 99))
def test_a_mask_comes_back_up_to_its_boundary(
    rows: tuple[int, int], columns: tuple[int, int], size_px: int, seed: int
) -> None:
    """Nothing changes but within a prepared pixel of the mask's edge; without a resize nothing changes at all."""
    box = rows[0], sum(rows), columns[0], sum(columns)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    centre = rng.uniform(box[0] + 9, box[1] - 9), rng.uniform(box[2] + 9, box[3] - 9)
    disc = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 8**2).astype(np.uint8)
    mask = np.stack([disc] * 5)
    found = prepared(mask, box, size_px)
    back = to_source(found.mask_shw, found.geometry)
    side = max(rows[1], columns[1])
    assert back.shape == mask.shape
    assert not back[[0, -1]].any()
    reach = 0 if side == size_px else int(np.ceil(side / size_px))
    assert_near(back[2], disc, reach)
    if side >= size_px:
        again = prepared(back, box, size_px)
        np.testing.assert_array_equal(again.mask_shw, found.mask_shw)


def assert_near(back: Volume, disc: Volume, reach: int) -> None:
    square: Any = np.ones((2 * reach + 1, 2 * reach + 1))
    assert not (back.astype(bool) & ~ndimage.binary_dilation(disc, square)).any()
    assert not (ndimage.binary_erosion(disc, square) & ~back.astype(bool)).any()


@pytest.mark.parametrize("margin", [0, 7])
def test_a_mask_of_256_px_comes_back_exactly(margin: int) -> None:
    """Rows fill the slice, columns leave a margin: padding makes it square, and there is no resize."""
    mask = (np.random.default_rng(1).random((5, 256, 256)) > 0.5).astype(np.uint8)
    found = prepared(mask, (0, 256, margin, 256 - 2 * margin), 256)
    back = to_source(found.mask_shw, found.geometry)
    inside = np.s_[1:-1, :, margin : 256 - 2 * margin]
    np.testing.assert_array_equal(back[inside], mask[inside])
    assert back.sum() == mask[inside].sum()


def test_the_chart_says_what_the_lines_are_of() -> None:
    """Lines at mean and median of the patients that were not trained on: 0.5 and 0.4."""
    bars = [Bar("A", 0.2, False), Bar("B", 0.4, False), Bar("C", 0.9, False), Bar("D", 1.0, True)]
    picture = chart(bars, "patients").astype(int)
    red = (np.abs(picture - (214, 40, 40)).sum(2) < 10).sum(0)
    green = (np.abs(picture - (24, 140, 60)).sum(2) < 10).sum(0)
    axis = (picture == 0xDD).all(2).sum(0)
    start, end = np.flatnonzero(axis > 20)[[0, -1]]
    place = [float(np.flatnonzero(line > line.max() / 2).mean() - start) / (end - start) for line in (red, green)]
    assert place == pytest.approx([0.5, 0.4], abs=0.005)


def test_a_name_longer_than_the_chart_keeps_its_ends() -> None:
    long = Bar("first" + 200 * "x" + "last", 0.8, False)
    assert chart([long], "patients").shape == chart([Bar("p", 0.8, False)], "patients").shape
