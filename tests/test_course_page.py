"""docs/course.md: the loss and the attempts that its reader writes are what the page says of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from documents import ROOT, blocks

from segtrain.commands import check
from segtrain.run.ablation import differences, expand

PAGES = [ROOT / "docs" / name for name in ("course.md", "course.zh.md")]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of the page has written its files, beside the configs."""
    for block in blocks(request.param):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_attempt_changes_one_thing_and_all_folds_are_scored(folder: Path) -> None:
    spec, members = expand(folder / "course.yaml", ["data.root=/data/kaggle_3m"])
    baseline = members[0]
    assert (len(members), spec.folds, baseline.cfg.data.folds) == (25, (0, 1, 2, 3, 4), 5)
    changes = {member.variant: {key.split(".")[0] for key in differences(member, baseline)} for member in members[1:5]}
    assert changes == {
        "strong_augmentation": {"data"},
        "adamw_average": {"optim"},
        "neighbours": {"data"},
        "my_loss": {"loss"},
    }
    cfg = baseline.cfg
    assert (cfg.data.image_size, cfg.model.features, cfg.train.epochs) == (128, 16, 20)


def test_the_loss_is_its_formula(folder: Path) -> None:
    names: dict[str, object] = {}
    exec((folder / "my_loss.py").read_text(), names)
    squared_dice = names["squared_dice"]
    assert callable(squared_dice)
    draws = np.random.default_rng(0)
    logits, mask = draws.normal(size=(2, 1, 4, 4)), draws.integers(0, 2, (2, 1, 4, 4)).astype(float)
    p = 1 / (1 + np.exp(-logits))
    dice = (2 * (p * mask).sum() + 1) / ((p**2).sum() + (mask**2).sum() + 1)
    cross_entropy = -(mask * np.log(p) + (1 - mask) * np.log(1 - p)).mean()
    value = squared_dice(torch.from_numpy(logits), torch.from_numpy(mask))
    assert float(value) == pytest.approx(1 - dice + 0.5 * cross_entropy, rel=1e-9)


def test_the_check_of_the_page_finds_that_the_laws_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.command(["my_loss.py:squared_dice"]) == 0
    assert "my_loss.py:squared_dice" in capsys.readouterr().out
