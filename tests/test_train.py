"""The command, end to end: what it leaves behind, what it says, how it refuses."""

import importlib.metadata
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import events, run
from PIL import Image
from predictions import write_patient
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from trainings import run_to_end

from segtrain.config import Config, TrainConfig, load_config
from segtrain.data.sources.phantom import phantom_patient
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.evaluation.evaluate import evaluate
from segtrain.evaluation.overlays import GREEN, RED, YELLOW
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import CPU, World

LAST_LINE = re.compile(r"Best validation mean DSC: (\d\.\d{6})")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Config, tiny_store: Store) -> tuple[Path, str]:
    """A run of two epochs on two ranks: its directory and what it printed."""
    directory = tmp_path_factory.mktemp("finished")
    done = run(directory, tiny, "train.epochs=2", "log_every_steps=2", ranks=2)
    assert done.returncode == 0, done.stderr
    return directory / "runs" / "tiny", done.stdout


def test_the_last_line_is_the_best_score(finished: tuple[Path, str]) -> None:
    directory, output = finished
    *_, run_line, board_line, last = output.strip().splitlines()
    match = LAST_LINE.fullmatch(last)
    assert match
    best = max(float(str(e["val_dsc"])) for e in events(directory, "evaluation"))
    assert float(match[1]) == pytest.approx(best, abs=1e-6)
    assert str(directory) in run_line
    assert str(directory / "tensorboard") in board_line


def test_the_run_directory_is_whole(finished: tuple[Path, str], tiny: Config, tiny_store: Store) -> None:
    directory, _ = finished
    cfg = load_config(directory / "config.yaml")
    assert cfg.train.epochs == 2
    assert (directory / "config.yaml").read_text().startswith("# python -m segtrain.train --config ")
    split = json.loads((directory / "split.json").read_text())
    content = split.pop("content")
    assert split == make_split(tiny.data, tiny_store).to_json()
    assert content.keys() == {*split["train"], *split["validation"]}
    (environment,) = json.loads((directory / "environment.json").read_text())
    assert environment["world_size"] == 2
    assert environment["packages"]["torch"] == importlib.metadata.version("torch")
    outcome = json.loads((directory / "outcome.json").read_text())
    assert outcome["state"] == "finished"
    assert "val_dsc" in (directory / "log.txt").read_text()
    assert "made up" in (directory / "log.txt").read_text()


@pytest.mark.law("L6")
def test_no_teardown_can_fail_a_training_that_is_over(tiny: Config, tmp_path: Path, tiny_store: Store) -> None:
    """A thread of gloo that meets the interpreter's teardown ends the process with SIGABRT: here each would."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\nif 'RANK' in os.environ:\n    atexit.register(os.abort)\n"
    )
    doomed = {"PYTHONPATH": str(tmp_path)}
    done = run(tmp_path, tiny, ranks=1, env=doomed)
    assert done.returncode == 0, done.stderr
    assert LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    asked = {"RANK": "0", "WORLD_SIZE": "1"}
    assert run(tmp_path, tiny, "model.features=3", env={**doomed, **asked}, warm=False).returncode == 2


@pytest.mark.law("L10")
def test_the_mean_stands_beside_what_belongs_to_it(finished: tuple[Path, str]) -> None:
    directory, _ = finished
    for event in events(directory, "evaluation"):
        table = (directory / str(event["per_patient"])).read_text().splitlines()
        columns = table[0].split(",")
        rows = [dict(zip(columns, line.split(","), strict=True)) for line in table[1:]]
        assert (
            sorted(row["patient"] for row in rows) == json.loads((directory / "split.json").read_text())["validation"]
        )
        for row in rows:
            tp, fp, fn = (int(row[name]) for name in ("tp", "fp", "fn"))
            assert int(row["voxels"]) == tp + fn
            assert float(row["dsc"]) == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)
        assert event["val_dsc"] == pytest.approx(np.mean([float(row["dsc"]) for row in rows]), abs=1e-6)
        assert event["n"] == len(rows)
        assert float(str(event["ci_low"])) <= float(str(event["val_dsc"])) <= float(str(event["ci_high"]))
        assert "empty" in str(event["empty_masks"])


def test_tensorboard_shows_what_metrics_hold(finished: tuple[Path, str]) -> None:
    directory, _ = finished
    board = EventAccumulator(str(directory / "tensorboard"))
    board.Reload()
    for name, kind in {"loss": "train", "lr": "train", "images_per_s": "train", "memory_gib": "train",
                       "val_loss": "evaluation", "val_dsc": "evaluation"}.items():  # fmt: skip
        expected = [(e["step"], pytest.approx(e[name], rel=1e-5)) for e in events(directory, kind)]
        assert [(point.step, point.value) for point in board.Scalars(name)] == expected
    assert len(board.Images(board.Tags()["images"][0])) == 2


def settings_in_tensorboard(directory: Path) -> dict[str, float | str]:
    """The hyperparameters, where the config is there once and as in config.yaml."""
    board = EventAccumulator(str(directory / "tensorboard"))
    board.Reload()
    (text,) = board.Tensors("config/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    tree = yaml.safe_load("\n".join(line.removeprefix("    ") for line in lines))
    assert tree == yaml.safe_load((directory / "config.yaml").read_text())
    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    return {key: value.number_value or value.string_value for key, value in values.items()}


def test_tensorboard_has_the_config_as_text_and_as_hyperparameters(finished: tuple[Path, str]) -> None:
    settings = settings_in_tensorboard(finished[0])
    assert (settings["train.epochs"], settings["model.features"], settings["optim.lr"]) == (2, 4, 1e-3)
    assert (settings["model.norm"], settings["loss"]) == ("group", "dice")
    assert not settings.keys() & {"name", "runs_dir", "data.store", "device", "model.depth"}


def test_the_overlays_show_both_outlines(finished: tuple[Path, str]) -> None:
    directory, _ = finished
    picture = np.asarray(Image.open(directory / "validation" / "epoch-0002.png")).reshape(-1, 3)
    red, green, both = ((picture == colour).all(axis=1).sum() for colour in (RED, GREEN, YELLOW))
    assert red > 50
    assert green + both > 50


@pytest.mark.law("L7")
def test_the_best_weights_give_the_best_score(finished: tuple[Path, str], tiny: Config, tiny_store: Store) -> None:
    directory, output = finished
    best = directory / "checkpoints" / (directory / "checkpoints" / "BEST").read_text().strip()
    network = make_model(tiny.model, seed=9).eval()
    network.load_state_dict(load_file(best / "model.safetensors"))
    patients = json.loads((directory / "split.json").read_text())["validation"]
    predictor = Predictor(lambda image: network(image.contiguous()), tiny.evaluate, CPU)
    result = evaluate(predictor, make_loss("dice"), tiny_store, patients, World())
    assert result is not None
    match = LAST_LINE.search(output)
    assert match
    assert f"{result.dsc.mean:.6f}" == match[1]
    state = json.loads((best / "state.json").read_text())
    assert state["split"] == json.loads((directory / "split.json").read_text())["hash"]


@pytest.mark.law("L5")
@pytest.mark.law("L2")
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_training_is_the_same_at_any_world_size(
    finished: tuple[Path, str], tiny: Config, tmp_path: Path, ranks: int
) -> None:
    directory, _ = finished
    other = run_to_end(tmp_path, replace(tiny, train=TrainConfig(epochs=2, global_batch=4), log_every_steps=2), ranks)
    for kind, name in (("train", "loss"), ("evaluation", "val_loss")):
        ours = [e[name] for e in events(directory, kind)]
        theirs = [e[name] for e in events(other, kind)]
        assert theirs == pytest.approx(ours, abs=5e-4), (kind, name)


def test_a_finished_run_says_so_and_repeats_its_last_line(finished: tuple[Path, str], tiny: Config) -> None:
    directory, output = finished
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    again = run(directory.parent.parent, tiny, "train.epochs=2", "log_every_steps=2")
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == output.splitlines()[-1]
    assert "is finished" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


@pytest.mark.law("L12")
def test_a_run_directory_of_another_config_is_refused(finished: tuple[Path, str], tiny: Config) -> None:
    directory, _ = finished
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    other = run(directory.parent.parent, tiny, "train.epochs=2", "optim.lr=0.5")
    assert other.returncode == 2
    assert len(other.stderr.strip().splitlines()) == 1
    for word in (str(directory.relative_to(directory.parent.parent)), "optim.lr", "0.5", "0.001", "--fresh"):
        assert word in other.stderr
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


@pytest.mark.quick
@pytest.mark.law("L6")
def test_a_finished_run_goes_on_when_more_epochs_are_asked_for(tiny: Config, tmp_path: Path, tiny_store: Store) -> None:
    """It is the run that had asked for them from the start: same losses, same scores, curves without a seam."""
    (tmp_path / "whole").mkdir()
    assert run(tmp_path / "whole", tiny, "train.epochs=3").returncode == 0
    first = run(tmp_path, tiny, "train.epochs=1")
    assert first.returncode == 0, first.stderr
    more = run(tmp_path, tiny, "train.epochs=3", "log_every_steps=10", "threads_per_rank=1")
    assert more.returncode == 0, more.stderr
    assert "resuming" in more.stderr
    directory, whole = tmp_path / "runs" / "tiny", tmp_path / "whole" / "runs" / "tiny"
    for kind, name in (("train", "loss"), ("evaluation", "val_dsc")):
        ours = [(e["step"], e[name]) for e in events(directory, kind)]
        assert ours == [(e["step"], e[name]) for e in events(whole, kind)]
        board = EventAccumulator(str(directory / "tensorboard"))
        board.Reload()
        assert [point.step for point in board.Scalars("loss" if kind == "train" else "val_dsc")] == [s for s, _ in ours]
    assert len(json.loads((directory / "environment.json").read_text())) == 2
    assert settings_in_tensorboard(directory)["train.epochs"] == 3
    fewer = run(tmp_path, tiny, "train.epochs=2")
    assert fewer.returncode == 0
    assert "is finished" in fewer.stderr


@pytest.mark.law("L1")
@pytest.mark.law("L12")
def test_a_run_whose_patients_changed_is_not_resumed(
    finished: tuple[Path, str], tiny: Config, tmp_path: Path, tiny_store: Store
) -> None:
    directory = tmp_path / "runs" / "tiny"
    shutil.copytree(finished[0], directory)
    split = json.loads((directory / "split.json").read_text())
    (directory / "split.json").write_text(json.dumps({**split, "hash": "0" * 64}))
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != "log.txt"}
    refused = run(tmp_path, tiny, "train.epochs=3", "log_every_steps=2")
    assert refused.returncode == 2
    assert "split" in refused.stderr.strip().splitlines()[-1]
    assert split["hash"][:12] in refused.stderr
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != "log.txt"} == before


@pytest.mark.law("L12")
def test_a_run_whose_slices_changed_under_the_same_patients_is_not_resumed(tiny: Config, tmp_path: Path) -> None:
    root = tmp_path / "kaggle_3m"
    for number in range(6):
        write_patient(root, f"P{number}", *phantom_patient(number, 2, 64))
    data = replace(tiny.data, source="lgg", root=str(root), store=str(tmp_path / "prepared"))
    cfg = replace(tiny, data=data)
    assert run(tmp_path, cfg, "train.epochs=1").returncode == 0
    directory = tmp_path / "runs" / "tiny"
    trained = json.loads((directory / "split.json").read_text())["train"]
    mask = max((root / trained[0]).glob("*_mask.tif"), key=lambda file: np.asarray(Image.open(file)).sum())
    lesion = mask.read_bytes()
    Image.fromarray(np.asarray(Image.open(mask)) * 0).save(mask)
    kept = [directory / "metrics.jsonl", *(p for p in (directory / "checkpoints").rglob("*") if p.is_file())]
    before = [file.read_bytes() for file in kept]
    for message in (
        f"runs/tiny: patient {trained[0]} has another mask than this run was begun with; bring the data back",
        "runs/tiny: this run trained on other slices under the same patient names than are in",
    ):
        refused = run(tmp_path, cfg, "train.epochs=2")
        assert refused.returncode == 2, refused.stderr
        assert message in refused.stderr.strip().splitlines()[-1]
        split = json.loads((directory / "split.json").read_text())
        split.pop("content")  # as runs of earlier versions have it
        (directory / "split.json").write_text(json.dumps(split))
    assert [file.read_bytes() for file in kept] == before
    mask.write_bytes(lesion)
    again = run(tmp_path, cfg, "train.epochs=2")
    assert again.returncode == 0, again.stderr
    assert "resuming" in again.stderr


def test_a_requeued_job_does_not_start_over_what_it_began(
    finished: tuple[Path, str], tiny: Config, tmp_path: Path
) -> None:
    shutil.copytree(finished[0].parent, tmp_path / "runs")
    output = finished[1]
    starts = tmp_path / "runs" / "tiny" / "environment.json"
    (start,) = json.loads(starts.read_text())
    starts.write_text(json.dumps([{**start, "job": "4711"}]))
    options = ["train.epochs=2", "log_every_steps=2", "--fresh"]
    again = run(tmp_path, tiny, *options, env={"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "4711"})
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == output.splitlines()[-1]
    assert "is finished" in again.stderr
    other = run(tmp_path, tiny, *options, env={"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "4712"})
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "runs" / "tiny.1").is_dir(), "another job's --fresh is meant, even when it comes back"
