"""Calibration and the ceiling of the DSC in what `segtrain evaluate` writes."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sources import volume_of

from segtrain.commands.evaluate import command
from segtrain.data.geometry import to_source
from segtrain.data.prepare import ensure_store
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources.phantom import phantom_patient
from segtrain.evaluation.calibration import BINS, MARGIN_VOXELS, box_around, reliability
from segtrain.evaluation.calibration_summary import calibration_block, calibration_pictures, low_ceiling
from segtrain.evaluation.ensemble import opened, select_checkpoints
from segtrain.evaluation.scores import Scores
from segtrain.run import EvaluationFiles, Run, read_evaluation, write_evaluation


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def evaluated(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten patients, of whom eight were trained on."""
    out = tmp_path_factory.mktemp("calibration")
    arguments = [str(trained_run.root), "--split", "all", "--include-training", "--out", str(out)]
    assert command([*arguments, "--workers", "1"]) == 0
    return out


def test_the_error_is_that_of_the_voxels_around_truth_and_prediction(trained_run: Run, evaluated: Path) -> None:
    checkpoints = select_checkpoints([trained_run.root], "best", [])
    store = ensure_store(checkpoints[0].cfg.data)
    rows = {row["patient"]: row for row in table(evaluated / "scores.csv")}
    summary = json.loads((evaluated / "summary.json").read_text())
    voxels = []
    with opened(checkpoints) as predictor:
        for name in trained_run.split()["validation"]:
            image, mask = store.volume(name)
            (probability,) = predictor.probability(image, mask)
            box = box_around((probability > np.float32(0.5), mask > 0), MARGIN_VOXELS)
            pairs = list(zip(probability[box].ravel().tolist(), (mask[box] > 0).ravel().tolist(), strict=True))
            assert float(rows[name]["ece"]) == pytest.approx(error_of(pairs), abs=1e-5)
            voxels += pairs
    block = summary["calibration"]
    assert block["n"] == 2
    assert block["voxels"] == sum(row["voxels"] for row in block["bins"]) == len(voxels)
    assert block["ece"] == pytest.approx(error_of(voxels), abs=1e-5)
    mean = np.mean([float(rows[name]["ece"]) for name in trained_run.split()["validation"]])
    assert summary["not_trained_on"]["ece"]["mean"] == pytest.approx(mean, abs=1e-6)


def error_of(voxels: list[tuple[float, bool]]) -> float:
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for p, is_lesion in voxels:
        bins[min(int(p * BINS), BINS - 1)].append((p, is_lesion))
    return sum(abs(sum(p - is_lesion for p, is_lesion in members)) for members in bins) / len(voxels)


def test_the_ceiling_is_what_a_perfect_prepared_mask_scores(evaluated: Path) -> None:
    rows = table(evaluated / "scores.csv")
    ceilings = []
    for row in rows:
        raw = volume_of(*phantom_patient(0, int(row["patient"][-4:]), 64))
        assert raw.mask_shw is not None
        prepared = preprocess(raw, Preparation(32), "here")
        back, true = (np.asarray(mask) > 0 for mask in (to_source(prepared.mask_shw, prepared.geometry), raw.mask_shw))
        ceilings.append(2 * (back & true).sum() / (back.sum() + true.sum()))
        assert float(row["original_dsc_ceiling"]) == pytest.approx(ceilings[-1], abs=1e-6)
        assert "dsc_ceiling" not in row
    summary = json.loads((evaluated / "summary.json").read_text())
    assert f"mean DSC of {np.mean(ceilings):.4f}" in summary["low_ceiling"], "32 px of 64 cost some"


def test_patients_with_a_low_ceiling_are_named() -> None:
    rows: list[dict[str, Any]] = [{"patient": name, "original_dsc_ceiling": 0.999} for name in "ABCDEFGH"]
    assert low_ceiling(rows) is None
    rows[3]["original_dsc_ceiling"] = 0.96
    text = low_ceiling(rows)
    assert text is not None
    assert "under 0.975 for D 0.960:" in text
    assert low_ceiling([{"patient": "A"}]) is None, "not scored in the original geometry"
    assert low_ceiling([{"patient": "A", "original_dsc_ceiling": None}]) is None
    low = [{"patient": "A", "region": "core", "original_dsc_ceiling": 0.98}]
    assert "0.9800" in str(low_ceiling(low))
    assert "under" not in str(low_ceiling(low))


def test_the_pictures_are_written_and_go_with_their_geometry(trained_run: Run, evaluated: Path, tmp_path: Path) -> None:
    assert (evaluated / "calibration.svg").read_text().startswith("<svg")
    assert (evaluated / "calibration.png").stat().st_size > 0
    folders = {geometry: tmp_path / geometry for geometry in ("prepared", "original")}
    for geometry, folder in folders.items():
        assert command([str(trained_run.root), "--out", str(folder), "--geometry", geometry]) == 0
    assert (folders["prepared"] / "calibration.png").exists()
    assert json.loads((folders["prepared"] / "summary.json").read_text())["low_ceiling"] is None
    assert not (folders["original"] / "calibration.png").exists()
    assert "calibration" not in json.loads((folders["original"] / "summary.json").read_text())
    write_evaluation(folders["prepared"], EvaluationFiles(*read_evaluation(folders["original"])))
    assert not (folders["prepared"] / "calibration.png").exists()


def test_each_region_pools_its_own_voxels_of_people_not_trained_on() -> None:
    certain, wrong = (reliability(np.full(100, p, np.float32), np.zeros(100, bool)) for p in (0.0, 1.0))
    rows = [
        {"patient": patient, "region": region, "trained_on": "yes" if patient == "C" else "no"}
        for patient in ("A_1", "A_2", "B", "C")
        for region in ("whole", "core")
    ]
    tables = {(row["patient"], row["region"]): certain if row["region"] == "whole" else wrong for row in rows}
    tables["C", "whole"] = wrong
    scores = Scores(rows, calibration=tables)
    people = {"A_1": "A", "A_2": "A", "B": "B", "C": "C"}
    whole, core = (calibration_block(scores.of(region), people) for region in ("whole", "core"))
    assert (whole["n"], whole["voxels"], whole["ece"]) == (2, 300, 0)
    assert (core["n"], core["voxels"], core["ece"]) == (2, 300, 1)
    pictures = calibration_pictures(scores, people)
    assert pictures is not None
    assert all(f"Calibration of {region} in the prepared geometry" in pictures[0].svg for region in ("whole", "core"))
    assert calibration_pictures(Scores(rows), people) is None
