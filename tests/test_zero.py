"""What is added to DeepSpeed's configuration, held against the DeepSpeed that is installed."""

from dataclasses import replace
from typing import Any

import pytest

from segtrain.config import Config, DeepSpeedConfig
from segtrain.engines.zero import check, settings_of
from segtrain.errors import ConfigError
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
