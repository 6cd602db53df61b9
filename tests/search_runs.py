"""Searches whose trainings leave behind, in no time, what a training leaves."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import ablation_report, confirm
from jobs.queue import foreground, preflight
from jobs.queue.items import Item
from segtrain.config import Config, to_yaml
from segtrain.errors import BaselineIsBest

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.features": {"low": 4, "high": 16, "step": 4},
    "loss": ["dice", {"dice": 1, "bce": 1}],
}


class Killed(BaseException):
    """The process is gone."""


def write(folder: Path, **changes: Any) -> Path:
    """A search on phantom patients."""
    (folder / "base.yaml").write_text("data: {source: phantom, image_size: 32}\n")
    tree = {
        "name": "s", "base": "base.yaml", "space": SPACE, "trials": 12, "at_once": 6, "epochs": [1, 4],
        "folds": [3, 4], "overrides": {"runs_dir": str(folder / "runs")},
    }  # fmt: skip
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in (tree | changes).items() if value is not None}))
    return file


def score(cfg: Config) -> float:
    """What a training with these settings would reach: best at a rate of 1e-3, with many features."""
    rate = abs(4 - len(f"{1 / cfg.optim.lr:.0f}")) / 10
    return round(0.9 - rate - 0.8 / cfg.model.features - 0.2 / cfg.train.epochs + cfg.data.fold / 1000, 4)


def trains(item: Item, state: str = "finished") -> None:
    """Leave behind what a training leaves."""
    assert item.cfg is not None
    root = item.run.root
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(to_yaml(item.cfg))
    event = {
        "event": "evaluation",
        "step": 1,
        "time": time.time(),
        "epoch": item.cfg.train.epochs,
        "n": 6,
        "best": True,
    }
    event |= {"val_dsc": score(item.cfg), "ci_low": None, "ci_high": None, "val_loss": 0.5, "empty_masks": ""}
    (root / "metrics.jsonl").write_text(json.dumps(event) + "\n")
    outcome = {"state": state, "step": 1, "epochs": item.cfg.train.epochs, "reason": None, "best_dsc": score(item.cfg)}
    (root / "outcome.json").write_text(json.dumps(outcome))


Train = Callable[[Item], None]


def dying(every: int) -> Train:
    """Trains so many runs, and is killed then, again and again."""
    runs = 0

    def train(item: Item) -> None:
        nonlocal runs
        runs += 1
        if runs % (every + 1) == 0:
            raise Killed
        trains(item)

    return train


def refusing(*_: object) -> None:
    raise BaselineIsBest("nothing to confirm")


def in_place_of_training(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Train]]:
    """The runs in the order in which they were trained, and how: a function that a test may replace."""
    names: list[str] = []
    how: list[Train] = [trains]

    def train(submission: object, items: Sequence[Item], stop: object, observer: object) -> int:
        for item in items:
            how[0](item)
            names.append(f"{item.run.root.parent.name}/{item.name}")
        return 0

    monkeypatch.setattr(foreground, "train", train)
    monkeypatch.setattr(preflight, "problems", lambda *_: {})
    monkeypatch.setattr(ablation_report, "write", lambda root: f"{root} is reported")
    monkeypatch.setattr(confirm, "of_search", refusing)
    return names, how
