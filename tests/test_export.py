"""`segtrain export`: one zip, which predicts as the run does, and a card that says what it is."""

import re
import shutil
import tempfile
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from predictions import lgg_mask

from segtrain.commands import export
from segtrain.commands.predict import command
from segtrain.data.splits import hash_of
from segtrain.errors import ConfigError, RunError
from segtrain.run import Run
from segtrain.run.events import evaluations
from segtrain.run.manifest import weights_sha256
from segtrain.run.model_archive import ALWAYS_FINE, CARD, unpacked


@pytest.fixture(scope="module")
def model(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "trained.zip"
    assert export.command([str(trained_run.root), "--out", str(out)]) == 0
    return out


def test_the_zip_predicts_what_the_run_predicts(model: Path, predicted_patient: Path, tmp_path: Path) -> None:
    images, out = predicted_patient.parent / "in", tmp_path / "out"
    assert command([str(model), "--images", str(images), "--out", str(out)]) == 0
    assert (lgg_mask(out) == lgg_mask(predicted_patient)).all()


@pytest.mark.law("L10")
def test_the_card_has_score_n_interval_split_weights_and_licence(model: Path, trained_run: Run) -> None:
    with ZipFile(model) as pack:
        card = pack.read(f"trained/{CARD}").decode()
        names = set(pack.namelist())
    event = [event for event in evaluations(trained_run.events()) if event.best][-1]
    assert f"**{event.val_dsc:.4f}**" in card
    assert f"n = {event.n}, 95% CI {event.ci_low:.3f} to {event.ci_high:.3f}" in card
    assert f"trained/validation/epoch-{event.epoch:04d}.csv" in names
    split = trained_run.split()
    assert hash_of(split["train"], split["validation"]) in card
    assert weights_sha256(trained_run.checkpoints / str(trained_run.best_checkpoint())) in card
    assert "contrasts, in order: pre-contrast, FLAIR, post-contrast" in card
    assert "licence: none: patients made up" in card
    assert not [name for name in names if "optimizer" in name or name.endswith((".jsonl", "environment.json"))]


def test_equal_models_are_equal_archives_and_nothing_is_replaced(model: Path, trained_run: Run) -> None:
    again = model.with_name("trained.again.zip")
    export.command([str(trained_run.root), "--out", str(again)])
    card = re.compile(rb"trained(\.again)?\.zip")
    with ZipFile(model) as one, ZipFile(again) as other:
        assert one.namelist() == other.namelist()
        for name in one.namelist():
            assert card.sub(b"", one.read(name)) == card.sub(b"", other.read(name))
    with pytest.raises(RunError, match="is there already"):
        export.command([str(trained_run.root), "--out", str(again)])


@pytest.mark.law("L12")
def test_damage_and_strangers_are_named(
    model: Path, trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, torn, bomb = (tmp_path / f"{name}.zip" for name in ("stranger", "torn", "bomb"))
    with ZipFile(stranger, "w") as pack:
        pack.writestr("../../readme.txt", "hello")
    with ZipFile(bomb, "w", ZIP_DEFLATED) as pack:
        pack.writestr("trained/config.yaml", bytes(ALWAYS_FINE + 1))
    torn.write_bytes(model.read_bytes()[:-100])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "outside" / "temporary"))
    (tmp_path / "outside" / "temporary").mkdir(parents=True)
    refusals = ((stranger, "holds 0 runs"), (torn, "cannot be unpacked"), (bomb, "which no model does"))
    for zip_file, message in refusals:
        with pytest.raises(RunError, match=message):
            unpacked(zip_file)
    files = [file for file in (tmp_path / "outside").rglob("*") if file.is_file()]
    assert [file.parts[-2:] for file in files] == [(files[0].parent.name, "readme.txt")], "within its own folder"
    assert files[0].parent.name.startswith("segtrain-model-")
    copy = tmp_path / "copy"
    shutil.copytree(trained_run.root, copy)
    for weights in copy.glob("checkpoints/step-*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match="is not what was written"):
        export.command([str(copy), "--out", str(tmp_path / "x.zip")])
    assert not (tmp_path / "x.zip").exists()
    with pytest.raises(ConfigError, match="name one run"):
        export.command([str(copy), "optim.lr=1"])
