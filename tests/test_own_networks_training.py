"""Networks of the user's own in training: against our `unet`, at any world size, killed and resumed."""

import importlib.util
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_runs import PARTED, State, furthest, plain
from own_networks import PARTS, config
from ranks import run_ranks
from trainings import HeldJob, assert_same, run_to_end, state_of

from segtrain.config import Config, DataConfig, DeepSpeedConfig, ModelConfig, OptimConfig, TrainConfig
from segtrain.engines.engine import Engine
from segtrain.runtime.machine import lacks_to_compile
from segtrain.runtime.world import World
from segtrain.training.build import build

needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")
STEPS = 3
OURS = ModelConfig(features=4, channels_last=False)


def whole(model: ModelConfig, **changes: Any) -> Config:
    return Config(
        data=DataConfig(image_size=32),
        model=model,
        optim=OptimConfig(name="sgd", lr=0.1, momentum=0.9),
        train=TrainConfig(global_batch=8, micro_batch=changes.pop("micro_batch", None)),
        **changes,
    )


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch of eight, half of them without lesion."""
    image = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(step))
    mask = (image.mean(1, keepdim=True) > 0.3).float()
    mask[:4] = 0
    return image, mask


def go_on(engine: Engine, world: World, steps: range) -> list[float]:
    share = 8 // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    losses = []
    for step in steps:
        image, mask = (tensor[mine] for tensor in batch(step))
        losses.append(engine.step(image, mask, lr=0.1, step=step).item())
    return losses


def train(world: World, cfg: Config) -> tuple[list[float], State, np.ndarray]:
    """Losses and the state dict after some steps (rank 0), and logits in evaluation."""
    _, engine = build(cfg, world, begun=False)
    losses = go_on(engine, world, range(STEPS))
    with engine.averaged():
        logits = engine.logits(batch(50)[0]).numpy()
    return losses, plain(engine.snapshot()[0]), logits


def resume(world: World, cfg: Config, broken: bool) -> tuple[list[float], State]:
    """As `train`, through a snapshot in the middle where it is `broken`."""
    _, engine = build(cfg, world, begun=False)
    losses = go_on(engine, world, range(2))
    if broken:
        snapshot = engine.snapshot()
        _, engine = build(cfg, world, begun=True)
        engine.restore(*snapshot)
        torch.rand(1000)  # as anything else may draw
    losses += go_on(engine, world, range(2, 4))
    return losses, plain(engine.snapshot()[0])


@pytest.mark.law("L5")
@pytest.mark.law("L13")
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_s_network_with_its_sigmoid_trains_as_ours(ranks: int, precision: str) -> None:
    """Bitwise: the sigmoid that it ends in is not computed at all, in either precision."""
    theirs = config("unet.py:UNet", {"init_features": 4}, channels_last=False)
    ours, own = (run_ranks(ranks, train, whole(model, precision=precision))[0] for model in (OURS, theirs))
    assert own[0] == ours[0]
    assert own[1].keys() == ours[1].keys()
    assert furthest(own[1], ours[1]) == 0
    assert np.array_equal(own[2], ours[2])


def test_logits_from_probabilities_train_alike_in_fp32() -> None:
    """Within 1e-4: the sigmoid is computed, and its logit taken back."""
    own = train(World(), whole(config("unet.py:Rounded", {"init_features": 4})))
    ours = train(World(), whole(OURS))
    assert own[0] == pytest.approx(ours[0], abs=1e-5)
    assert furthest(own[1], ours[1]) < 1e-4


@pytest.mark.law("L5")
@pytest.mark.law("L13")
@pytest.mark.parametrize("part", ["BestLast", "TwoProbabilities", "Stacked"])
def test_losses_are_the_same_at_any_world_size_and_micro_batch(part: str) -> None:
    ratio = None if part == "TwoProbabilities" else 0.5
    model = config(f"outputs.py:{part}", deep_supervision=ratio)
    alone = train(World(), whole(model))
    for ranks, micro_batch in ((2, None), (4, 1)):
        others = run_ranks(ranks, train, whole(model, micro_batch=micro_batch))
        assert others[0][0] == pytest.approx(alone[0], abs=1e-6)
        assert furthest(others[0][1], alone[1]) < 1e-6
        assert all(other[0] == others[0][0] for other in others)


@pytest.mark.law("L9")
@needs_deepspeed
@pytest.mark.parametrize(("zero", "part"), [(1, "Twice"), (2, "Table"), (3, "Twice"), (3, "Table")])
def test_deepspeed_divides_an_own_network_too(zero: int, part: str) -> None:
    model = config(f"outputs.py:{part}")
    alone = train(World(), whole(model))
    extra = PARTED if zero == 3 else {}
    cfg = whole(model, engine="deepspeed", deepspeed=DeepSpeedConfig(zero=zero, extra=extra))  # type: ignore[arg-type]
    divided = run_ranks(2, train, cfg)[0]
    assert divided[0] == pytest.approx(alone[0], abs=1e-5)
    assert furthest(divided[1], alone[1]) < 1e-5
    assert np.abs(divided[2] - alone[2]).max() < 1e-4


@pytest.mark.skipif(lacks_to_compile("cpu") is not None, reason="there is no compiler")
def test_a_compiled_one_trains_alike() -> None:
    plain, compiled = (train(World(), whole(config("outputs.py:Sigmoid", compile=on))) for on in (False, True))
    assert compiled[0] == pytest.approx(plain[0], abs=1e-5)


@pytest.mark.law("L6")
@pytest.mark.parametrize("part", ["Twice", "Table"])
def test_layers_under_two_names_and_tables_that_are_not_saved_are_averaged_and_resumed(part: str) -> None:
    cfg = whole(config(f"outputs.py:{part}"))
    cfg = replace(cfg, optim=replace(cfg.optim, ema=0.9))
    broken, unbroken = (resume(World(), cfg, broken) for broken in (True, False))
    assert broken[0] == unbroken[0]
    assert furthest(broken[1], unbroken[1]) == 0
    if part == "Twice":
        assert np.array_equal(unbroken[1]["conv1.weight"], unbroken[1]["layers.0.weight"])


def break_off(directory: Path, cfg: Config, ranks: int) -> None:
    """Kill all ranks in the middle of an epoch."""
    job = HeldJob(directory, cfg, ranks)
    job.wait_until_held()
    job.kill(*range(ranks))
    assert job.wait() == [-signal.SIGKILL] * ranks, job.output()


@pytest.mark.law("L6")
@pytest.mark.law("L13")
@pytest.mark.parametrize(("part", "ranks"), [("Dropout", 2), ("StochasticDepth", 1)])
def test_a_network_that_draws_is_killed_and_resumed_bitwise(
    fragile: Config, tmp_path: Path, part: str, ranks: int
) -> None:
    cfg = replace(fragile, model=config(f"outputs.py:{part}"))
    unbroken = state_of(run_to_end(tmp_path / "unbroken", cfg, ranks))
    break_off(tmp_path / "broken", cfg, ranks)
    assert_same(state_of(run_to_end(tmp_path / "broken", cfg, ranks)), unbroken)


NETS = "monai.networks.nets"
DYNUNET = {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3, "filters": [4, 8, 16, 32]}


@pytest.mark.law("L13")
@pytest.mark.parametrize(
    ("part", "options", "says"),
    [
        ("segresnet:SegResNet", {"init_filters": 8}, "logits; 1 output; group norm; sizes /8"),
        ("segresnet_ds:SegResNetDS", {"init_filters": 8, "dsdepth": 3}, "3 outputs, of which 3 are trained, [0] is"),
        ("basic_unetplusplus:BasicUNetPlusPlus", {"features": [4, 4, 8, 8, 8, 4]}, "4 are trained, [3] is predicted"),
        ("dynunet:DynUNet", DYNUNET | {"deep_supr_num": 2}, "3 are trained, [0] is predicted (in evaluation: logits"),
        ("unet:UNet", {"channels": [4, 8], "strides": [2], "dropout": 0.2}, "draws in training, other numbers"),
    ],
)
def test_networks_of_monai_train_by_import_path(part: str, options: dict[str, Any], says: str) -> None:
    ratio = None if "1 output" in says or "draws" in says else 0.5
    cfg = whole(ModelConfig(name={"part": f"{NETS}.{part}", **options}, deep_supervision=ratio))
    _, engine = build(cfg, World(), begun=False)
    assert says in getattr(engine.network, "description", "")
    first, *_, last = go_on(engine, World(), range(6))
    assert last < first


@pytest.mark.law("L6")
@pytest.mark.parametrize(
    "name",
    [
        "smp:efficientnet-b0",
        {"part": "segmentation_models_pytorch:Unet", "encoder_name": "efficientnet-b0", "activation": "sigmoid"},
        {"part": f"{PARTS}/factory.py:unet_on", "encoder": "convnext_atto"},
    ],
    ids=["smp", "import path", "factory on timm"],
)
def test_networks_of_smp_and_timm_train_and_go_on(name: Any) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    pytest.importorskip("timm")
    cfg = whole(ModelConfig(name=name))
    broken, unbroken = (resume(World(), cfg, broken) for broken in (True, False))
    assert broken[0] == unbroken[0]
    assert len(set(unbroken[0])) == len(unbroken[0])
    assert furthest(broken[1], unbroken[1]) == 0
