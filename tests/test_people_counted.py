"""L10 for people: whoever has several scans weighs as one, in training, in `segtrain evaluate` and in its summary."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import events
from made_runs import evaluation_event
from trainings import run_to_end

from segtrain.commands.evaluate import command
from segtrain.config import Config, TrainConfig
from segtrain.data.people import values_by_person
from segtrain.data.store import Store
from segtrain.errors import RunError
from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.trained_on import people_of_patients, trained_on
from segtrain.run import Run, read_evaluation
from segtrain.run.events import from_line, to_line

SCANS = ("PHANTOM_0001", "PHANTOM_0002", "PHANTOM_0004")
OTHERS = ("PHANTOM_0006", "PHANTOM_0008", "PHANTOM_0009")


@pytest.fixture(scope="module")
def run_of_people(tiny: Config, tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that validates three scans of one person, and three other people."""
    folder = tmp_path_factory.mktemp("people")
    validation = sorted((*SCANS, *OTHERS))
    train = sorted(tiny_store.patients.keys() - {*validation})
    (folder / "split.json").write_text(json.dumps({"train": train, "validation": validation}))
    (folder / "groups.csv").write_text("".join(f"{scan},anna\n" for scan in SCANS))
    data = replace(tiny.data, split="file", split_file=str(folder / "split.json"), groups=str(folder / "groups.csv"))
    cfg = replace(tiny, name="people", data=data, train=TrainConfig(epochs=1, global_batch=4))
    return Run(run_to_end(folder, cfg, 2))


def by_person(dsc: dict[str, float]) -> list[float]:
    """By hand, in the order of the first scans."""
    anna = sum(dsc[scan] for scan in SCANS) / len(SCANS)
    return [anna, *(dsc[patient] for patient in OTHERS)]


@pytest.mark.law("L10")
def test_training_tells_the_mean_over_people(run_of_people: Run) -> None:
    (event,) = events(run_of_people.root, "evaluation")
    rows = run_of_people.scores(1)
    assert run_of_people.split_record().people == dict.fromkeys(SCANS, "anna")
    expected = by_person({row["patient"]: float(row["dsc"]) for row in rows})
    assert (event["n"], event["people"], len(rows)) == (6, 4, 6)
    assert event["val_dsc"] == pytest.approx(statistics.fmean(expected), abs=1e-6)
    assert event["val_dsc"] != pytest.approx(statistics.fmean(float(row["dsc"]) for row in rows), abs=1e-6)
    summary = summarise(expected)
    assert (event["median"], event["ci_low"]) == pytest.approx((summary.median, summary.ci_low), abs=1e-6)
    assert "4 people, 6 patients" in run_of_people.log_file.read_text()
    assert (run_of_people.result().n, run_of_people.result().people) == (6, 4)


@pytest.mark.law("L10")
def test_the_summary_of_segtrain_evaluate_is_over_people(
    run_of_people: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([str(run_of_people.root), "--geometry", "prepared", "--out", str(tmp_path / "out")]) == 0
    rows, summary = read_evaluation(tmp_path / "out")
    values = by_person({row["patient"]: float(row["dsc"]) for row in rows})
    dsc = summary["not_trained_on"]["dsc"]
    assert (dsc["n"], dsc["patients"]) == (4, 6)
    assert dsc["mean"] == run_of_people.result().best_dsc
    assert dsc["median"] == pytest.approx(np.median(values), abs=1e-6)
    assert [dsc["quartile_1"], dsc["quartile_3"]] == pytest.approx(np.percentile(values, (25, 75)), abs=1e-6)
    assert summary["dsc_by"]["institution PHANTOM"]["n"] == 4
    sizes = [summary["dsc_by"][f"lesion {size}"]["n"] for size in ("small", "medium", "large")]
    assert sizes == [2, 1, 1], "people, each in one of the three"
    assert "the scans of one person count as one" in summary["people"]
    assert "4 (6 patients)" in capsys.readouterr().out


def test_values_keep_their_order() -> None:
    """The interval's last digits depend on it."""
    assert values_by_person({"B": 0.1, "A": 0.4, "C": 0.3}, {"B": "b", "C": "b"}) == [pytest.approx(0.2), 0.4]
    assert values_by_person({"B": 0.1, "A": 0.4}, {}) == [0.1, 0.4]


def checkpoint_of(trained_run: Run, train: list[str], people: dict[str, str]) -> TrainedCheckpoint:
    (checkpoint,) = select_checkpoints([trained_run.root], "last", [])
    return replace(checkpoint, train=frozenset(train), validation=frozenset(), people=people)


@pytest.mark.law("L1")
def test_another_scan_of_somebody_trained_on_is_no_new_patient(trained_run: Run) -> None:
    patients = ["sub-01_ses-2", "sub-02_ses-1", "x", "anna2"]
    checkpoint = checkpoint_of(trained_run, ["sub-01_ses-1", "anna1", "anna2"], {"anna1": "anna", "anna2": "anna"})
    assert trained_on(patients, [checkpoint]) == {"sub-01_ses-2", "anna2"}
    people = people_of_patients(patients, [checkpoint])
    assert people == {"sub-01_ses-2": "sub-01", "sub-02_ses-1": "sub-02", "x": "x", "anna2": "anna"}


@pytest.mark.law("L1")
def test_another_dated_scan_of_somebody_trained_on_is_no_new_patient(trained_run: Run) -> None:
    """Of one patient who is scored, nobody could say whether `anna` is a person; the ids of the split can."""
    checkpoint = checkpoint_of(trained_run, ["anna_2010-01-01", "bert_2010-02-03"], {})
    assert trained_on(["anna_2012-05-06"], [checkpoint]) == {"anna_2012-05-06"}
    checkpoint = checkpoint_of(trained_run, ["scan_2010-01-01", "scan_2010-02-03"], {})
    assert people_of_patients(["exam_2012-05-06"], [checkpoint]) == {"exam_2012-05-06": "exam_2012-05-06"}
    assert trained_on(["scan_2012-05-06"], [checkpoint]) == frozenset()


def test_the_split_is_believed_before_the_pattern(trained_run: Run) -> None:
    """data.groups may part what a pattern joins; a run from before groups has no people at all."""
    ids = ["site_visit1", "site_visit2"]
    checkpoint = checkpoint_of(trained_run, ids, {})
    assert people_of_patients(ids, [checkpoint]) == dict(zip(ids, ids, strict=True))


def test_people_are_read_from_split_json(trained_run: Run, run: Run) -> None:
    assert trained_run.split_record().people == {}
    run.split_file.write_text("[]")
    with pytest.raises(RunError, match=r"split\.json: cannot be read"):
        run.split_record()


def test_an_event_from_before_there_were_people_is_read() -> None:
    line = to_line(evaluation_event(3, 1, 0.5)).replace(', "people": null', "").replace(', "regions": {}', "")
    assert "people" not in line
    event = from_line(line.encode())
    assert event is not None
    assert from_line(to_line(event).encode()) == event
