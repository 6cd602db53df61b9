"""Weights from a file alone, without a run: predict and evaluate, and what is told of what nobody knows."""

import csv
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from predictions import IMAGE, MASK, lgg_mask, write_patient
from safetensors.torch import load_file

from segtrain.commands import evaluate, export, postprocess, predict, suspects
from segtrain.commands.arguments import runs_and_overrides, runs_or_weights
from segtrain.config import Config, ModelConfig
from segtrain.data.store import Store
from segtrain.errors import ConfigError, RunError
from segtrain.evaluation.bare import with_assumed_patients
from segtrain.evaluation.ensemble import TrainedCheckpoint, member_logits, select_checkpoints
from segtrain.models.from_shapes import recognise
from segtrain.models.make import make_model
from segtrain.models.weights import load_weights
from segtrain.run import Run

CPU = torch.device("cpu")


def saved(folder: Path, model: ModelConfig, channels: int = 3, regions: int = 1) -> Path:
    path = folder / "net.pt"
    torch.save(make_model(model, 1, channels, 64, regions).state_dict(), path)
    return path


def test_a_file_of_the_reference_program_predicts_as_it_does(golden: Path, tmp_path: Path) -> None:
    with np.load(golden / "unet_init4.npz") as numbers:
        state = {
            key.removeprefix("state/"): torch.from_numpy(numbers[key]) for key in numbers if key.startswith("state/")
        }
        x, y = torch.from_numpy(numbers["x"]), torch.from_numpy(numbers["y_eval"])
    torch.save(state, tmp_path / "unet.pt")
    [checkpoint] = select_checkpoints([tmp_path / "unet.pt"], "best", ["device=cpu"])
    assert (checkpoint.cfg.model.name, checkpoint.cfg.model.features) == ("unet", 4)
    settings = checkpoint.cfg.evaluate
    assert (settings.threshold, settings.largest_component, settings.tta) == (0.5, True, "none")
    logits = member_logits(checkpoint, CPU)(x)
    torch.testing.assert_close(logits.sigmoid(), y, rtol=0, atol=1e-5)


def test_the_published_names_and_shapes_are_recognised(golden: Path, tmp_path: Path) -> None:
    shapes = json.loads((golden / "unet_init32_state_shapes.json").read_text())
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "unet.pt")
    seen = recognise(tmp_path / "unet.pt", {})
    assert (seen.model.name, seen.model.features, seen.model.depth, seen.channels, seen.regions) == (
        "unet",
        32,
        4,
        3,
        1,
    )


@pytest.mark.parametrize(
    ("model", "channels", "regions"),
    [
        (ModelConfig(features=8, depth=3, deep_supervision=0.5), 2, 3),
        (ModelConfig(name="resunet", features=4, depth=3), 4, 1),
        (ModelConfig(name="resenc", features=4, depth=2), 4, 2),
        (ModelConfig(name="mednext", features=4), 2, 1),
        (ModelConfig(name="attention_unet", features=12, depth=3), 4, 3),
        (ModelConfig(name="segresnet", features=8, depth=2), 3, 2),
        (ModelConfig(name="unetplusplus", features=8), 3, 1),
        (ModelConfig(name="swin_unetr", features=12), 4, 3),
    ],
)
def test_networks_are_told_by_their_shapes(tmp_path: Path, model: ModelConfig, channels: int, regions: int) -> None:
    file = saved(tmp_path, model, channels, regions)
    seen = recognise(file, {})
    load_weights(make_model(seen.model, 1, channels, 64, regions), file, whole=True)
    assert (seen.model.name, seen.model.features, seen.model.depth) == (model.name, model.features, model.depth)
    assert (seen.channels, seen.regions) == (channels, regions)
    assert bool(seen.model.deep_supervision) == (model.deep_supervision is not None or model.part.supervision > 0)


def test_options_that_change_shapes_are_kept(tmp_path: Path) -> None:
    name = {"part": "mednext", "size": "B", "kernel": 5}
    file = saved(tmp_path, ModelConfig(name=name, features=4), 3, 1)
    assert recognise(file, {"name": name}).model.name == name
    with pytest.raises(ConfigError, match=r"give the settings that it was trained with"):
        recognise(file, {})


def test_weights_alone_predict_and_say_what_is_assumed(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = trained_run.best_checkpoint()
    assert best is not None
    file = tmp_path / "model.safetensors"
    file.write_bytes((trained_run.checkpoints / best / "model.safetensors").read_bytes())
    write_patient(tmp_path / "in", "P", IMAGE, MASK)
    images = ["--images", str(tmp_path / "in")]
    size = ["data.image_size=32", "model.norm=group", "device=cpu"]
    assert predict.command([str(file), *images, "--out", str(tmp_path / "alone"), *size]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("of patients who may have been trained on" in line for line in lines)
    assert "weights alone. By its tensors: unet, features 4, depth 4, norm group, 3 channels, 1 region(s)" in lines[0]
    assert "channels pre-contrast, FLAIR, post-contrast; data.protocol=reference, data.image_size=32" in lines[1]
    [row] = csv.DictReader((tmp_path / "alone" / "scores.csv").read_text().splitlines())
    assert row["trained_on"] == "unknown"
    assert predict.command([str(trained_run.root), *images, "--out", str(tmp_path / "of-run"), "device=cpu"]) == 0
    of_config = ["--config", str(trained_run.config_file), "device=cpu"]
    assert predict.command([str(file), *images, "--out", str(tmp_path / "of-config"), *of_config]) == 0
    for name in ("alone", "of-config"):
        assert (lgg_mask(tmp_path / name) == lgg_mask(tmp_path / "of-run")).all()


def test_weights_alone_are_evaluated(trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = trained_run.best_checkpoint()
    assert best is not None
    file = trained_run.checkpoints / best / "model.safetensors"
    of_config = ["--config", str(trained_run.config_file)]
    assert evaluate.command([str(file), *of_config, "--out", str(tmp_path / "alone")]) == 0
    assert "taken to be trained on all but the 2 validation patients" in capsys.readouterr().err
    assert evaluate.command([str(trained_run.root), "--out", str(tmp_path / "of-run")]) == 0
    tables = [(tmp_path / name / "scores.csv").read_bytes() for name in ("alone", "of-run")]
    assert tables[0] == tables[1]
    with pytest.raises(RunError, match="were trained on"):
        evaluate.command([str(file), *of_config, "--split", "all", "--out", str(tmp_path / "all")])
    with pytest.raises(ConfigError, match="name one with --out"):
        evaluate.command([str(file), *of_config])


def test_whom_weights_alone_were_trained_on_is_not_known(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = trained_run.best_checkpoint()
    assert best is not None
    file = trained_run.checkpoints / best / "model.safetensors"
    store = trained_run.config_tree()["data"]["store"]
    data = [f"data.store={store}", "data.source=phantom", "data.phantom={patients: 10, size_px: 64}"]
    settings = [*data, "data.image_size=32", "model.norm=group", "device=cpu"]
    assert evaluate.command([str(file), *settings, "--out", str(tmp_path / "alone")]) == 0
    assert "10 of 10 patients may have been trained on" in capsys.readouterr().err
    alone, of_run = (tmp_path / name / "scores.csv" for name in ("alone", "of-run"))
    rows = list(csv.DictReader(alone.read_text().splitlines()))
    assert [row["trained_on"] for row in rows] == ["unknown"] * 10
    means = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert means["not_trained_on"]["dsc"]["n"] == sum(bool(row["dsc"]) for row in rows)
    everyone = ["--split", "all", "--include-training", "--out", str(tmp_path / "of-run")]
    assert evaluate.command([str(trained_run.root), *everyone]) == 0
    known = list(csv.DictReader(of_run.read_text().splitlines()))
    assert [{**row, "trained_on": ""} for row in rows] == [{**row, "trained_on": ""} for row in known]


@pytest.mark.law("L1")
def test_the_split_of_the_training_s_config_says_who_was_trained_on(tiny: Config, tiny_store: Store) -> None:
    def trained(split_is_known: bool = False, **keys: Any) -> set[str]:
        cfg = replace(tiny, data=replace(tiny.data, **{"validation_patients": 10, **keys}))
        file = TrainedCheckpoint(Run(Path("a.pt")), cfg, Path("a.pt"), frozenset(), frozenset(), is_bare=True)
        [checkpoint] = with_assumed_patients([file], store, split_is_known)
        return set(checkpoint.train)

    twelve = [*tiny_store.patients.values(), *islice(tiny_store.patients.values(), 2)]
    store = replace(tiny_store, patients={f"P{place}": patient for place, patient in enumerate(twelve)})
    assert trained() == set()
    assert len(trained(split_is_known=True)) == 2, "though its split is the default one"
    changes: list[dict[str, Any]] = [{"split_seed": 7}, {"split_version": 1}, {"validation_patients": 9}]
    for keys in changes:
        assert trained(**keys), keys


@pytest.mark.law("L12")
def test_a_file_beside_a_run_does_not_free_the_settings_of_the_run() -> None:
    assert runs_or_weights(["unet.pt", "data.image_size=128"], None)[1] == ["data.image_size=128"]
    for words in (["runs/a", "unet.pt"], ["unet.pt", "runs/a"], []):
        with pytest.raises(ConfigError, match=r"data\.image_size: fixed by the run"):
            runs_or_weights([*words, "data.image_size=128"], None)


@pytest.mark.law("L12")
def test_what_weights_alone_leave_open_is_named(tmp_path: Path, trained_run: Run) -> None:
    def refused(path: Path, *overrides: str) -> str:
        with pytest.raises(ConfigError) as error:
            select_checkpoints([path], "best", overrides)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        return str(error.value)

    assert "fit model.norm=instance and group alike" in refused(saved(tmp_path, ModelConfig(features=4, norm="group")))
    file = saved(tmp_path, ModelConfig(features=4), channels=4)
    assert "takes 4 channels, and there are 3 (pre-contrast, FLAIR" in refused(file)
    [one] = select_checkpoints([file], "best", ["data.contrasts=[t1,t2,flair,t1ce]"])
    assert one.cfg.data.channels == 4
    assert "2 region(s), and data.regions has 1" in refused(saved(tmp_path, ModelConfig(features=4), regions=2))
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    other = "its 1 tensors (layer.weight, ...) are not those of "
    assert f"{other}any of segtrain's networks (unet, " in refused(tmp_path / "other.pt")
    assert f"{other}model.name=unet; give" in refused(tmp_path / "other.pt", "model.name=unet")
    assert "No such file" in refused(tmp_path / "none.pt")
    torch.save({"run": trained_run}, tmp_path / "code.pt")
    assert "not a file of weights (UnpicklingError)" in refused(tmp_path / "code.pt")
    state = load_file(trained_run.checkpoint(trained_run.saved_step()) / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.law("L12")
def test_what_needs_a_run_takes_no_weights_and_a_run_no_config_of_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config other\.yaml: is for a file of weights, and none is named"):
        runs_or_weights(["runs/a"], Path("other.yaml"))
    for command in (export.command, suspects.command, postprocess.command):
        with pytest.raises(ConfigError, match=r"unet.pt: is a file of weights; name the folder of its run"):
            command(["unet.pt"])
    with pytest.raises(ConfigError, match=r"unet.pt: is a file of weights"):
        runs_and_overrides(["runs/a", "unet.pt"])
