"""Lesions, volumes and millimetres in `segtrain evaluate`: rows by hand, the files, and what is not replaced."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lesion_cases import volume
from trainings import run_to_end

from segtrain.commands.evaluate import command
from segtrain.config import IGNORED, Config, EvaluateConfig, MaskLayout, TrainConfig
from segtrain.data.geometry import Geometry
from segtrain.evaluation import region_scores
from segtrain.evaluation.patient_scores import Task, scores_of
from segtrain.evaluation.region_scores import LESION_RULES, NO_LESIONS, Rules, further_metrics, further_numbers, matched
from segtrain.run import Run
from segtrain.runtime.process import run_command

SPACING_MM = (5.0, 1.0, 2.0)
FOUND, ON_FOUND = ((2, 3), (10, 14), (4, 8)), ((2, 3), (10, 14), (5, 9))  # 16 voxels each, 12 in common
MISSED, FALSE, UNKNOWN = ((4, 5), (2, 4), (2, 4)), ((0, 2), (20, 22), (18, 20)), ((0, 6), (20, 24), (0, 8))  # 4, 8
SIZE_PX = 24


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def task(spacing_mm: Any, rules: Rules) -> Task:
    """A patient of one region, with a lesion found, one missed, a false one, and one where nobody knows."""
    nowhere: Any = None
    mask = volume(FOUND, MISSED).astype(np.uint8)
    mask[volume(UNKNOWN)] = IGNORED
    predicted = volume(ON_FOUND, FALSE, ((1, 2), (21, 23), (2, 5)))
    whole = (0, len(mask)), (0, SIZE_PX), (0, SIZE_PX)
    geometry = Geometry(mask.shape, whole, ((0, 0), (0, 0)), SIZE_PX)
    layout, cfg = MaskLayout(ignores=True), EvaluateConfig(largest_component=False)
    return Task("P", predicted[None], mask, layout, geometry, nowhere, cfg, rules, spacing_mm)


@pytest.mark.law("L10")
def test_a_patient_by_hand_in_millimetres_and_in_voxels() -> None:
    (row,) = scores_of(task(SPACING_MM, Rules())).marked({"trained_on": "no"})
    assert (row["tp"], row["fp"], row["fn"]) == (12, 12, 8)
    counts = {"lesions": 2, "lesions_found": 1, "lesions_predicted": 2, "lesions_false": 1}
    assert {name: row[name] for name in counts} == counts
    assert (row["lesion_recall"], row["lesion_precision"], row["lesion_f1"]) == (0.5, 0.5, 0.5)
    assert row["lesion_dsc"] == pytest.approx(2 * 12 / 32 / 3)
    assert row["false_lesion_ml"] == pytest.approx(0.08)
    assert row["lesion_recall_under_0.1_ml"] == 0.0, "the missed one has 0.04 ml"
    assert row["lesion_recall_0.1_to_1_ml"] == 1.0, "the found one has 0.16 ml"
    volumes = {"true_ml": 0.2, "predicted_ml": 0.24, "volume_error_ml": 0.04, "volume_error_percent": 20.0}
    assert {name: row[name] for name in volumes} == pytest.approx(volumes)
    assert row["hd95_mm"] > 2
    assert "hd95_px" not in row
    assert list(row)[-len(further_metrics(Rules(), SPACING_MM)) - 1] == "trained_on"
    (row,) = scores_of(task(None, Rules())).marked({})
    assert (row["true_voxels"], row["predicted_voxels"], row["false_lesion_voxels"]) == (20, 24, 8)
    assert "hd95_mm" not in row
    assert math.isfinite(row["hd95_px"])


def test_the_lesions_by_hand() -> None:
    scores = scores_of(task(SPACING_MM, Rules()))
    (lesions,) = scores.lesions
    assert [(row["result"], row["voxels"]) for row in lesions.table] == [("found", 16), ("missed", 4), ("false", 8)]
    assert lesions.sizes == pytest.approx([0.16, 0.04]) or lesions.sizes == pytest.approx([0.04, 0.16])
    assert scores_of(task(SPACING_MM, Rules(lesions=NO_LESIONS))).lesions == []
    by_brats = scores_of(task(SPACING_MM, Rules(lesions="brats2023_meningioma"))).lesions[0]
    assert [row["result"] for row in by_brats.table] == ["found", "small", "false"], "0.04 ml are 40 mm3"


def test_of_many_lesions_the_table_has_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_scores, "MOST_LESIONS", 2)
    (lesions,) = scores_of(task(SPACING_MM, Rules())).lesions
    assert [row["result"] for row in lesions.table] == ["found", "false"]
    assert (lesions.of_all, len(lesions.sizes)) == (3, 2), "recall by size is of all"


@pytest.mark.law("L10")
@pytest.mark.parametrize("rule", ["overlap", NO_LESIONS])
def test_a_patient_without_lesion_is_blank_where_it_is_left_out(rule: str) -> None:
    predicted, empty = volume(FALSE), volume()
    rules = Rules(masks="leave_out", lesions=rule)
    row = further_numbers(predicted, empty, matched(predicted, empty, rules, None), rules)
    assert row == dict.fromkeys(further_metrics(rules))
    rules = Rules(lesions=rule)
    row = further_numbers(predicted, empty, matched(predicted, empty, rules, None), rules)
    assert (row["true_voxels"], row["predicted_voxels"]) == (0, 8)
    assert row.get("lesions_false") == (1 if rule == "overlap" else None)


def test_the_prepared_geometry_has_the_sources_spacing_scaled() -> None:
    box = (0, 5), (10, 50), (0, 30)
    padded = Geometry((5, 64, 64), box, ((0, 0), (5, 5)), 20)
    assert padded.prepared_spacing((4.0, 0.5, 1.0)) == pytest.approx((4.0, 1.0, 2.0))
    resampled = Geometry((5, 64, 64), box, ((6, 6), (1, 1)), 32, (20, 30))
    assert resampled.prepared_spacing((4.0, 0.5, 1.0)) == pytest.approx((4.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def run_in_mm(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = replace(tiny.data, phantom=replace(tiny.data.phantom, spacing_mm=(4.0, 0.5, 0.5)))
    cfg = replace(tiny, name="mm", data=data, train=TrainConfig(epochs=1, global_batch=4))
    return Run(run_to_end(tmp_path_factory.mktemp("mm"), cfg, 1))


def test_a_run_on_data_with_spacing_is_scored_in_millimetres(
    run_in_mm: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([str(run_in_mm.root), "--out", str(tmp_path / "out"), "evaluate.threshold=0.4"]) == 0
    rows, summary = table(tmp_path / "out" / "scores.csv"), json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scores.csv", "summary.json", "lesions.csv", "volumes.svg", "volumes.png",
        "calibration.svg", "calibration.png", "worst.png",
    }  # fmt: skip
    for row in rows:
        assert {"hd95_mm", "original_hd95_mm"} < row.keys()
        of_voxels = {name for name in row if name.endswith(("_px", "_voxels"))}
        assert of_voxels == {"original_voxels"}, "a count, as ever"
        assert float(row["original_true_ml"]) == pytest.approx(int(row["original_voxels"]) * 1e-3, abs=1e-6)
        assert float(row["true_ml"]) == pytest.approx(float(row["original_true_ml"]), rel=0.2)
    assert summary["units"] == "distances in mm, volumes in ml"
    assert "in mm of the geometry" in summary["surface_distances"]
    assert summary["not_trained_on"]["original_true_ml"]["n"] == 2
    agreement = summary["original_volume_agreement"]
    errors = [float(row["original_volume_error_ml"]) for row in rows]
    assert (agreement["n"], agreement["unit"]) == (2, "ml")
    assert agreement["bias"]["value"] == pytest.approx(np.mean(errors), abs=1e-5)
    recalls = summary["original_lesion_recall_by_size"]
    lesions = [row for row in table(tmp_path / "out" / "lesions.csv") if row["geometry"] == "original"]
    true = [row for row in lesions if row["result"] != "false"]
    assert sum(one["lesions"] for one in recalls.values()) == len(true)
    assert sum(int(row["original_lesions"]) for row in rows) == len(true)
    assert "Lesions and volumes, original geometry" in capsys.readouterr().out


@pytest.mark.law("L10")
def test_columns_and_keys_of_data_without_spacing_stay(trained_run: Run, tmp_path: Path) -> None:
    """The new ones stand behind them."""
    assert command([str(trained_run.root), "--out", str(tmp_path / "out")]) == 0
    first, *_ = table(tmp_path / "out" / "scores.csv")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    own = [
        "slices", "voxels", "tp", "fp", "fn", "dsc", "dsc_all_components", "iou", "sensitivity", "precision",
        "hd95_px", "assd_px", "nsd_1px", "nsd_2px", "false_positive_slices",
    ]  # fmt: skip
    before = ["patient", *own, *(f"original_{name}" for name in own), "institution", "trained_on"]
    assert list(first)[: len(before)] == before
    further = {name.removeprefix("original_") for name in list(first)[len(before) :]}
    assert further == {*further_metrics(Rules()), "ece", "dsc_ceiling"}
    keys = ["data", "image_size", "runs", "geometries", "settings", "empty_masks", "empty_surfaces"]
    assert list(summary)[: len(keys)] == keys
    assert summary["units"] == "distances and volumes in voxels: the data do not have their spacing"
    assert "in voxels of the geometry" in summary["surface_distances"]


@pytest.mark.law("L12")
def test_scores_by_another_rule_of_lesions_are_not_replaced(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(trained_run.root), "--geometry", "prepared", "--out", str(tmp_path / "out")]
    assert command([*given, "--lesions", "brats2023"]) == 0
    file = tmp_path / "out" / "summary.json"
    before = file.read_bytes()
    for rule in ("overlap", NO_LESIONS):
        assert run_command(command, [*given, "--lesions", rule]) == 2
        error = capsys.readouterr().err
        assert f"holds other scores (lesions: brats2023: {LESION_RULES['brats2023']})" in error
    assert file.read_bytes() == before
    summary = json.loads(before)
    del summary["lesions"]  # as an earlier version left it
    file.write_text(json.dumps(summary))
    assert command([*given, "--lesions", NO_LESIONS]) == 0
    assert not (tmp_path / "out" / "lesions.csv").exists()


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", ["lesions.csv", "volumes.svg", "volumes.png"])
def test_lesions_and_plots_of_others_are_not_replaced(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("mine")
    assert run_command(command, [str(trained_run.root), "--out", str(tmp_path)]) == 2
    assert f"{name}: was not written by segtrain evaluate" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]
