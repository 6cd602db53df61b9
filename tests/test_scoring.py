"""A patient's numbers in both geometries, by any number of processes, under the rules for empty volumes."""

import csv
import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sources import volume_of

from segtrain.commands import evaluate
from segtrain.commands.evaluate import PATIENTS_A_WORKER, _workers
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources.phantom import phantom_patient
from segtrain.errors import ConfigError
from segtrain.evaluation.region_scores import MASK_RULES, RATIO_RULE, SURFACE_RULES, Rules, numbers
from segtrain.evaluation.surface import NAMES
from segtrain.run import Run
from segtrain.runtime import cpus
from segtrain.runtime.process import run_command
from segtrain.runtime.workers import AHEAD, in_order


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def everybody(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten patients, scored by one process in both geometries."""
    out = tmp_path_factory.mktemp("everybody")
    arguments = [str(trained_run.root), "--split", "all", "--include-training", "--out", str(out)]
    assert evaluate.command([*arguments, "--workers", "1"]) == 0
    return out


def test_any_number_of_processes_finds_the_same(trained_run: Run, everybody: Path, tmp_path: Path) -> None:
    arguments = [str(trained_run.root), "--split", "all", "--include-training", "--out", str(tmp_path)]
    assert evaluate.command([*arguments, "--workers", "2"]) == 0
    for file in ("scores.csv", "summary.json"):
        assert (tmp_path / file).read_bytes() == (everybody / file).read_bytes()


@pytest.mark.law("L10")
def test_the_original_geometry_is_that_of_the_source(everybody: Path) -> None:
    """Its truth is the source's mask, and what was predicted, prepared again, is what was scored there."""
    rows = table(everybody / "scores.csv")
    assert len(rows) == 10
    for row in rows:
        image, mask = phantom_patient(0, int(row["patient"][-4:]), 64)
        tp, fp, fn = (int(row[f"original_{name}"]) for name in ("tp", "fp", "fn"))
        assert int(row["original_slices"]) == len(mask)
        assert int(row["original_voxels"]) == tp + fn == mask.sum()
        assert float(row["original_dsc"]) == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)
        assert float(row["original_iou"]) == pytest.approx(tp / (tp + fp + fn), abs=1e-6)
        prepared = preprocess(volume_of(image, mask), Preparation(32), "here").mask_shw
        assert int(row["voxels"]) == prepared.sum()
        # A voxel of 32 px covers about as many of the source as the sides' ratio squared says.
        ratio = mask.sum() / prepared.sum()
        assert tp + fp == pytest.approx((int(row["tp"]) + int(row["fp"])) * ratio, rel=0.2, abs=20)


def test_one_geometry_alone(trained_run: Run, everybody: Path, tmp_path: Path) -> None:
    both = {row["patient"]: row for row in table(everybody / "scores.csv")}
    for geometry in ("prepared", "original"):
        out = tmp_path / geometry
        assert evaluate.command([str(trained_run.root), "--geometry", geometry, "--out", str(out)]) == 0
        for row in table(out / "scores.csv"):
            assert row == {name: both[row["patient"]][name] for name in row}
            assert ("dsc" in row, "original_dsc" in row) == (geometry == "prepared", geometry == "original")


def volumes(predicted: bool, true: bool) -> tuple[Any, Any]:
    found, mask = np.zeros((2, 4, 6, 12), bool)
    found[1, 2, 3], mask[1, 2, 3] = predicted, true
    return found, mask


@pytest.mark.law("L10")
@pytest.mark.parametrize("masks", list(MASK_RULES))
@pytest.mark.parametrize("surfaces", list(SURFACE_RULES))
@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("true", [False, True])
def test_empty_volumes_score_as_the_rules_say(masks: Any, surfaces: Any, predicted: bool, true: bool) -> None:
    found, mask = volumes(predicted, true)
    row = numbers(found, found, mask, Rules(masks=masks, surfaces=surfaces))
    agree = 1.0 if predicted == true else 0.0
    dsc = agree if true or masks == "score" else None
    assert (row["dsc"], row["dsc_all_components"], row["iou"]) == (dsc, dsc, dsc)
    assert row["sensitivity"] == (agree if true else None)
    assert row["precision"] == (agree if predicted and dsc is not None else None)
    if predicted and true:
        distance, dice = 0.0, 1.0
    elif surfaces == "leave_out" or (not true and masks == "leave_out"):
        distance, dice = None, None
    else:
        distance, dice = (0.0, 1.0) if predicted == true else (math.sqrt(4**2 + 6**2 + 12**2), 0.0)
    assert [row[name] for name in NAMES] == [distance, distance, dice, dice]
    assert row["false_positive_slices"] == (int(predicted and not true) if dsc is not None else None)


def test_the_rules_are_said(trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(trained_run.root), "--out", str(tmp_path), "--geometry", "prepared", "evaluate.threshold=0.999999"]
    assert evaluate.command([*arguments, "--empty-masks", "leave_out", "--empty-surfaces", "worst"]) == 0
    said = capsys.readouterr().err
    assert MASK_RULES["leave_out"] in said
    assert RATIO_RULE in said
    assert "the best epoch was chosen on patients that are scored here" in said
    assert SURFACE_RULES["worst"] in said
    rows = table(tmp_path / "scores.csv")
    assert {row["precision"] for row in rows} == {""}, "nothing is so sure, or this test says nothing"
    assert all(float(row["hd95_px"]) > 32 for row in rows)


def test_the_last_epoch_was_not_chosen_where_it_is_the_best(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(trained_run.root, run.root)
    run.best_pointer.write_text(run.latest_pointer.read_text())
    for checkpoint, chosen in (("last", False), ("best", True)):
        arguments = [str(run.root), "--out", str(tmp_path / checkpoint), "--geometry", "prepared"]
        assert evaluate.command([*arguments, "--checkpoint", checkpoint]) == 0
        assert ("the best epoch was chosen" in capsys.readouterr().err) == chosen


def test_workers_by_patients_and_cores() -> None:
    assert _workers(None, PATIENTS_A_WORKER - 1) == 1
    assert _workers(None, 10**6) == cpus.usable()
    assert _workers(3, 1) == 3
    with pytest.raises(ConfigError, match="--workers 0"):
        _workers(0, 1)


def drawn(made: list[int]) -> Iterator[int]:
    for number in range(40):
        made.append(number)
        yield number


def test_tasks_are_drawn_as_they_are_needed() -> None:
    """What is predicted waits in memory: no more of it than the workers have use for."""
    made: list[int] = []
    for place, result in enumerate(in_order(abs, drawn(made), 2, "--workers 1")):
        assert result == place
        assert len(made) <= place + 2 * AHEAD + 2
    assert len(made) == 40


def killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_is_killed_is_named(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segtrain.evaluation.scores.scores_of", killed)
    arguments = [str(trained_run.root), "--workers", "2", "--out", str(tmp_path / "out")]
    assert run_command(evaluate.command, arguments) == 2
    assert "--workers 1" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
