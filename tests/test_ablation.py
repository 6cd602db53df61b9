"""Ablations: stable names, paired runs, errors before anything starts, and the command that trains them."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from long_form import all_of
from made_runs import evaluation_event

from segtrain.config import flatten, load_config
from segtrain.data.order import make_order
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import make_split
from segtrain.errors import ConfigError
from segtrain.run import COLUMNS, Outcome, Run, expand, missing
from segtrain.run.index import OF_SEVERAL

ROOT = Path(__file__).resolve().parent.parent
BASE = """
name: base
data: {phantom: {patients: 6, size_px: 64}, image_size: 32, folds: 3}
model: {features: 4}
train: {epochs: 1, global_batch: 16}
device: cpu
threads_per_rank: 1
evaluate: {pictures: 0}
"""
SPEC = """
name: loss
base: base.yaml
folds: [0, 2]
seeds: [1, 2]
overrides: {optim.lr: 1.0e-3}
variants:
  dice:
  mixed: {loss: {dice: 1.0, boundary: {start: 0.0, end: 0.1}}, train: {epochs: 2}}
"""


def write(folder: Path, spec: str = SPEC) -> Path:
    (folder / "base.yaml").write_text(f"{BASE}runs_dir: {folder / 'runs'}\n")
    (folder / "spec.yaml").write_text(spec)
    return folder / "spec.yaml"


def test_a_spec_is_every_variant_on_every_fold_and_seed(tmp_path: Path) -> None:
    _, members = expand(write(tmp_path), [])
    assert [m.cfg.name for m in members] == [
        f"{variant}-fold{fold}-seed{seed}" for seed in (1, 2) for fold in (0, 2) for variant in ("dice", "mixed")
    ]
    by_name = {m.cfg.name: dict(flatten(asdict(m.cfg))) for m in members}
    one, other = by_name["dice-fold2-seed1"], by_name["mixed-fold2-seed1"]
    assert {key for key in [*one, *other] if one.get(key) != other.get(key)} == {
        "name", "loss", "loss.dice", "loss.boundary.start", "loss.boundary.end", "train.epochs",
    }  # fmt: skip
    assert one["optim.lr"] == 1e-3
    assert (one["data.split"], one["data.fold"], one["seed"]) == ("kfold", 2, 1)
    assert members[0].run.root == tmp_path / "runs" / "loss" / "dice-fold0-seed1"


def test_without_seeds_the_seed_is_the_base_s_or_the_command_line_s(tmp_path: Path) -> None:
    spec = write(tmp_path, SPEC.replace("seeds: [1, 2]\n", ""))
    assert {m.cfg.name for m in expand(spec, ["seed=9"])[1]} >= {"dice-fold0-seed9", "mixed-fold2-seed9"}
    with pytest.raises(ConfigError, match="the command line sets seed"):
        expand(write(tmp_path), ["seed=9"])


def test_a_line_that_is_half_written_is_left_out_of_the_result(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for epoch, dsc in ((1, 0.6), (2, 0.5)):
        run.record(evaluation_event(epoch, epoch, dsc, ci_low=0.1, ci_high=0.9))
    with run.metrics.open("a") as file:
        file.write('{"event": "evalu')
    result = run.result()
    assert (result.state, result.best_epoch, result.best_dsc, result.last_dsc) == ("running", 1, 0.6, 0.5)


@pytest.mark.law("L2")
def test_variants_of_one_fold_and_seed_draw_the_same_slices(tmp_path: Path) -> None:
    _, members = expand(write(tmp_path), [f"data.store={tmp_path / 'stores'}"])
    orders = {}
    for member in members:
        store = ensure_store(member.cfg.data)
        split = make_split(member.cfg.data, store)
        plan = make_order(member.cfg, store, split).plan(0)
        orders[member.cfg.name] = (store.path, split.hash, plan.patient.tolist(), plan.slice.tolist())
    assert orders["dice-fold0-seed1"] == orders["mixed-fold0-seed1"]
    assert orders["dice-fold0-seed1"][2:] != orders["dice-fold0-seed2"][2:]
    assert orders["dice-fold0-seed1"][1] != orders["dice-fold2-seed1"][1]
    assert len({order[0] for order in orders.values()}) == 1, "one store for all"


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("folds: [0, 2]", "folds: [0, 3]"), ["variant dice", "data.fold=3", "data.folds=3"]),
        (("folds: [0, 2]", "folds: [0, 0]"), ["folds", "0 is listed twice"]),
        (("seeds: [1, 2]", "seeds: [1, 1]"), ["seeds", "1 is listed twice"]),
        (("loss: {dice: 1.0", "loss: {dyce: 1.0"), ["variant mixed", "dyce"]),
        (("train: {epochs: 2}", "train: {epoch: 2}"), ["variant mixed", "train.epoch", "train.epochs"]),
        (("train: {epochs: 2}", "name.x: 2"), ["variant mixed", "name.x"]),
        (("  mixed: {loss: {dice: 1.0, boundary: {start: 0.0, end: 0.1}}, train: {epochs: 2}}", "  same: {loss: dice}"),
         ["dice and same", "same training"]),
        (("  mixed:", "  dice:"), ["dice is listed twice"]),
        (("  mixed:", "  a/b:"), ["variants", "a/b"]),
        (("variants:", "variant:"), ["variant"]),
        (("base.yaml", "bass.yaml"), ["bass.yaml"]),
        (("train: {epochs: 2}", "seed: 3"), ["variant mixed", "seed"]),
        (("train: {epochs: 2}", "data: {fold: 1}"), ["variant mixed", "data.fold"]),
        (("train: {epochs: 2}", "runs_dir: here"), ["variant mixed", "runs_dir"]),
        (("optim.lr: 1.0e-3}", "name: x}"), ["overrides", "name"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_spec_is_said_before_anything_starts(
    tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    assert change[0] in SPEC
    with pytest.raises(ConfigError) as caught:
        expand(write(tmp_path, SPEC.replace(*change)), [])
    assert "\n" not in str(caught.value)
    for word in (*words, str(tmp_path)):
        assert word in str(caught.value)


def test_the_specs_that_come_with_the_project_expand() -> None:
    paths = sorted((ROOT / "configs" / "ablation").glob("*.yaml"))
    assert paths
    for path in paths:
        text = path.read_text()
        command = f"# segtrain ablate configs/ablation/{path.name}"
        assert text.splitlines()[0] in (command, f"{command} data.root=.../kaggle_3m")
        spec, members = expand(path, ["data.root=/data"] if "kaggle_3m" in text else [])
        assert spec.name == path.stem
        assert f"{len(members)} runs" in text.splitlines()[1]


def ablate(spec: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "segtrain", "ablate", str(spec), f"data.store={spec.parent / 'stores'}", *arguments]


def test_the_recipe_is_what_was_confirmed() -> None:
    """configs/lgg_best.yaml, at the size and folds of its evidence, is the run that gave it; lgg.yaml likewise."""
    spec, members = expand(ROOT / "configs" / "ablation" / "recipe_confirm.yaml", ["data.root=/data"])
    given = dict(flatten(spec.overrides))
    assert {member.variant for member in members} == {"lgg", "lgg_best"}
    for member in members:
        size = [f"{key}={value}" for key, value in given.items()]
        of_file = load_config(
            ROOT / "configs" / f"{member.variant}.yaml", [*size, f"data.fold={member.fold}", "data.root=/data"]
        )
        assert replace(of_file, name=member.cfg.name, runs_dir=member.cfg.runs_dir) == member.cfg


BAD = """
name: bad
base: base.yaml
overrides: {data.validation_patients: 2}
variants:
  ok: {}
  weights: {model.weights: nowhere.pt}
  smp: {model.name: smp:resnet34}
  zero: {engine: deepspeed}
  later: {loss: bce}
"""


def without_extras(folder: Path) -> dict[str, str]:
    """An environment in which segmentation-models-pytorch and DeepSpeed are not there, whether they are or not."""
    (folder / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name in ('segmentation_models_pytorch', 'deepspeed') else "
        "find(name, *more)\n"
    )
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


@pytest.mark.law("L12")
@pytest.mark.parametrize("flag", ["--dry-run", "device=cpu"])
def test_variants_that_need_what_is_not_there_are_all_named_and_nothing_is_trained(tmp_path: Path, flag: str) -> None:
    spec = write(tmp_path, BAD)
    done = subprocess.run(ablate(spec, flag), capture_output=True, text=True, check=False, env=without_extras(tmp_path))
    assert done.returncode == 2
    weights, smp, zero = done.stderr.splitlines()
    assert f"{spec}: variant weights: model.weights=nowhere.pt" in weights
    assert "variant smp: model.name=smp:resnet34" in smp
    assert "pip install segmentation-models-pytorch" in smp
    assert "variant zero: engine=deepspeed" in zero
    assert "pip install deepspeed" in zero
    assert not (tmp_path / "runs").exists()


def test_a_run_that_has_begun_needs_no_file_of_weights_and_a_finished_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    members = expand(write(tmp_path, BAD), [])[1]
    assert set(missing(members)) == {"weights", "smp", "zero"}
    Run(tmp_path / "runs" / "bad" / "weights-seed42").checkpoint(1).mkdir(parents=True)
    assert set(missing(members)) == {"smp", "zero"}
    smp = Run(tmp_path / "runs" / "bad" / "smp-seed42")
    smp.root.mkdir()
    smp.end(Outcome("finished", 1, 1, 0.5))
    assert set(missing(members)) == {"zero"}


@pytest.mark.law("L12")
def test_what_training_would_refuse_is_refused_before_the_first_run(tmp_path: Path) -> None:
    """Where torch and the data have to be asked: the device, the precision, weights of another network, the ranks."""
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    bad = f"""
  tf32: {{precision: tf32}}
  weights: {{model.weights: {tmp_path / "other.pt"}}}
  ranks: {{train.global_batch: 7}}
"""
    spec = write(tmp_path, BAD[: BAD.index("  weights")] + bad[1:])
    done = subprocess.run(ablate(spec, "--nproc", "2"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("segtrain: error: ")]
    words = {
        "tf32": "precision=tf32 is a mode of CUDA devices",
        "weights": "other.pt: has no",
        "ranks": "train.global_batch=7 cannot be shared by 2 ranks",
    }
    assert len(errors) == len(words)
    for line, (variant, word) in zip(errors, words.items(), strict=True):
        assert f"{spec}: variant {variant}: " in line
        assert word in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


# Whatever signal it is, the queue notes it by one handler (segtrain.runtime.stop).
@pytest.mark.parametrize("number", all_of([signal.SIGTERM, signal.SIGUSR2], short=[signal.SIGTERM]))
def test_the_command_lists_is_stopped_by_a_signal_trains_what_is_missing_and_tabulates(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A signal stops it after saving; the same command goes on, and has nothing to do when it is given once more."""
    one_of_each = SPEC.replace("[0, 2]", "[0]").replace("[1, 2]", "[1]")
    spec = write(tmp_path, one_of_each)
    listed = subprocess.run(ablate(spec, "--dry-run"), capture_output=True, text=True, check=True)
    assert "mixed-fold0-seed1" in listed.stdout
    assert "loss.dice=1.0" in listed.stdout
    assert not (tmp_path / "runs").exists()
    table = tmp_path / "runs" / "loss" / "results.csv"
    first = Run(table.parent / "dice-fold0-seed1")
    process = subprocess.Popen(ablate(spec, "train.epochs=5000"), stderr=subprocess.PIPE, text=True)
    while not first.metrics.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert (first.result().state, first.stop_file.exists()) == ("stopped", False)
    epochs = (first.result().epochs or 0) + 1
    shorter = one_of_each.replace("overrides: {", f"overrides: {{train.epochs: {epochs}, ")
    write(tmp_path, shorter.replace("epochs: 2", f"epochs: {epochs + 1}"))
    subprocess.run(ablate(spec), capture_output=True, check=True)
    assert len(first.starts()) == 2, "it went on"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert tuple(rows[0]) == tuple(name for name in COLUMNS if name not in OF_SEVERAL)
    assert [(row["run"], row["state"], row["epochs"], row["n"]) for row in rows] == [
        ("dice-fold0-seed1", "finished", str(epochs), "2"), ("mixed-fold0-seed1", "finished", str(epochs + 1), "2"),
    ]  # fmt: skip
    for row in rows:
        run = Run(table.parent / row["run"])
        scores = csv.DictReader(run.validation_table(int(row["best_epoch"])).read_text().splitlines())
        dsc = [float(score["dsc"]) for score in scores]
        assert float(row["best_dsc"]) == pytest.approx(sum(dsc) / len(dsc), abs=1e-6)
    before = table.read_text()
    again = subprocess.run(ablate(spec), capture_output=True, text=True, check=True)
    assert "2 runs, 2 finished" in again.stdout
    assert "Nothing to train" in again.stdout
    assert table.read_text() == before
