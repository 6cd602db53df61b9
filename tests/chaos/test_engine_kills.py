"""A run under DeepSpeed is stopped and killed like any other, and goes on under another engine (L6, L8, L9)."""

import importlib.util
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from long_form import all_of
from trainings import HeldJob, assert_same, run_to_end, state_of

from segtrain.config import Config, DeepSpeedConfig, OptimConfig

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")
RANKS = 2


def under(fragile: Config, zero: int | None) -> Config:
    optim = OptimConfig(name="sgd", lr=0.05, schedule="warmup_cosine", warmup_steps=5, ema=0.9)
    cfg = replace(fragile, optim=optim, train=replace(fragile.train, epochs=2))
    if zero is None:
        return cfg
    return replace(cfg, engine="deepspeed", deepspeed=DeepSpeedConfig(zero=zero))  # type: ignore[arg-type]


def end_early(directory: Path, cfg: Config, number: int) -> None:
    """Send the signal in the middle of an epoch."""
    job = HeldJob(directory, cfg, RANKS)
    job.wait_until_held()
    job.kill(*range(RANKS), number=number)
    codes = job.wait()
    assert codes == [75 if number == signal.SIGTERM else -number] * RANKS, job.output()


def finish(directory: Path, cfg: Config) -> dict[str, Any]:
    return state_of(run_to_end(directory, cfg, RANKS))


@pytest.mark.law("L6")
@pytest.mark.parametrize(("zero", "number"), [(2, signal.SIGTERM), (3, signal.SIGKILL)])
def test_resume_is_invisible_under_zero(fragile: Config, tmp_path: Path, zero: int, number: int) -> None:
    cfg = under(fragile, zero)
    unbroken = finish(tmp_path / "unbroken", cfg)
    end_early(tmp_path / "broken", cfg, number)
    assert_same(finish(tmp_path / "broken", cfg), unbroken)
    told = json.loads((tmp_path / "broken" / "runs" / cfg.name / "deepspeed.json").read_text())
    assert told["zero_optimization"]["stage"] == zero


@pytest.mark.law("L6")
@pytest.mark.parametrize("zero", all_of([2, 3], short=[3]))  # 3 parts the weights, too, which the evaluation needs
def test_a_finished_run_goes_on_at_its_epoch_s_end_without_a_launcher(
    fragile: Config, tmp_path: Path, zero: int
) -> None:
    """The first thing then is an evaluation; a process of its own has no LOCAL_RANK."""
    cfg = under(fragile, zero)
    cfg = replace(cfg, optim=replace(cfg.optim, schedule="constant"))
    unbroken = state_of(run_to_end(tmp_path / "unbroken", cfg, 1))
    for epochs in (1, cfg.train.epochs):
        done = run(tmp_path, replace(cfg, train=replace(cfg.train, epochs=epochs)))
        assert done.returncode == 0, done.stderr
    assert_same(state_of(tmp_path / "runs" / cfg.name), unbroken)


@pytest.mark.law("L9")
def test_what_began_under_zero_ends_under_ddp(fragile: Config, tmp_path: Path) -> None:
    unbroken = finish(tmp_path / "unbroken", under(fragile, None))
    end_early(tmp_path / "changed", under(fragile, 2), signal.SIGKILL)
    changed = finish(tmp_path / "changed", under(fragile, None))
    assert changed["model"].keys() == unbroken["model"].keys()
    for part in ("model", "optimizer"):
        for name, tensor in unbroken[part].items():
            assert torch.allclose(changed[part][name], tensor, atol=1e-4), name
    for one, other in zip(changed["events"], unbroken["events"], strict=True):
        for key in ("loss", "val_loss", "val_dsc"):
            assert one.get(key) == pytest.approx(other.get(key), abs=1e-4)
