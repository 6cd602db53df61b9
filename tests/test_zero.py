"""What is added to DeepSpeed's configuration, held against the DeepSpeed that is installed."""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fake_cuda
import pytest
import torch
from ranks import run_ranks

from segtrain.config import Config, DeepSpeedConfig, TrainConfig
from segtrain.engines import deepspeed
from segtrain.engines.engine import make_engine
from segtrain.engines.zero import check, settings_of
from segtrain.errors import ConfigError
from segtrain.losses.loss import make_loss
from segtrain.runtime.world import World
from segtrain.training.build import build

pytest.importorskip("deepspeed")


def told(extra: dict[str, Any]) -> None:
    cfg = Config(engine="deepspeed", deepspeed=DeepSpeedConfig(zero=2, extra=extra))
    check(settings_of(cfg, 1), extra, "cpu")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"zero_optimisation": {"overlap_comm": True}}, ["extra.zero_optimisation", "did you mean zero_optimization?"]),
        (
            {"zero_optimization": {"overlap_com": True}},
            ["extra.zero_optimization.overlap_com=True", "Extra inputs are not permitted"],
        ),
        ({"zero_optimization": {"reduce_bucket_size": "big"}}, ["zero_optimization.reduce_bucket_size='big'"]),
        ({"communication_data_type": "float"}, ["communication_data_type", "float"]),
        ({"checkpoint": {"tag_validation": "x"}}, ["deepspeed.extra", "DeepSpeedConfigError"]),
    ],
)
def test_what_deepspeed_cannot_use_is_named_in_one_line(extra: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        told(extra)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_what_deepspeed_knows_is_taken() -> None:
    told(
        {
            "zero_optimization": {"overlap_comm": True, "offload_optimizer": {"pin_memory": True}},
            "wall_clock_breakdown": True,
            "flops_profiler": {"enabled": False},
            "comms_logger": {"enabled": False},
            "tensorboard": {"enabled": False},
            "communication_data_type": "fp32",
        }
    )


@pytest.mark.law("L12")
def test_the_norm_that_tells_of_overflows_is_not_switched_off() -> None:
    extra = {"zero_optimization": {"compute_grad_norm": False}}
    told(extra)
    cfg = Config(engine="deepspeed", precision="fp16", deepspeed=DeepSpeedConfig(zero=2, extra=extra))
    with pytest.raises(ConfigError, match=r"compute_grad_norm=False: with precision=fp16 .*; drop it") as caught:
        check(settings_of(cfg, 1), extra, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.law("L12")
def test_training_refuses_it_before_anything_is_written(tiny: Config) -> None:
    extra = {"zero_optimisation": {"overlap_comm": True}}
    cfg = replace(tiny, engine="deepspeed", deepspeed=DeepSpeedConfig(extra=extra))
    with pytest.raises(ConfigError, match=r"deepspeed\.extra\.zero_optimisation"):
        build(cfg, World(), begun=False)


def local_ranks(world: World) -> list[str | None]:
    """LOCAL_RANK as DeepSpeed starts, in a pass and in an update, and after a step."""
    fake_cuda.install(1)
    os.environ["LOCAL_RANK"] = "3"
    seen: list[str | None] = []

    class Wrapped:
        def __init__(self, **_: Any) -> None:
            seen.append(os.environ.get("LOCAL_RANK"))

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(os.environ.get("LOCAL_RANK"))
            raise RuntimeError("far enough")

    stand_in = SimpleNamespace(ops=SimpleNamespace(__compatible_ops__={}), initialize=lambda **_: (Wrapped(), None))
    setattr(deepspeed, "load_deepspeed", lambda kind: stand_in)  # noqa: B010
    cfg = Config(engine="deepspeed", train=TrainConfig(global_batch=2), deepspeed=DeepSpeedConfig(zero=3))
    device = torch.device("cuda:0")
    engine = make_engine(cfg, torch.nn.Conv2d(3, 1, 1), make_loss("dice"), replace(world, local_rank=3, device=device))
    engine._settle = lambda image: None  # type: ignore[attr-defined]
    engine._take_back = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="far enough"):
        engine.step(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), 1e-2)
    return [*seen, os.environ.get("LOCAL_RANK")]


def test_deepspeed_takes_the_gpu_that_the_rank_has() -> None:
    """Under srun --gpus-per-task=1 the fourth rank of a node has cuda:0, and LOCAL_RANK=3."""
    assert run_ranks(1, local_ranks) == [["0", "0", "3"]]


def test_deepspeed_s_timer_does_not_make_the_host_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each step's speed, for a log that nobody sees; by default it waits for the device twice a step."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils.config import get_timers_config
    from deepspeed.utils.timer import ThroughputTimer

    waits = []
    monkeypatch.setattr(get_accelerator(), "synchronize", lambda *_: waits.append(1), raising=False)
    for settings, expected in ((settings_of(Config(), 1), 0), ({}, 2)):
        waits.clear()
        timer = ThroughputTimer(get_timers_config(settings), batch_size=8)
        for _ in range(3):
            timer.start()
            timer.stop(global_step=True)
        assert len(waits) == expected
