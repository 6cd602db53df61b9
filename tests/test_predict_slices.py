"""`segtrain predict` of plain slices, and what holds for any input: probabilities, rules, memory, several runs."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predictions import IMAGE, MASK, NEW_IMAGE, NEW_MASK, lgg_mask, pages, predict, read, table, write_patient

from segtrain.commands.predict import command
from segtrain.run import Run
from segtrain.runtime.process import run_command


def write_slices(folder: Path, names: list[str], with_masks: bool = False) -> None:
    folder.mkdir(parents=True)
    for name, image, mask in zip(names, IMAGE, MASK, strict=False):
        Image.fromarray(image).save(folder / name)
        if with_masks:
            stem, _, suffix = name.rpartition(".")
            Image.fromarray(mask * np.uint8(255)).save(folder / f"{stem}_mask.{suffix}")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_plain_slices_are_masked_under_their_names(
    trained_run: Run, predicted_patient: Path, tmp_path: Path, flat: bool, suffix: str
) -> None:
    """In the order of their numbers (9 before 10), wherever these begin and whatever they leave out."""
    names = [f"scan 2 no{7 + 2 * k}.{suffix}" for k in range(len(IMAGE))]
    folder = tmp_path / "in" / "someone"
    write_slices(folder, names, with_masks=True)
    out = predict(trained_run, folder if flat else folder.parent, tmp_path / "out")
    masks = [out / "masks" / "someone" / name.replace(f".{suffix}", f"_mask.{suffix}") for name in names]
    assert sorted(masks) == sorted(path for path in (out / "masks").rglob("*") if path.is_file())
    signature = b"\x89PNG" if suffix == "png" else b"II*\0"
    assert all(path.read_bytes().startswith(signature) for path in masks)
    found = np.stack([read(path) for path in masks])
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 255}
    np.testing.assert_array_equal(found > 0, lgg_mask(predicted_patient))
    (row,) = table(out / "scores.csv")
    assert (row["patient"], int(row["voxels"])) == ("someone", MASK.sum())
    assert {path.stem for path in (out / "overlays/someone").iterdir()} == {name.rpartition(".")[0] for name in names}


def test_one_patient_s_folder_of_the_lgg_layout_is_a_volume(
    trained_run: Run, predicted_patient: Path, tmp_path: Path
) -> None:
    write_patient(tmp_path / "in", "P", IMAGE, MASK)
    out = predict(trained_run, tmp_path / "in" / "P", tmp_path / "out")
    np.testing.assert_array_equal(lgg_mask(out), lgg_mask(predicted_patient))
    assert table(out / "scores.csv") == table(predicted_patient / "scores.csv")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("beside", "slices beside folders (A)"),
        ("mask", "has no mask beside it"),
        ("lone", "has no slice beside it"),
        ("twice", "a second file for slice 4"),
        ("grey", "1 channel(s), but this file needs 3"),
        ("broken", "not a readable PNG"),
        ("size", "size 8x8"),
        ("layout", "nothing in it for --layout nifti"),
        ("nothing", "0 patient folders, slices"),
        ("nowhere", "no such folder"),
    ],
)
def test_slices_that_do_not_fit_are_named(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, words: str
) -> None:
    folder = tmp_path / "in"
    write_slices(folder / "A", [f"{k}.png" for k in range(6)], with_masks=fault in ("mask", "lone"))
    more = ["--layout", "nifti"] if fault == "layout" else []
    (tmp_path / "nothing").mkdir()
    match fault:
        case "beside":
            Image.fromarray(IMAGE[0]).save(folder / "1.png")
        case "mask":
            (folder / "A" / "4_mask.png").unlink()
        case "lone":
            Image.fromarray(MASK[0]).save(folder / "A" / "9_mask.png")
        case "twice":
            Image.fromarray(IMAGE[0]).save(folder / "A" / "4.tif")
        case "grey":
            Image.fromarray(IMAGE[0, ..., 0]).save(folder / "A" / "4.png")
        case "broken":
            (folder / "A" / "4.png").write_bytes(b"II*")
        case "size":
            Image.fromarray(IMAGE[0, :8, :8]).save(folder / "A" / "4.png")
    images = tmp_path / fault if fault in ("nothing", "nowhere") else folder
    arguments = [str(trained_run.root), "--images", str(images), "--out", str(tmp_path / "out"), *more]
    assert run_command(command, arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("segtrain: error: ")
    assert words in last
    assert not (tmp_path / "out").exists()


def test_probabilities_over_the_threshold_are_the_mask_before_components_are_chosen(
    trained_run: Run, predicted_patient: Path, tmp_path: Path
) -> None:
    write_patient(tmp_path / "in", "P", IMAGE, None)
    out = predict(trained_run, tmp_path / "in", tmp_path / "out", "evaluate.largest_component=false")
    everything, largest = lgg_mask(out), lgg_mask(predicted_patient)
    probability = pages(predicted_patient / "probabilities/P.tif")
    assert probability.dtype == np.float32
    assert (probability != probability.astype(np.float16)).any(), "rounded, some would cross the threshold"
    np.testing.assert_array_equal(probability > 0.5, everything)
    assert (largest <= everything).all()
    assert largest.sum() < everything.sum(), "there are several components, or this test says less"


@pytest.mark.parametrize(("rule", "dsc"), [("score", "0.000000"), ("leave_out", "")])
def test_a_patient_without_lesion_scores_as_the_rule_says(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str, dsc: str
) -> None:
    write_patient(tmp_path / "in", "HEALTHY", NEW_IMAGE, np.zeros_like(NEW_MASK))
    out = predict(trained_run, tmp_path / "in", tmp_path / "out", "--empty-masks", rule)
    (row,) = table(out / "scores.csv")
    assert (row["voxels"], row["dsc"]) == ("0", dsc)
    assert (out / "dsc.png").exists() == (rule == "score")
    said = capsys.readouterr().err
    assert ("mean DSC 0.0000 (n = 1, no CI" in said) == (rule == "score")


def test_memory_does_not_grow_with_the_number_of_patients(
    trained_run: Run, predicted_patient: Path, tmp_path: Path
) -> None:
    """The peak of what Python and NumPy hold, after a first time, in which something is kept for good.

    Without masks: the interval of a mean of scores takes more than a patient does.
    """
    peaks = []
    for patients in (2, 5):
        folder = tmp_path / str(patients)
        for number in range(patients):
            write_patient(folder / "in", f"P{number}", IMAGE[:12], None)
        tracemalloc.start()
        predict(trained_run, folder / "in", folder / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + IMAGE[:12].nbytes, peaks


def test_several_runs_and_views_are_averaged(trained_run: Run, predicted_patient: Path, tmp_path: Path) -> None:
    """Flips leave something else than the plain network does; of two equal runs it is each of them."""
    shutil.copytree(trained_run.root, tmp_path / "other")
    write_patient(tmp_path / "in", "P", IMAGE, None)
    plain = pages(predicted_patient / "probabilities/P.tif")
    both = predict(trained_run, tmp_path / "in", tmp_path / "both", "--probabilities", str(tmp_path / "other"))
    np.testing.assert_allclose(pages(both / "probabilities/P.tif"), plain, atol=1e-6)
    turned = predict(trained_run, tmp_path / "in", tmp_path / "turned", "--probabilities", "evaluate.tta=flips")
    difference = np.abs(pages(turned / "probabilities/P.tif") - plain)
    assert 0.01 < difference.max() < 1
