"""The run that is broken again and again: seconds long, saved at nearly every step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtrain.config import CheckpointConfig, Config, OptimConfig, TrainConfig
from segtrain.data.prepare import ensure_store

from jobs import run_to_end, state_of


@pytest.fixture(scope="session")
def fragile(tiny: Config) -> Config:
    data = replace(tiny.data, phantom=replace(tiny.data.phantom, patients=6))
    ensure_store(data)  # before anything is killed
    return replace(
        tiny,
        name="fragile",
        data=data,
        train=TrainConfig(epochs=3, global_batch=8),
        optim=OptimConfig(lr=3e-3, schedule="warmup_cosine", warmup_steps=5),
        checkpoint=CheckpointConfig(every_min=0.001),
        log_every_steps=7,
    )


@pytest.fixture(scope="session")
def unbroken(fragile: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What the run leaves behind when nobody kills it, on 1 and 2 ranks."""
    directory: Path = tmp_path_factory.mktemp("unbroken")
    return {ranks: state_of(run_to_end(directory / str(ranks), fragile, ranks)) for ranks in (1, 2)}
