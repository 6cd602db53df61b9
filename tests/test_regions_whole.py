"""Three regions and four contrasts from data to report: the laws hold for them as for one region of LGG."""

import csv
import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from trainings import Job, assert_same, run_to_end, state_of

from segtrain.commands import phantoms, predict, report
from segtrain.config import Config

REGIONS = ("whole", "core", "enhancing")


@pytest.fixture(scope="module")
def brats(tiny: Config) -> Config:
    """A small run of made-up patients with nested regions, some slices of which nobody labelled."""
    phantom = replace(
        tiny.data.phantom,
        regions=3,
        contrasts=("t1", "t1ce", "t2", "flair"),
        spacing_mm=(3.0, 1.0, 1.0),
        unlabelled=0.2,
    )
    return replace(tiny, name="brats", data=replace(tiny.data, phantom=phantom), loss_regions=None)


@pytest.fixture(scope="module")
def one_rank(brats: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_to_end(tmp_path_factory.mktemp("one_rank"), brats, 1)


def _volume(path: Path) -> nibabel.Nifti1Image:
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti1Image)
    return image


def _losses(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "train"]


@pytest.mark.law("L5")
def test_regions_train_the_same_at_any_world_size(brats: Config, one_rank: Path, tmp_path: Path) -> None:
    two_ranks = run_to_end(tmp_path, brats, 2)
    np.testing.assert_allclose(_losses(two_ranks), _losses(one_rank), rtol=2e-4)


@pytest.mark.law("L6")
def test_a_killed_run_of_regions_is_bitwise_the_unbroken_run(brats: Config, one_rank: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, brats, 1)
    latest = tmp_path / "runs" / brats.name / "checkpoints" / "LATEST"
    while not latest.exists() and job.processes[0].is_alive():
        time.sleep(0.01)
    job.kill(0, number=signal.SIGKILL)
    job.wait()
    assert_same(state_of(run_to_end(tmp_path, brats, 1)), state_of(one_rank))


@pytest.mark.law("L10")
def test_a_mean_over_regions_comes_with_its_parts(one_rank: Path) -> None:
    event = [json.loads(line) for line in (one_rank / "metrics.jsonl").read_text().splitlines()][-1]
    rows = list(csv.DictReader((one_rank / event["per_patient"]).read_text().splitlines()))
    assert {row["region"] for row in rows} == set(REGIONS) == set(event["regions"])
    means = {region: np.mean([float(row["dsc"]) for row in rows if row["region"] == region]) for region in REGIONS}
    for region, mean in means.items():
        assert event["regions"][region]["dsc"] == pytest.approx(mean, abs=1e-5)
    assert event["val_dsc"] == pytest.approx(np.mean(list(means.values())), abs=1e-5)


def test_predictions_are_label_maps_on_the_images_own_grid(one_rank: Path, tmp_path: Path) -> None:
    data = tmp_path / "made_up"
    assert phantoms.command(["--out", str(data), "--layout", "brats", "--patients", "3", "--size", "64"]) == 0
    assert predict.command([str(one_rank), "--images", str(data), "--out", str(tmp_path / "out")]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert len(rows) == 3 * len(REGIONS)
    for flair in data.rglob("*t2f.nii.gz"):
        patient = flair.parent.name
        image = _volume(flair)
        truth = np.asarray(_volume(flair.with_name(flair.name.replace("t2f", "seg"))).dataobj)
        (file,) = (tmp_path / "out" / "labels").glob(f"{patient}_*")
        labels = _volume(file)
        assert labels.shape == image.shape
        np.testing.assert_allclose(labels.affine, image.affine)
        values = np.asarray(labels.dataobj)
        assert set(np.unique(values)) <= {0, 1, 2, 3}
        predicted, true = np.isin(values, (1, 2, 3)), np.isin(truth, (1, 2, 3))
        dsc = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
        (row,) = (row for row in rows if row["patient"] == patient and row["region"] == "whole")
        assert float(row["dsc"]) == pytest.approx(dsc, abs=0.01), "painting by labels may differ where core sticks out"


def test_the_report_tells_regions_apart(one_rank: Path, tmp_path: Path) -> None:
    assert report.command([str(one_rank), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    table = (tmp_path / "report" / "results.csv").read_text()
    for region in REGIONS:
        assert region in page
        assert region in table
