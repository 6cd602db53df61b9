"""`segtrain track`: what is new of a run, once, wherever it was stopped, and no patient's name."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import PATIENTS, REGIONS, evaluation_event, train, train_event

from segtrain.commands import track
from segtrain.errors import ConfigError, DamagedFile, LaunchError, RunError
from segtrain.run import EvaluationFiles, Run, write_evaluation
from segtrain.run.events import Event, TrainEvent, evaluations
from segtrain.run.layout import END
from segtrain.run.reader import RunReader
from segtrain.run.tracked import Sent
from segtrain.runtime import lock
from segtrain.tracking import send_run, sending
from segtrain.tracking.mlflow_runs import without_password
from segtrain.tracking.record import Point, Record, record_of


@dataclass
class Remembers:
    """A tracker that remembers what it was sent, and may refuse."""

    place: str = "memory"
    calls: list[tuple[Record, int]] = field(default_factory=list)
    refuses: tuple[str, ...] = ()

    def sent(self, record: Record) -> Sent | None:
        return None

    def send(self, record: Record, after: int) -> str:
        if record.name in self.refuses:
            raise LaunchError(f"{self.place}: no answer; try again")
        self.calls.append((record, after))
        return "here"

    @property
    def points(self) -> list[Point]:
        """All that it got."""
        return [point for record, after in self.calls for point in record.points if point.position > after]


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Remembers:
    remembers = Remembers()
    monkeypatch.setitem(sending.TRACKERS, "wandb", lambda to: remembers)
    return remembers


def numbers_of(event: Event) -> dict[str, float]:
    """What an event says, by hand."""
    if isinstance(event, TrainEvent):
        return {key: getattr(event, key) for key in ("loss", "lr", "images_per_s", "memory_gib")}
    values = {key: getattr(event, key) for key in ("epoch", "val_loss", "val_dsc", "n", "ci_low", "ci_high", "people")}
    values |= {"val_dsc_median": event.median} | {f"val_dsc/{key}": one["dsc"] for key, one in event.regions.items()}
    return {key: float(value) for key, value in values.items() if value is not None}


@pytest.mark.law("L10")
@pytest.mark.parametrize("shift", [0.0, dict.fromkeys(REGIONS, 0.0)], ids=["one region", "regions"])
def test_each_number_of_each_event_arrives_with_its_step(tmp_path: Path, shift: Any, tracker: Remembers) -> None:
    run = train(tmp_path / "runs" / "a", shift)
    assert track.command([str(run.root), "--to", "wandb"]) == 0
    assert [(point.step, point.time, dict(point.values)) for point in tracker.points] == [
        (event.step, event.time, numbers_of(event)) for event in run.events()
    ]
    ((record, _),) = tracker.calls
    best = max(evaluations(run.events()), key=lambda event: event.val_dsc)
    assert record.scores["best/val_dsc"] == best.val_dsc
    assert record.scores["best/n"] == len(PATIENTS)
    assert record.settings["optim.lr"] == 1e-4
    assert record.facts["state"] == "finished"


def test_a_second_call_sends_nothing_and_a_longer_run_what_is_new(
    tmp_path: Path, tracker: Remembers, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "runs" / "a", state="running")
    words = [str(tmp_path / "runs"), "--to", "wandb"]
    track.command(words)
    track.command(words)
    assert len(tracker.calls) == 1
    assert "nothing new" in capsys.readouterr().err
    for event in (train_event(35), train_event(40), evaluation_event(40, 4, 0.95)):
        run.record(event)
    track.command(words)
    (_, first), (record, after) = tracker.calls
    assert (first, after) == (-1, 61)
    assert [point.step for point in record.points if point.position > after] == [35, 40, 40]
    assert record.id == tracker.calls[0][0].id
    assert len({point.position for point in tracker.points}) == len(tracker.points) == len(run.events())
    track.command([*words, "--again"])
    assert tracker.calls[-1][1] == -1


@settings(max_examples=12)
@given(cuts=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=5))
def test_whatever_was_killed_and_done_again_arrives_once(
    cuts: Sequence[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A run goes on by some steps, is tracked, is killed, and goes back to a checkpoint before it goes on."""
    run, tracker = Run(tmp_path_factory.mktemp("killed") / "run"), Remembers()
    run.root.mkdir()
    run.config_file.write_text("name: killed\n")
    step = 0
    for steps, back in [*cuts, (1, 0)]:
        for each in range(step + 1, step + steps + 1):
            run.record(train_event(each, loss=1 / each))
            if each % 3 == 0:
                run.record(evaluation_event(each, each // 3, 0.5))
        send_run(run, tracker)
        step = max(0, step + steps - back)
        run.rewind(step, step // 3)
    longest = max(point.step for point in tracker.points)
    expected = sorted([2 * n for n in range(1, longest + 1)] + [2 * n + 1 for n in range(3, longest + 1, 3)])
    assert [point.position for point in tracker.points] == expected
    assert all(point.values["loss"] == 1 / point.step for point in tracker.points if "loss" in point.values)


def test_an_evaluation_and_an_end_are_news_without_new_events(tmp_path: Path, tracker: Remembers) -> None:
    run = train(tmp_path / "a")
    assert send_run(run, tracker).points == len(run.events())
    mean = {"n": 6, "mean": 0.5, "ci_low": 0.4, "ci_high": 0.6, "median": 0.5, "rule": "text"}
    summary = {
        "chosen_on": "",
        "not_trained_on": {"dsc": mean, "hd95": {"n": 0}},
        "regions": {"core ": {"not_trained_on": {"dsc": mean}}},
    }
    write_evaluation(run.evaluation("validation", "best"), EvaluationFiles([{"patient": "p"}], summary))
    tracked = send_run(run, tracker)
    assert (tracked.points, tracked.where) == (0, "here")
    scores = tracker.calls[-1][0].scores
    for where in ("evaluation/validation-best/dsc", "evaluation/validation-best/core/dsc"):
        assert [scores[f"{where}/{key}"] for key in ("mean", "n", "ci_low", "ci_high")] == [0.5, 6, 0.4, 0.6]
    assert send_run(run, tracker).where is None


def test_no_patient_and_nothing_that_steers_a_terminal_is_in_a_record(tmp_path: Path) -> None:
    run = train(tmp_path / "a", {"whole": 0.0, "core": 0.0, "enhancing": 0.0})
    text = run.config_file.read_text()
    run.config_file.write_text(
        text.replace("name: any", 'name: "a\\e[2J\\nfake"').replace(END, "odd: {'\u202egnp.exe': 1}\n" + END)
    )
    record = record_of(run)
    sent = json.dumps([record.name, record.id, record.settings, record.scores, record.facts], ensure_ascii=False)
    sent += json.dumps([dict(point.values) for point in record.points])
    assert not [patient for patient in PATIENTS if patient in sent]
    assert record.name == "a\\x1b[2J\\nfake"
    assert not [letter for letter in sent if not letter.isprintable()]
    assert "val_dsc/whole" in record.points[2].values


def test_a_run_is_the_same_wherever_it_lies_and_another_when_it_was_begun_anew(tmp_path: Path) -> None:
    run = train(tmp_path / "runs" / "a")
    moved = RunReader(shutil.copytree(run.root, tmp_path / "home" / "a.1"))
    assert record_of(moved).id == record_of(run).id
    starts = json.loads(run.environment_file.read_text())
    run.environment_file.write_text(json.dumps([{**starts[0], "time": "2026-01-01T00:00:00+0000"}]))
    assert record_of(run).id != record_of(moved).id


def test_runs_of_an_ablation_are_a_group(tmp_path: Path, tracker: Remembers) -> None:
    for name in ("base-seed1", "up-seed1"):
        train(tmp_path / "runs" / "loss" / name)
    (tmp_path / "runs" / "loss" / "ablation.json").write_text("{}")
    track.command([str(tmp_path / "runs"), "--to", "wandb"])
    assert {record.group for record, _ in tracker.calls} == {"loss"}
    assert len(tracker.calls) == 2


@pytest.mark.law("L12")
def test_a_run_that_cannot_be_sent_is_named_and_the_others_are_sent(tmp_path: Path, tracker: Remembers) -> None:
    good, damaged = train(tmp_path / "runs" / "good"), train(tmp_path / "runs" / "damaged")
    damaged.metrics.write_text("no event\n{}\n")
    with pytest.raises(DamagedFile, match=r"metrics.jsonl: cannot be read"):
        track.command([str(tmp_path / "runs"), "--to", "wandb"])
    assert len(tracker.calls) == 1
    good.tracked_file.write_text('{"memory": 3}')
    with pytest.raises(RunError, match=r"2 of 2 runs were not sent, the first: .*or remove the line"):
        track.command([str(tmp_path / "runs"), "--to", "wandb"])
    with pytest.raises(DamagedFile, match=r"tracked.json: .*; remove it, and all is sent once more"):
        send_run(good, tracker)


def test_what_was_refused_is_sent_the_next_time(tmp_path: Path, tracker: Remembers) -> None:
    run = train(tmp_path / "a")
    tracker.refuses = ("any",)
    with pytest.raises(LaunchError, match="no answer; try again"):
        track.command([str(run.root), "--to", "wandb"])
    assert not run.tracked_file.exists()
    tracker.refuses = ()
    track.command([str(run.root), "--to", "wandb"])
    assert len(tracker.points) == len(run.events())


def test_two_places_are_told_apart(tmp_path: Path) -> None:
    run, here, there = train(tmp_path / "a"), Remembers("here"), Remembers("there")
    for tracker in (here, there, here, there):
        send_run(run, tracker)
    assert len(here.calls) == len(there.calls) == 1


@pytest.mark.law("L12")
def test_nobody_sends_a_run_twice_at_once_or_without_a_note(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = train(tmp_path / "a")
    held = lock.take(run.tracked_lock)
    assert held
    with pytest.raises(RunError, match="another process sends it"):
        send_run(run, Remembers())
    held.release()
    run.root.chmod(0o555)
    tracker = Remembers()
    request.getfixturevalue("as_nobody")
    with pytest.raises(RunError, match="cannot be written, so what was sent cannot be noted"):
        send_run(run, tracker)
    assert not tracker.calls


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", ["wandb", "mlflow", "swanlab"])
def test_a_package_that_is_missing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    run = train(tmp_path / "a")
    with pytest.raises(ConfigError, match=f"--to {name} needs {name}, which is not installed; pip install {name}"):
        track.command([str(run.root), "--to", name])
    assert not run.tracked_file.exists()


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no", "--to", "wandb"], "no: holds no run"),
        ([".", "--to", "mlflow", "--offline"], "--offline: MLflow writes where --uri says"),
        ([".", "--to", "wandb", "--uri", "sqlite:///a"], "--uri sqlite:///a: is for --to mlflow"),
        ([".", "--to", "wandb", "--project", " "], "--project: is empty"),
    ],
)
def test_options_that_do_not_fit_are_named(words: list[str], message: str) -> None:
    with pytest.raises((ConfigError, RunError), match=message):
        track.command(words)


def test_an_address_is_told_without_its_password() -> None:
    assert without_password("https://me:secret@host:5000/a?key=secret#secret") == "https://host:5000/a"
    assert without_password("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    assert without_password("postgresql://u:p@w@db/x") == "postgresql://db/x"
