"""Training that starts from weights: frozen parts, other rates, a first convolution of other channels."""

import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_runs import PARTED, furthest
from ranks import run_ranks
from test_own_networks_training import resume, train, whole
from torch import nn
from trainings import TIMEOUT_S, Job, assert_same, run_to_end, state_of

from segtrain.config import Config, DeepSpeedConfig, ModelConfig, OptimConfig, first_difference, from_tree
from segtrain.config.comparison import NEWER_KEYS, fingerprint
from segtrain.engines.optim import Rates, make_optimizer
from segtrain.errors import ConfigError
from segtrain.models.freeze import freeze
from segtrain.models.make import make_model
from segtrain.run import Run
from segtrain.runtime.world import World
from segtrain.training.build import build

needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")
FROZEN = ModelConfig(features=4, channels_last=False, freeze=("encoder*", "bottleneck"))
RATES = OptimConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.1, lr_ratios={"decoder*": 0.1}, ema=0.5)


def tuned(**changes: Any) -> Config:
    return replace(whole(FROZEN), optim=RATES, **changes)


def is_frozen(name: str) -> bool:
    return name.startswith(("encoder", "bottleneck"))


def test_frozen_parts_stay_as_they_are_to_the_last_bit() -> None:
    cfg = tuned()
    before = make_model(cfg.model, cfg.seed).state_dict()
    _, after, _ = train(World(), cfg)
    for name, tensor in before.items():
        assert np.array_equal(tensor.numpy(), after[name]) == is_frozen(name), name
    _, engine = build(cfg, World(), begun=False)
    image = torch.randn(8, 3, 32, 32)
    engine.step(image, (image.mean(1, keepdim=True) > 0).float(), lr=0.1)
    moments = [key for key in engine.snapshot()[1] if not key.endswith("/trained")]
    assert moments
    assert not any(map(is_frozen, moments))
    assert all(not module.training for name, module in engine.network.named_modules() if is_frozen(name))
    assert engine.network.get_submodule("decoder1").training


@pytest.mark.law("L5")
@pytest.mark.parametrize("zero", [None, *(pytest.param(zero, marks=needs_deepspeed) for zero in (2, 3))])
def test_frozen_parts_and_rates_are_the_same_at_two_ranks_and_engines(zero: int | None) -> None:
    cfg = tuned()
    losses, model, logits = train(World(), cfg)
    if zero is not None:
        extra = PARTED if zero == 3 else {}
        cfg = tuned(engine="deepspeed", deepspeed=DeepSpeedConfig(zero=zero, extra=extra))  # type: ignore[arg-type]
    others = run_ranks(2, train, cfg)
    assert others[0][0] == pytest.approx(losses, abs=1e-5)
    assert furthest(others[0][1], model) < 2e-5
    assert np.abs(others[1][2] - logits).max() < 1e-4
    frozen = [name for name in model if is_frozen(name)]
    assert all(np.array_equal(others[0][1][name], model[name]) for name in frozen)


@pytest.mark.law("L6")
def test_fine_tuning_resumes_bitwise_on_its_engine() -> None:
    (losses, model), (others, resumed) = (resume(World(), tuned(), broken) for broken in (False, True))
    assert losses == others
    assert all(np.array_equal(model[name], resumed[name]) for name in model)


@pytest.mark.law("L6")
def test_fine_tuning_is_bitwise_the_same_when_it_is_killed(fragile: Config, tmp_path: Path) -> None:
    weights = tmp_path / "start.pt"
    torch.save(make_model(ModelConfig(features=4), 7, in_channels=5).state_dict(), weights)
    model = ModelConfig(features=4, weights=str(weights), weights_input="mean", freeze=("encoder*",))
    optim = OptimConfig(lr=3e-3, weight_decay=0.01, lr_ratios={"bottleneck": 0.1}, ema=0.9)
    cfg = replace(fragile, name="tuned", model=model, optim=optim)
    unbroken = state_of(run_to_end(tmp_path / "unbroken", cfg, 1))
    start = make_model(model, cfg.seed).state_dict()
    for name, tensor in start.items():
        assert torch.equal(tensor, unbroken["model"][name]) == name.startswith("encoder"), name
    job = Job(tmp_path / "broken", cfg, 1)
    run, end = Run(tmp_path / "broken" / "runs" / "tuned"), time.monotonic() + TIMEOUT_S
    while run.saved_step() < 2 and time.monotonic() < end:
        time.sleep(0.01)
    job.kill(0)
    job.wait()
    weights.unlink()  # a run that has begun has weights of its own
    assert_same(unbroken, state_of(run_to_end(tmp_path / "broken", cfg, 1)))


def test_a_ratio_is_kept_by_every_rate_of_the_schedule() -> None:
    network = make_model(ModelConfig(features=4), 0)
    cfg = OptimConfig(lr=0.2, weight_decay=0.3, lr_ratios={"encoder*": 0.1, "conv.bias": 2.0})
    optimizer = make_optimizer(network, cfg)
    Rates(optimizer, cfg.lr).set(optimizer.param_groups, 0.05)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        ratio = 0.1 if name.startswith("encoder") else 2.0 if name == "conv.bias" else 1.0
        assert rate[id(parameter)] == pytest.approx(0.05 * ratio), name
    one = make_optimizer(network, replace(cfg, lr_ratios=None))
    assert [len(group["params"]) for group in one.param_groups] == [23, 41]


@pytest.mark.parametrize(("rule", "channels"), [("mean", 1), ("mean", 5), ("repeat", 2), ("repeat", 7)])
def test_a_first_convolution_takes_other_channels(tmp_path: Path, rule: Any, channels: int) -> None:
    file = tmp_path / "rgb.pt"
    theirs = make_model(ModelConfig(features=4), 1).eval()
    torch.save(theirs.state_dict(), file)
    cfg = ModelConfig(features=4, weights=str(file), weights_input=rule)
    ours = make_model(cfg, 2, channels).eval()
    image = torch.randn(1, 1, 32, 32)
    same = [network(image.expand(1, count, 32, 32)) for network, count in ((ours, channels), (theirs, 3))]
    if rule == "mean" or channels % 3 == 0:
        torch.testing.assert_close(same[0], same[1], rtol=1e-4, atol=1e-5)
    name = "encoder1.enc1conv1.weight"
    if rule == "repeat":
        first, source = ours.state_dict()[name], theirs.state_dict()[name]
        assert torch.equal(first[:, channels - 1], source[:, (channels - 1) % 3] * (3 / channels))
    with pytest.raises(ConfigError, match=rf"{name} is .*, or model.weights_input=mean"):
        make_model(replace(cfg, weights_input=None), 2, channels)


@pytest.mark.law("L12")
def test_what_cannot_be_frozen_is_named() -> None:
    def refused(**changes: Any) -> str:
        cfg = replace(whole(replace(FROZEN, **changes.pop("model", {}))), **changes)
        with pytest.raises(ConfigError) as error:
            build(cfg, World(), begun=False)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused(model={"freeze": ("encodr*",)}).startswith(
        "model.freeze=encodr*: no part of the network has this name; its parts are encoder1, encoder2"
    )
    assert "freezes the whole network" in refused(model={"freeze": ("*",)})
    assert "frozen by model.freeze" in refused(optim=OptimConfig(lr_ratios={"encoder1": 0.1}))
    twice = refused(optim=OptimConfig(lr_ratios={"decoder1": 0.1, "dec*": 0.2}))
    assert "is named by decoder1 too" in twice
    for tree, message in (
        ({"model": {"weights_input": "mean"}}, "model.weights names none"),
        ({"optim": {"lr_ratios": {"conv": 0}}}, "greater than 0"),
        ({"optim": {"name": "torch.optim:AdamW", "lr_ratios": {"conv": 0.1}}}, "write a factory"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_tree(tree, "here")


def test_freezing_is_of_the_run() -> None:
    one, other = from_tree({"model": {"freeze": "encoder*"}}, "here"), Config()
    assert one.model.freeze == ("encoder*",)
    assert first_difference(one, other) == ("model.freeze", ("encoder*",), ())
    assert fingerprint(one) != fingerprint(other)
    assert {"model.freeze", "model.weights_input", "optim.lr_ratios"} <= NEWER_KEYS


def test_a_copy_of_a_frozen_part_is_frozen_too() -> None:
    from copy import deepcopy

    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
    freeze(network, ["0"])
    copied = deepcopy(network).train()
    assert (copied[0].training, copied[1].training) == (False, True)
    assert copied[0].train() is copied[0]
