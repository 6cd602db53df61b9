"""Predictions out of fold: nobody by a run that trained on the person (L1); `segtrain suspects` as a whole."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trainings import run_to_end

from segtrain.commands.suspects import command
from segtrain.config import Config, TrainConfig
from segtrain.data.store import Store
from segtrain.errors import RunError, SegtrainError
from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.evaluation.out_of_fold import folds_of, out_of_fold
from segtrain.run import Run
from segtrain.runtime.process import run_command

FOLDS = 2


@pytest.fixture(scope="module")
def runs(tiny: Config, tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folds, the first with two seeds."""
    folder = tmp_path_factory.mktemp("folds")
    roots = []
    for fold, seed in ((0, 1), (0, 2), (1, 1)):
        data = replace(tiny.data, split="kfold", folds=FOLDS, fold=fold)
        train = TrainConfig(epochs=2, global_batch=4)
        cfg = replace(tiny, name=f"a-fold{fold}-seed{seed}", seed=seed, data=data, train=train)
        roots.append(run_to_end(folder, cfg, 1))
    return roots


def checkpoint(number: int, fold: int = 0, seed: int = 1, **changes: Any) -> TrainedCheckpoint:
    """One of a run that was never trained: P0 to P5, two of which are held out by each of three folds."""
    patients = [f"P{place}" for place in range(6)]
    held_out = frozenset(patients[2 * fold : 2 * fold + 2])
    cfg = Config(name=f"run{number}", seed=seed)
    cfg = replace(cfg, data=replace(cfg.data, split="kfold", folds=3, fold=fold))
    run = Run(Path(f"runs/run{number}"))
    one = TrainedCheckpoint(run, cfg, Path("step"), train=frozenset(patients) - held_out, validation=held_out)
    return replace(one, **changes)


def refusal(*checkpoints: TrainedCheckpoint) -> str:
    with pytest.raises(SegtrainError) as error:
        folds_of(checkpoints)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_runs_that_hold_out_the_same_patients_are_one_fold() -> None:
    folds = folds_of([checkpoint(2, 2), checkpoint(0, 0, seed=1), checkpoint(1, 1), checkpoint(3, 0, seed=2)])
    assert [(fold.number, len(fold.checkpoints)) for fold in folds] == [(0, 2), (1, 1), (2, 1)]
    assert [sorted(fold.patients) for fold in folds] == [["P0", "P1"], ["P2", "P3"], ["P4", "P5"]]


@pytest.mark.law("L1")
def test_a_run_that_trained_on_a_person_does_not_predict_the_person() -> None:
    both = checkpoint(0, train=frozenset(f"P{place}" for place in range(1, 6)))
    assert "runs/run0: patient P1 is in its validation side, but it was trained on the person" in refusal(both)
    people = {"P0": "anna", "P5": "anna"}
    assert "patient P0 is in its validation side" in refusal(checkpoint(0, people=people), checkpoint(1, 1))


def test_what_is_no_fold_of_one_split_is_refused() -> None:
    other_patients = frozenset({"P4", "P9"})
    assert "its patients are others than those of" in refusal(
        checkpoint(0), checkpoint(1, 2, validation=other_patients)
    )
    overlapping = checkpoint(1, 1, train=frozenset({"P0", "P4", "P5"}), validation=frozenset({"P1", "P2", "P3"}))
    assert "patient P1 validates here and in" in refusal(checkpoint(0), overlapping)
    same_number = checkpoint(1, 1, cfg=checkpoint(1, 0).cfg)
    assert "data.fold=0 has other patients in" in refusal(checkpoint(0), same_number)


def test_runs_of_two_variants_are_refused() -> None:
    one, other = checkpoint(0), checkpoint(1, 1)
    for changed, message in (
        (replace(other.cfg, loss="focal"), "loss=focal, but runs/run0 has"),
        (replace(other.cfg, train=replace(other.cfg.train, epochs=7)), "train.epochs=7, but runs/run0 has"),
    ):
        said = refusal(one, replace(other, cfg=changed))
        assert message in said
        assert said.endswith("name the folds of one variant alone")
    elsewhere = replace(other.cfg, runs_dir="/elsewhere", device="cuda")
    assert len(folds_of([one, replace(other, cfg=elsewhere)])) == 2


def test_every_patient_is_predicted_once_and_seeds_are_averaged(runs: list[Path], tiny_store: Store) -> None:
    def predicted(*numbers: int) -> dict[str, np.ndarray]:
        checkpoints = select_checkpoints([runs[number] for number in numbers], "last", [])
        result = list(out_of_fold(checkpoints, tiny_store))
        assert len({one.patient for one in result}) == len(result)
        for one in result:
            assert one.patient in Run(one.run).split()["validation"]
            assert one.fold == int(one.run.name[len("a-fold")])
            assert np.array_equal(one.mask_shw, tiny_store.volume(one.patient)[1])
        return {one.patient: one.probability_rshw for one in result}

    both, first, second = predicted(2, 0, 1), predicted(0, 2), predicted(1, 2)
    assert both.keys() == tiny_store.patients.keys()
    for patient, probability in both.items():
        np.testing.assert_allclose(probability, (first[patient] + second[patient]) / 2, atol=1e-5)
    assert any(np.abs(first[patient] - second[patient]).max() > 1e-3 for patient in both)


def test_patients_without_prediction_are_named(
    runs: list[Path], tiny_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = select_checkpoints(runs[:1], "last", [])
    predicted = {one.patient for one in out_of_fold(checkpoints, tiny_store)}
    assert predicted == checkpoints[0].validation
    left = sorted(tiny_store.patients.keys() - predicted)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith(f"{len(left)} of 10 patients ({left[0]}")
    with pytest.raises(RunError):
        folds_of([replace(checkpoints[0], train=frozenset(tiny_store.patients))])


def test_the_command_writes_tables_and_pictures(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "suspects"
    assert command([*map(str, runs), "--out", str(out), "--top", "3"]) == 0
    rows = list(csv.DictReader((out / "suspects.csv").read_text().splitlines()))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert 3 < len(rows) == len({row["patient"] for row in rows}) <= 10
    shown = capsys.readouterr().out
    assert [row["patient"] in shown for row in rows] == [True] * 3 + [False] * (len(rows) - 3)
    slices = list(csv.DictReader((out / "slices.csv").read_text().splitlines()))
    wrong = [float(row["missing_voxels"]) + float(row["extra_voxels"]) for row in slices]
    assert wrong == sorted(wrong, reverse=True)
    page = (out / "index.html").read_text()
    titles = [f"{rank}. {row['patient']} <small>{row['kind']}, score" in page for rank, row in enumerate(rows, start=1)]
    assert titles == [True] * 3 + [False] * (len(rows) - 3)
    assert "http" not in page.replace("http-equiv", "")
    with Image.open(out / "atlas.png") as sheet:
        assert sheet.size[0] > 3 * 512 - 1
    assert command([*map(str, runs), "--out", str(out)]) == 0, "the same search again is written over the first"


def test_bad_input_is_named_in_a_line(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: object) -> str:
        assert run_command(command, [*map(str, arguments)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    out = tmp_path / "mine"
    assert "--top 0: not a number of suspects" in refused(*runs, "--out", out, "--top", "0")
    assert "holds no readable run" in refused(tmp_path / "nowhere", "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("all of it")
    assert "holds files that segtrain suspects has not written" in refused(*runs, "--out", out)
