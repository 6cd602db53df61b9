"""`segtrain evaluate`: the scores are those of the training, nobody is scored on what was trained on unasked (L1)."""

import csv
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from trainings import run_to_end

from segtrain.commands.evaluate import command
from segtrain.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from segtrain.data.splits import hash_of
from segtrain.engines.engine import make_engine
from segtrain.evaluation.ensemble import TrainedCheckpoint, member_logits
from segtrain.losses.loss import DeepSupervision, Loss, make_loss
from segtrain.models.base import supervision_ratio
from segtrain.models.make import make_model
from segtrain.run import Run, checkpoint
from segtrain.runtime.process import run_command
from segtrain.runtime.world import World

Capture = pytest.CaptureFixture[str]


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def evaluated(out: Path, *arguments: object) -> tuple[list[dict[str, str]], dict[str, Any]]:
    assert command([*map(str, arguments), "--out", str(out)]) == 0
    return table(out / "scores.csv"), json.loads((out / "summary.json").read_text())


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def call(*arguments: object) -> str:
        code = run_command(command, [*map(str, arguments), "--out", str(tmp_path / "refused")])
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert code == 2
        assert said.startswith("segtrain: error: ")
        assert not (tmp_path / "refused").exists()
        return said

    return call


@pytest.mark.law("L10")
@pytest.mark.parametrize("which", ["best", "last", "step"])
def test_the_scores_are_those_of_the_training(trained_run: Run, tmp_path: Path, which: str) -> None:
    last = trained_run.saved_step()
    result = trained_run.result()
    epoch = result.best_epoch if which == "best" else result.epochs
    rows, summary = evaluated(tmp_path, trained_run.root, "--checkpoint", last if which == "step" else which)
    assert epoch is not None
    theirs = table(trained_run.validation_table(epoch))
    assert [{key: row[key] for key in theirs[0]} for row in rows] == theirs
    mean = result.best_dsc if which == "best" else result.last_dsc
    assert summary["not_trained_on"]["dsc"]["mean"] == mean
    assert summary["not_trained_on"]["dsc"]["n"] == len(rows) == 2
    assert float(rows[0]["dsc"]) > 0.05, "the run has learnt something, or this test says nothing"
    assert summary["empty_masks"]
    assert "MONAI" in summary["surface_distances"]


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"model": ModelConfig(features=4, norm="batch", channels_last=True)},
        {"model": ModelConfig(name="resunet", features=4, deep_supervision=0.5, checkpoint_activations=True)},
        {"optim": OptimConfig(ema=0.5)},
        {"data": DataConfig(neighbours=1)},
    ],
    ids=str,
)
def test_logits_are_bitwise_those_of_the_engine(tiny: Config, run: Run, change: dict[str, Any]) -> None:
    cfg = replace(tiny, **change)
    loss: Loss = make_loss("dice")
    if ratio := supervision_ratio(cfg.model):
        loss = DeepSupervision(loss, ratio)
    engine = make_engine(cfg, make_model(cfg.model, 0, cfg.data.channels), loss, World())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, cfg.data.channels, 32, 32, generator=generator)
    for _ in range(2):
        engine.step(image, (image[:, :1] > 1).float(), 1e-3)
    model, moments, _ = engine.snapshot()
    checkpoint.publish(run.checkpoint(2), checkpoint.Snapshot(model, moments, {"split": hash_of((), ())}))
    with engine.averaged():
        theirs = engine.logits(image)
    ours = TrainedCheckpoint(run, cfg, run.checkpoint(2), frozenset(), frozenset())
    assert torch.equal(member_logits(ours, torch.device("cpu"))(image), theirs)


@pytest.mark.quick
@pytest.mark.law("L9")
@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")
def test_a_run_under_deepspeed_is_evaluated_as_any_other(tiny: Config, tmp_path: Path) -> None:
    cfg = replace(tiny, name="deepspeed", engine="deepspeed", train=TrainConfig(epochs=1, global_batch=4))
    run = Run(run_to_end(tmp_path, cfg, 1))
    rows, summary = evaluated(tmp_path / "out", run.root)
    theirs = table(run.validation_table(1))
    assert [{key: row[key] for key in theirs[0]} for row in rows] == theirs
    assert sum(int(row["tp"]) + int(row["fp"]) for row in rows) > 0, "something is predicted, or this test says nothing"
    assert summary["not_trained_on"]["dsc"]["mean"] == run.result().best_dsc


def test_the_scores_lie_in_the_run_and_settings_may_differ(trained_run: Run, tmp_path: Path) -> None:
    assert command([str(trained_run.root), "evaluate.threshold=0.9", "evaluate.batch=5"]) == 0
    rows = table(trained_run.evaluation("validation", "best") / "scores.csv")
    plain, _ = evaluated(tmp_path, trained_run.root)
    assert sum(int(row["fp"]) for row in rows) < sum(int(row["fp"]) for row in plain)
    assert {row["institution"] for row in rows} == {"PHANTOM"}


@pytest.mark.law("L1")
def test_patients_that_were_trained_on_are_refused_unless_asked_for(
    trained_run: Run, tmp_path: Path, refused: Any
) -> None:
    for split in ("all", "train"):
        said = refused(trained_run.root, "--split", split)
        assert "8 of the" in said
        assert "--split all --include-training" in said
    rows, summary = evaluated(tmp_path, trained_run.root, "--split", "all", "--include-training")
    sides = trained_run.split()
    assert [row["patient"] for row in rows if row["trained_on"] == "yes"] == sides["train"]
    assert [row["patient"] for row in rows if row["trained_on"] == "no"] == sides["validation"]
    assert (summary["trained_on"]["dsc"]["n"], summary["not_trained_on"]["dsc"]["n"]) == (8, 2)
    assert summary["not_trained_on"]["dsc"]["mean"] == trained_run.result().best_dsc


@pytest.mark.law("L1")
def test_a_file_of_patients_is_no_way_round(trained_run: Run, tmp_path: Path, refused: Any) -> None:
    file = tmp_path / "patients.json"
    split = trained_run.split()
    file.write_text(json.dumps([split["train"][0], split["validation"][0]]))
    assert "1 of the 2 patients" in refused(trained_run.root, "--split", file)
    file.write_text(json.dumps({"train": split["train"], "validation": split["validation"]}))
    rows, _ = evaluated(tmp_path / "out", trained_run.root, "--split", file)
    assert [row["patient"] for row in rows] == split["validation"]


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", ["scores.csv", "summary.json"])
@pytest.mark.parametrize("content", ["patient,dsc\nA,0.9\n", '{"mine": 1}', ""])
def test_files_of_others_are_not_replaced(
    trained_run: Run, tmp_path: Path, capsys: Capture, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert run_command(command, [str(trained_run.root), "--out", str(tmp_path)]) == 2
    assert f"{name}: was not written by segtrain evaluate; name another folder with --out" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, content)]


@pytest.mark.law("L12")
def test_scores_are_not_replaced_by_others(trained_run: Run, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(trained_run.root, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    given = [str(tmp_path / "run"), "--geometry", "prepared"]
    few = tmp_path / "validation.json"
    few.write_text(json.dumps(trained_run.split()["validation"][:1]))
    for arguments in ([], ["--split", str(few)], []):  # of others beside it, the same again
        assert command([*given, *arguments]) == 0
    folder = tmp_path / "run" / "evaluation"
    counts = {path.parent.name: len(table(path)) for path in folder.glob("*/scores.csv")}
    assert counts == {"validation-best": 2, "validation-file-best": 1}
    before = (folder / "validation-best" / "summary.json").read_bytes()
    several = ["--out", str(folder / "validation-best"), "--split", str(few)]
    for arguments in (["evaluate.tta=flips"], ["--empty-masks", "leave_out"], several):
        assert run_command(command, [*given, *arguments]) == 2
        assert "validation-best: holds other scores" in capsys.readouterr().err
    assert run_command(command, [str(trained_run.root), *given[1:], "--out", several[1]]) == 2, "another run"
    assert (folder / "validation-best" / "summary.json").read_bytes() == before


@pytest.mark.law("L1")
def test_an_ensemble_has_trained_on_what_any_member_has(trained_run: Run, tmp_path: Path, refused: Any) -> None:
    other = Run(tmp_path / "other")
    shutil.copytree(trained_run.root, other.root)
    one, _ = evaluated(tmp_path / "one", trained_run.root)
    both, summary = evaluated(tmp_path / "both", trained_run.root, other.root)
    assert len(summary["runs"]) == 2
    assert [row["dsc"] for row in both] == [row["dsc"] for row in one], "of equals, it is each of them"
    sides = trained_run.split()
    moved = {"train": [*sides["validation"], *sides["train"][2:]], "validation": sides["train"][:2]}
    (other.root / "split.json").write_text(json.dumps(moved))
    assert "do not have the same validation patients" in refused(trained_run.root, other.root)
    file = tmp_path / "patients.json"
    file.write_text(json.dumps(sides["validation"]))
    assert "2 of the 2 patients" in refused(trained_run.root, other.root, "--split", file)


@pytest.mark.law("L1")
def test_another_split_than_the_checkpoint_was_trained_by_is_refused(
    trained_run: Run, tmp_path: Path, refused: Any
) -> None:
    """Else its training patients would be scored as if they were new."""
    other = Run(tmp_path / "other")
    shutil.copytree(trained_run.root, other.root)
    sides = trained_run.split()
    swapped = {**sides, "train": [*sides["validation"], *sides["train"][2:]], "validation": sides["train"][:2]}
    (other.root / "split.json").write_text(json.dumps(swapped))
    assert "is not the split that step-" in refused(other.root)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("phantom", "scans", 2), ("phantom", "spacing_mm", [3.0, 1.0, 1.0]), ("data", "protocol", "zscore")],
)
def test_members_that_read_other_data_are_no_ensemble(
    trained_run: Run, tmp_path: Path, refused: Any, section: str, key: str, value: Any
) -> None:
    other = Run(tmp_path / "other")
    shutil.copytree(trained_run.root, other.root)
    tree = yaml.safe_load(other.config_file.read_text())
    (tree["data"] if section == "data" else tree["data"][section])[key] = value
    other.config_file.write_text(yaml.safe_dump(tree))
    assert f"{key}=" in refused(trained_run.root, other.root)


def edit(run: Run, old: str, new: str) -> None:
    file = run.root / "config.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def damage(run: Run) -> None:
    with (run.checkpoints / run.best_pointer.read_text().strip() / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/proc"], ["/proc", "holds no readable run", "name the folder"]),
        (["RUN", "optim.lr=1"], ["optim.lr", "evaluate.threshold"]),
        (["RUN", "evaluate.threshold=2"], ["evaluate.threshold=2"]),
        (["RUN", "--checkpoint", "7"], ["step-00000007", "no such checkpoint"]),
        (["RUN", "--checkpoint", "newest"], ["--checkpoint newest", "step"]),
        (["RUN", "RUN"], ["twice"]),
        (["RUN", "--split", "nowhere.json"], ["--split nowhere.json"]),
        (["RUN", "data.store=/proc/no"], ["/proc", "data.store"]),
        (["evaluate.batch=1"], ["no run is named"]),
    ],
)
def test_what_cannot_be_evaluated_is_named(
    trained_run: Run, refused: Any, arguments: list[str], words: list[str]
) -> None:
    said = refused(*(trained_run.root if word == "RUN" else word for word in arguments))
    for word in words:
        assert word in said


@pytest.mark.law("L12")
def test_runs_checkpoints_and_patients_that_do_not_fit_are_named(
    trained_run: Run, tmp_path: Path, refused: Any
) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(trained_run.root, run.root)
    (tmp_path / "them.json").write_text('["SOMEONE"]')
    said = refused(run.root, "--split", tmp_path / "them.json")
    assert "SOMEONE" in said
    assert "data.root" in said
    edit(run, "image_size: 32", "image_size: 48")
    said = refused(trained_run.root, run.root)
    assert "data.image_size=48" in said
    assert "32" in said
    edit(run, "image_size: 48", "image_size: 32")
    damage(run)
    assert "model.safetensors is not what was written" in refused(run.root)


def test_several_runs_need_a_place(trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_run.root, tmp_path / "run")
    assert run_command(command, [str(trained_run.root), str(tmp_path / "run")]) == 2
    assert "--out DIR" in capsys.readouterr().err
