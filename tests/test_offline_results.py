"""What a queue brings home: the archive and its checksum."""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from jobs.offline import archive
from segtrain.commands import evaluate
from segtrain.errors import RunError
from segtrain.run import Run, checkpoint, layout


def test_the_archive_is_whole_and_holds_weights_scores_and_pictures_not_moments(night: Path) -> None:
    run = Run(night / "trained")
    made = archive.write(night)
    assert made is not None
    subprocess.run(["sha256sum", "-c", "results.zip.sha256"], cwd=night, check=True)
    with zipfile.ZipFile(made) as pack:
        assert pack.testzip() is None
        names = set(pack.namelist())
        for name in names - {name for name in names if name.endswith("manifest.json")}:
            assert pack.read(name) == (night.parent / name).read_bytes(), name
    inside = {name.removeprefix("night/trained/") for name in names}
    last = f"checkpoints/step-{run.saved_step():08d}"
    assert {f"{last}/model.safetensors", "checkpoints/step-00000001/model.safetensors", "checkpoints/BEST"} <= inside
    assert {"config.yaml", "metrics.jsonl", "log.txt", "validation/epoch-0003.csv"} <= inside
    assert "night/logs/trained.log" in names
    unwanted = ("optimizer", "step-00000002", ".lock", "results.zip")
    assert not [name for name in names for word in unwanted if word in name]


def test_equal_results_make_equal_archives_and_a_stop_leaves_the_old_one(night: Path) -> None:
    first = archive.write(night)
    assert first is not None
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    for file in night.rglob("*.csv"):
        file.touch()
    archive.write(night)
    assert hashlib.sha256(first.read_bytes()).hexdigest() == digest
    (night / "more").write_text("more")
    answers = iter([True, False])
    assert archive.write(night, lambda: next(answers)) is None
    assert hashlib.sha256(first.read_bytes()).hexdigest() == digest
    assert not list(night.glob(".results*"))


def test_what_the_archive_holds_can_be_scored_and_is_not_resumed(night: Path, tmp_path: Path) -> None:
    original = Run(night / "trained")
    made = archive.write(night)
    assert made is not None
    zipfile.ZipFile(made).extractall(tmp_path / "home")
    run = Run(tmp_path / "home" / "night" / "trained")
    assert evaluate.command([str(run.root), "--checkpoint", "last"]) == 0
    summary = json.loads((run.evaluation("validation", "last") / "summary.json").read_text())
    assert summary["not_trained_on"]["dsc"]["mean"] == pytest.approx(original.result().last_dsc, abs=1e-9)
    with pytest.raises(RunError, match=r"holds weights alone.*model\.weights="):
        checkpoint.newest(run)
    snapshot = checkpoint.read(run.checkpoint(run.saved_step()))
    weights = load_file(original.checkpoint(original.saved_step()) / layout.MODEL)
    assert all((snapshot.model[name] == tensor).all() for name, tensor in weights.items())
