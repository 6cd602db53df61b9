"""Runs in the trackers: in stand-ins that keep what their servers would, and, where the packages are installed, in
their own files, without a network.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tracker_stand_ins as stand_ins
from made_runs import evaluation_event, train, train_event

from segtrain.commands import track
from segtrain.errors import ConfigError, LaunchError
from segtrain.run import Run
from segtrain.run.events import TrainEvent, to_line
from segtrain.tracking.record import record_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages
MISSING = "segtrain is tested with the real package where it is installed"


BLOCK, FULL, LAST = 1 << 15, 1, 4  # of LevelDB's log


def losses_of(run: Run) -> list[tuple[int, float]]:
    return [(event.step, event.loss) for event in run.events() if isinstance(event, TrainEvent)]


def go_on(run: Run) -> None:
    """Two more steps and an evaluation, by a start with other settings."""
    for event in (train_event(35, loss=0.02), train_event(40, loss=0.01), evaluation_event(40, 4, 0.95)):
        run.record(event)
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("epochs: 3", "epochs: 4"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What all stand-ins have been sent."""
    kept: dict[str, Any] = {}
    for name, make in (("wandb", stand_ins.wandb), ("mlflow", stand_ins.mlflow), ("swanlab", stand_ins.swanlab)):
        monkeypatch.setitem(sys.modules, name, make(kept))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return kept


def test_wandb_keeps_each_point_of_a_run_once(tmp_path: Path, server: dict[str, Any]) -> None:
    run = train(tmp_path / "a", state="diverged")
    words = [str(run.root), "--to", "wandb", "--project", "mine"]
    track.command(words)
    ((_, kept),) = server.items()
    assert kept.init == {"project": "mine", "name": "any", "group": None, "mode": "online", "resume": "allow"}
    assert kept.end == 1, "a run that diverged has failed"
    go_on(run)
    track.command(words)
    assert kept.refused == 0
    run.tracked_file.unlink()  # a call that was killed before its note
    track.command(words)
    assert kept.refused == len(kept.rows) == len(run.events())
    assert [(row["step"], row["loss"]) for row in kept.rows if "loss" in row] == losses_of(run)
    assert (kept.config["train.epochs"], kept.summary["best/val_dsc"], kept.summary["best/n"]) == (4, 0.95, 3)


def test_swanlab_keeps_each_point_of_a_run_once(tmp_path: Path, server: dict[str, Any]) -> None:
    run = train(tmp_path / "a", state="stopped")
    words = [str(run.root), "--to", "swanlab"]
    for _ in range(2):
        track.command(words)
    ((_, kept),) = server.items()
    go_on(run)
    track.command(words)
    assert (kept.refused, kept.end) == (0, "aborted")
    run.tracked_file.unlink()
    track.command(words)
    assert [(row["step"], row["loss"]) for row in kept.rows if "loss" in row] == losses_of(run)
    assert kept.config["scores"]["best/val_dsc"] == 0.95


def test_mlflow_keeps_each_point_of_a_run_once_however_many(tmp_path: Path, server: dict[str, Any]) -> None:
    run = train(tmp_path / "a", state="failed")
    more = [train_event(step, loss=1 / step) for step in range(31, 300)]  # more than a call takes
    run.metrics.write_text(run.metrics.read_text() + "".join(map(to_line, more)))
    words = [str(run.root), "--to", "mlflow", "--uri", "sqlite:///x"]
    for _ in range(2):
        track.command(words)
    (kept,) = server["sqlite:///x"]
    points = len(kept.points)
    assert [(one.step, one.value) for one in kept.points if one.key == "loss"] == losses_of(run)
    run.record(evaluation_event(300, 20, 0.99))
    run.config_file.write_text(run.config_file.read_text().replace("epochs: 3", "epochs: 20"))
    track.command(words)
    track.command([*words, "--again"])
    assert (kept.data.params["train.epochs"], kept.data.tags["config.train.epochs"]) == ("3", "20")
    assert kept.info.status == "FAILED"
    assert [one.value for one in kept.points if one.key == "val_dsc"][-1] == 0.99
    assert len([one for one in [*kept.points][points:] if one.key == "loss"]) == 0


@pytest.mark.law("L12")
def test_what_a_tracker_says_is_told_in_one_line_without_a_password(
    tmp_path: Path, server: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, uri = train(tmp_path / "a"), "https://me:secret@host/x"
    monkeypatch.setitem(sys.modules, "mlflow", stand_ins.mlflow(server, refuses=f"no answer\nof {uri}."))
    with pytest.raises(LaunchError) as caught:
        track.command([str(run.root), "--to", "mlflow", "--uri", uri])
    assert str(caught.value).startswith("mlflow https://host/x segtrain: no answer of https://host/x; check --uri")
    assert "secret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "wandb", stand_ins.wandb(server, has_key=False))
    with pytest.raises(ConfigError, match="has no key; set WANDB_API_KEY"):
        track.command([str(run.root), "--to", "wandb"])


class Mlflow:
    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.words = ["--to", "mlflow", "--uri", self.uri]
        self.client = MlflowClient(tracking_uri=self.uri)

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("segtrain")
        return list(self.client.search_runs([experiment.experiment_id])) if experiment else []

    def history(self, key: str) -> list[tuple[int, float]]:
        (run,) = self.runs()
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key)]


def test_mlflow_has_each_point_once_and_a_run_that_goes_on_is_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason=MISSING)
    pytest.importorskip("sqlalchemy", reason=MISSING)
    run, store = train(tmp_path / "a", state="running"), Mlflow(tmp_path)
    words = [str(run.root), *store.words]
    assert track.command(words) == 0
    assert track.command(words) == 0
    assert "nothing new" in capsys.readouterr().err
    assert store.history("loss") == losses_of(run)
    assert store.runs()[0].info.status == "RUNNING"
    go_on(run)
    track.command(words)
    track.command([*words, "--again"])
    (tracked,) = store.runs()
    assert store.history("loss") == losses_of(run)
    assert store.history("val_dsc")[-1] == (40, 0.95)
    assert tracked.data.params["optim.lr"] == "0.0001"
    assert (tracked.data.params["train.epochs"], tracked.data.tags["config.train.epochs"]) == ("3", "4")
    assert tracked.data.metrics["best/val_dsc"] == 0.95
    assert tracked.info.run_name == "any"
    assert not run.tracked_file.exists(), "the store itself knows what it has"


def test_wandb_has_the_whole_run_in_each_offline_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second folder replaces what the first sent, so each holds all."""
    pytest.importorskip("wandb", reason=MISSING)
    run = train(tmp_path / "a", state="running")
    words = [str(run.root), "--to", "wandb", "--offline", "--dir", str(tmp_path)]
    track.command(words)
    track.command(words)
    go_on(run)
    track.command(words)
    first, second = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    rows = wandb_rows(second)
    assert [(row["step"], row["loss"]) for row in rows if "loss" in row] == losses_of(run)
    assert [row["_step"] for row in rows] == [point.position for point in record_of(run).points]
    assert len(wandb_rows(first)) == len(rows) - 3
    assert first.name == second.name == f"run-{record_of(run).id}.wandb"


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The history in an offline file: records in the blocks of LevelDB's log, behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2 as pb

    content, at, data, rows = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data += content[at + 7 : at + 7 + size]
        at += 7 + size
        if BLOCK - at % BLOCK < 7:  # no room for another header
            at += BLOCK - at % BLOCK
        if kind in (FULL, LAST):
            record = pb.Record.FromString(data)
            data = b""
            if record.HasField("history"):
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_swanlab_has_what_is_new_in_each_offline_folder(tmp_path: Path) -> None:
    pytest.importorskip("swanlab", reason=MISSING)
    run = train(tmp_path / "a", state="running")
    words = [str(run.root), "--to", "swanlab", "--offline", "--dir", str(tmp_path / "log")]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "segtrain", "track", *words], capture_output=True, text=True, check=True
        )
    assert "nothing new" in done.stderr
    go_on(run)
    track.command(words)
    assert len(list((tmp_path / "log").glob("run-*"))) == 2
