"""How a training starts, refuses to, and ends early: mistakes are named, nothing is lost."""

import json
import re
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from commands import events, run
from long_form import all_of
from trainings import Job, run_to_end

from segtrain.__main__ import COMMANDS
from segtrain.config import Config, load_config, to_yaml
from segtrain.data.store import Store
from segtrain.errors import LaunchError
from segtrain.models.make import make_model
from segtrain.runtime.world import join


@pytest.mark.law("L12")
def test_fresh_keeps_the_old_run_beside_the_new(tiny: Config, tmp_path: Path, tiny_store: Store) -> None:
    old = tmp_path / "runs" / "tiny"
    old.mkdir(parents=True)
    (old / "precious.txt").write_text("kept")
    refused = run(tmp_path, tiny)
    assert refused.returncode == 2
    assert "--fresh" in refused.stderr
    done = run(tmp_path, tiny, "--fresh")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "tiny.1" / "precious.txt").read_text() == "kept"
    assert (old / "outcome.json").exists()


@pytest.mark.parametrize("kept", ["config.yaml", "nothing"])
def test_a_run_that_was_killed_while_its_directory_was_made_begins_again(
    tiny: Config, tmp_path: Path, tiny_store: Store, kept: str
) -> None:
    directory = tmp_path / "runs" / "tiny"
    for folder in ("tensorboard", "checkpoints", "validation"):
        (directory / folder).mkdir(parents=True)
    if kept == "config.yaml":
        (directory / kept).write_text(to_yaml(tiny))
    done = run(tmp_path, tiny)
    assert done.returncode == 0, done.stderr


@pytest.mark.law("L12")
def test_fewer_epochs_than_were_trained_are_refused(tiny: Config, tmp_path: Path, tiny_store: Store) -> None:
    assert run(tmp_path, tiny, "train.epochs=2").returncode == 0
    (tmp_path / "runs" / "tiny" / "outcome.json").unlink()  # as if it had been killed at its end
    refused = run(tmp_path, tiny, "train.epochs=1")
    assert refused.returncode == 2
    assert "train.epochs=1" in refused.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_loss_that_is_not_finite_names_step_and_patients(
    tiny: Config, tmp_path: Path, tiny_store: Store, ranks: int
) -> None:
    done = run(tmp_path, tiny, "optim.lr=1e38", "optim.name=sgd", "model.norm=batch", "log_every_steps=1", ranks=ranks)
    assert done.returncode == (1 if ranks else 3), done.stderr  # torchrun flattens its workers' codes
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("segtrain: error:")]
    assert re.search(r"the loss is (nan|inf) at step \d+, on patients PHANTOM_\d{4}, PHANTOM", line)
    assert "optim.lr" in line
    outcome = json.loads((tmp_path / "runs" / "tiny" / "outcome.json").read_text())
    assert outcome["state"] == "diverged"


# Seen once the ranks have met, by all of them (the data like the batch), or before torch is imported.
MISTAKES = {
    "train.global_batch=5": ["train.global_batch=5", "2 ranks"],
    "data.validation_patients=10": ["10 patients", "data.validation_patients"],
    "optim.lrr=1": ["optim.lrr", "optim.lr"],
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("overrides", all_of(MISTAKES, short=["train.global_batch=5", "optim.lrr=1"]))
def test_under_torchrun_a_mistake_is_one_line(tiny: Config, tmp_path: Path, tiny_store: Store, overrides: str) -> None:
    words = MISTAKES[overrides]
    done = run(tmp_path, tiny, overrides, ranks=2)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "segtrain: error:" in line]
    for word in words:
        assert word in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.law("L12")
def test_tf32_on_a_cpu_is_refused(tiny: Config, tmp_path: Path, tiny_store: Store) -> None:
    done = run(tmp_path, tiny, "precision=tf32", "device=cpu")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("use precision=fp32 or bf16")
    assert not (tmp_path / "runs").exists()


@pytest.mark.law("L12")
def test_a_taken_port_is_named(tiny: Config, tmp_path: Path, tiny_store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port}
        done = run(tmp_path, tiny, env={**env, "MASTER_ADDR": "127.0.0.1"})
    assert done.returncode == 2
    assert f"port {port}" in done.stderr.splitlines()[-1]
    assert "MASTER_PORT" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.law("L12")
def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match=r"4 ranks on .* 2 GPU.*--nproc_per_node=2"), join("auto", 1):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(LaunchError, match=r"device=cuda"), join("cuda", 1):
        pass


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        import_module(COMMANDS[name][0]).command(["--help"])
    assert caught.value.code == 0
    help_text = capsys.readouterr().out
    assert re.search(rf"examples?:?\n(.*\n)*? +(segtrain {name}|python -m {COMMANDS[name][0]})\b", help_text)


@pytest.mark.parametrize("command", [["segtrain.train"], ["segtrain"], ["segtrain", "prepare"], ["segtrain", "train"]])
def test_help_shows_an_example(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True, text=True, check=True)
    assert "example" in done.stdout
    assert "--config configs/lgg.yaml data.root=/data/kaggle_3m" in done.stdout


def test_six_real_patients_train(lgg_root: Path, tmp_path: Path) -> None:
    """Real slices at 64 px from source folder to score: it learns, and what it reports is of real patients."""
    overrides = {
        "name": "real",
        "data": {
            "source": "lgg",
            "root": str(lgg_root),
            "store": str(tmp_path),
            "image_size": 64,
            "validation_patients": 2,
        },
        "model": {"features": 8, "depth": 3},
        "optim": {"lr": 4e-3, "schedule": "warmup_cosine", "warmup_steps": 10},
        "train": {"epochs": 16, "global_batch": 8},
        "seed": 1,
        "device": "cpu",
        "threads_per_rank": 1,
    }
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(overrides))
    directory = run_to_end(tmp_path, load_config(tmp_path / "real.yaml"), 1)
    losses = [float(str(e["loss"])) for e in events(directory, "train")]
    assert losses[-1] < losses[0] - 0.2
    best = max(float(str(e["val_dsc"])) for e in events(directory, "evaluation"))
    assert best > 0.4
    assert set(json.loads((directory / "split.json").read_text())["train"]) < {p.name for p in lgg_root.iterdir()}
    assert "LGG patients" in (directory / "log.txt").read_text()


@pytest.mark.law("L12")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_network_that_cannot_be_made_leaves_no_run_behind(
    tiny: Config, tmp_path: Path, tiny_store: Store, ranks: int
) -> None:
    (tmp_path / "bad.pt").write_text("not weights")
    job = Job(tmp_path, tiny, ranks, f"model.weights={tmp_path / 'bad.pt'}")
    assert job.wait() == [2] * ranks
    assert "bad.pt: not a file of weights" in job.output()
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_run_goes_on_without_the_file_it_started_from(tiny: Config, tmp_path: Path, tiny_store: Store) -> None:
    weights = tmp_path / "start.pt"
    torch.save(make_model(tiny.model, 3).state_dict(), weights)
    assert run(tmp_path, tiny, f"model.weights={weights}").returncode == 0
    weights.unlink()
    done = run(tmp_path, tiny, f"model.weights={weights}", "train.epochs=2")
    assert done.returncode == 0, done.stderr
