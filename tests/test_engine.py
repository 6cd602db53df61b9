"""The DDP engine: the reference's loss trace, plain torch, and L5 over world sizes and micro-batches."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks
from schedulefree import AdamWScheduleFree

from segtrain.config import Config, ModelConfig, OptimConfig, Precision, TrainConfig
from segtrain.engines.engine import Engine, make_engine
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import World

GROUP = Config(
    model=ModelConfig(features=4, norm="group"),
    optim=OptimConfig(name="sgd", lr=0.1),
    train=TrainConfig(global_batch=8),
)
STEPS = 3


def batch(step: int, size_px: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch of eight; half of the samples, and so whole ranks, have no lesion."""
    generator = torch.Generator().manual_seed(step)
    image = torch.randn(8, 3, size_px, size_px, generator=generator)
    mask = (image.mean(1, keepdim=True) > 0.3).float()
    mask[:4] = 0
    return image, mask


def make(cfg: Config, world: World) -> Engine:
    return make_engine(cfg, make_model(cfg.model, seed=1), make_loss(cfg.loss), world)


def train(world: World, cfg: Config, dtype: torch.dtype = torch.float32) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and the state after STEPS steps, on this rank."""
    engine = make_engine(cfg, make_model(cfg.model, seed=1).to(dtype), make_loss(cfg.loss), world)
    share = 8 // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    losses = []
    for step in range(STEPS):
        image, mask = (tensor.to(dtype) for tensor in batch(step))
        losses.append(engine.step(image[mine], mask[mine], cfg.optim.lr).item())
    return losses, {key: tensor.numpy().copy() for key, tensor in engine.network.state_dict().items()}


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[key].astype(np.float64) - other[key]).max()) for key in one)


def test_ten_adam_steps_give_the_reference_s_losses(golden: Path) -> None:
    cfg = Config(model=ModelConfig(features=4), optim=OptimConfig(name="adam", lr=1e-3))
    engine = make(cfg, World())
    with np.load(golden / "unet_init4.npz") as numbers:
        state = {k.removeprefix("state/"): torch.from_numpy(numbers[k]) for k in numbers if k.startswith("state/")}
    engine.network.load_state_dict(state)
    with np.load(golden / "adam_trace.npz") as trace:
        images, masks = torch.from_numpy(trace["x"]), torch.from_numpy(trace["y"])
        for rows, expected in zip(trace["order"], trace["loss"], strict=True):
            loss = engine.step(images[rows], masks[rows], lr=float(trace["lr"]))
            assert abs(loss.item() - expected) < 1e-4


@pytest.mark.parametrize("clip_norm", [None, 0.01])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_is_what_plain_torch_does(name: str, clip_norm: float | None) -> None:
    optim = OptimConfig(name=name, lr=1e-2, weight_decay=0.01, decay_all=True, clip_norm=clip_norm)
    losses, state = train(World(), replace(GROUP, optim=optim))
    network = make_model(GROUP.model, seed=1)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    extra = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    optimizer = kind(network.parameters(), lr=1e-2, weight_decay=0.01, foreach=False, **extra)
    for step in range(STEPS):
        image, mask = batch(step)
        p = torch.sigmoid(network(image))
        loss = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            norm = torch.sqrt(sum((q.grad**2).sum() for q in network.parameters() if q.grad is not None))  # type: ignore[arg-type]
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter.grad *= min(1.0, clip_norm / (norm.item() + 1e-6))
        optimizer.step()
        assert loss.item() == pytest.approx(losses[step], abs=1e-5)
    plain = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    assert largest_difference(state, plain) < 1e-4


@pytest.mark.law("L5")
@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("optim", "dtype", "bound"),
    # Adam divides a gradient by its own size, so a float32 gradient that is little but rounding moves its weight by as
    # much as any other: how the work was divided is told apart from rounding in float64, and much more strictly.
    [("sgd", torch.float32, 1e-4), ("adam", torch.float64, 1e-8)],
)
def test_world_size_and_micro_batch_change_nothing(
    optim: str, dtype: torch.dtype, bound: float, world_size: int, micro_batch: int | None
) -> None:
    cfg = replace(GROUP, optim=OptimConfig(name=optim, lr=1e-2, clip_norm=1.0))
    losses, state = train(World(), cfg, dtype)
    divided = replace(cfg, train=replace(cfg.train, micro_batch=micro_batch))
    for other_losses, other_state in run_ranks(world_size, train, divided, dtype):
        assert other_losses == pytest.approx(losses, abs=1e-5)
        assert largest_difference(state, other_state) < bound
    assert len(set(losses)) == STEPS, "the weights moved"


@pytest.mark.law("L5")
def test_micro_batches_that_do_not_divide_the_share_change_nothing() -> None:
    losses, state = train(World(), GROUP)
    other_losses, other_state = train(World(), replace(GROUP, train=replace(GROUP.train, micro_batch=3)))
    assert other_losses == pytest.approx(losses, abs=1e-5)
    assert largest_difference(state, other_state) < 1e-4


@pytest.mark.law("L5")
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_batch_norm_is_of_the_global_batch(dtype: torch.dtype, bound: float, world_size: int) -> None:
    """The weights and running statistics are those of one process that has the whole batch, and equal on all ranks."""
    cfg = replace(GROUP, model=ModelConfig(features=4, norm="batch"))
    losses, state = train(World(), cfg, dtype)
    answers = run_ranks(world_size, train, cfg, dtype)
    for other_losses, other_state in answers:
        assert other_losses == pytest.approx(losses, abs=bound / 10)
        assert largest_difference(state, other_state) < bound
        assert largest_difference(answers[0][1], other_state) == 0
    assert state["encoder1.enc1norm1.num_batches_tracked"] == STEPS


def train_one(world: World, cfg: Config) -> tuple[list[float], dict[str, np.ndarray]]:
    engine = make(cfg, world)
    image, mask = batch(0)
    part = slice(world.rank * 4, world.rank * 4 + 4)
    loss = engine.step(image[part], mask[part], cfg.optim.lr).item()
    return [loss], {key: tensor.numpy().copy() for key, tensor in engine.network.state_dict().items()}


def test_accumulation_counts_running_statistics_once() -> None:
    """The pass that gathers the loss's sums leaves no trace in batch norm."""
    cfg = replace(GROUP, model=ModelConfig(features=4, norm="batch"), train=TrainConfig(global_batch=8, micro_batch=4))
    _, state = train_one(World(), replace(cfg, train=TrainConfig(global_batch=8, micro_batch=4)))
    engine = make(cfg, World())
    image, mask = batch(0)
    engine.step(image, mask, 0.1)
    tracked = engine.network.state_dict()["encoder1.enc1norm1.num_batches_tracked"]
    assert tracked.item() == 2
    assert state["encoder1.enc1norm1.num_batches_tracked"] == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_near_fp32_with_fp32_weights(precision: Precision) -> None:
    losses, _ = train(World(), GROUP)
    low, state = train(World(), replace(GROUP, precision=precision))
    assert low == pytest.approx(losses, abs=2e-2)
    assert low != losses
    assert all(tensor.dtype in (np.float32, np.int64) for tensor in state.values())


@pytest.mark.law("L6")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("name", "ema"),
    [("adam", None), ("adam", 0.9), ("adamw", None), ("sgd", None), ("sgd", 0.9), ("schedulefree", None)],
)
def test_a_snapshot_is_all_that_the_engine_is(
    name: str, ema: float | None, precision: Precision, channels_last: bool
) -> None:
    """Another engine that is given it goes on bit for bit, and the first one is not changed by being copied, scored."""
    cfg = replace(
        GROUP,
        optim=OptimConfig(name=name, lr=1e-2, weight_decay=0.01, ema=ema),
        precision=precision,
        model=ModelConfig(features=4, norm="batch", channels_last=channels_last),
    )
    size_px = 16  # a CPU takes its time with convolutions of fp16
    alone, interrupted = make(cfg, World()), make(cfg, World())
    for step in range(2):
        for engine in (alone, interrupted):
            engine.step(*batch(step, size_px), 1e-2)
    model, moments, extra = interrupted.snapshot()
    extra = json.loads(json.dumps(extra))
    with interrupted.averaged():
        assert all(torch.equal(model[key], value) for key, value in interrupted.network.state_dict().items())
    interrupted.step(*batch(9, size_px), 1e-2)  # what is trained on after the copy is not in it
    again = make(replace(cfg, seed=99), World())
    again.restore(model, moments, extra)
    for step in range(2, 5):
        assert alone.step(*batch(step, size_px), 1e-2).item() == again.step(*batch(step, size_px), 1e-2).item()
    for one, other in zip(alone.snapshot()[:2], again.snapshot()[:2], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert alone.snapshot()[2] == again.snapshot()[2]
    per_parameter = {"adam": 3, "adamw": 3, "sgd": 1, "schedulefree": 3}[name]
    averaged = 2 * 18 if ema else 0  # running means and variances of 18 batch norms
    averaged += len(list(alone.network.parameters())) if ema else 0
    assert len(moments) == per_parameter * len(list(alone.network.parameters())) + averaged


def test_the_average_is_of_the_weights_of_all_steps() -> None:
    """Against the sum written out: each step's weights times what is left of its share."""
    cfg = replace(GROUP, optim=OptimConfig(name="sgd", lr=0.1, ema=0.3), model=ModelConfig(features=4, norm="batch"))
    engine = make(cfg, World())
    states = [{k: v.double().clone() for k, v in engine.network.state_dict().items()}]
    for step in range(STEPS):
        engine.step(*batch(step), 0.1)
        states.append({k: v.double().clone() for k, v in engine.network.state_dict().items()})
    decays = [min(0.3, (1 + t) / (10 + t)) for t in range(1, STEPS + 1)]
    shares = [np.prod(decays)] + [(1 - d) * np.prod(decays[t + 1 :]) for t, d in enumerate(decays)]
    with engine.averaged():
        for key, value in engine.network.state_dict().items():
            if value.is_floating_point():
                expected = sum(share * state[key] for share, state in zip(shares, states, strict=True))
                assert torch.allclose(value.double(), expected, atol=1e-6)
    trained = engine.network.state_dict()
    assert all(torch.equal(trained[key].double(), states[-1][key]) for key in trained)


def test_schedule_free_scores_its_library_s_average() -> None:
    cfg = replace(GROUP, optim=OptimConfig(name="schedulefree", lr=1e-2, weight_decay=0.01, decay_all=True))
    engine = make(cfg, World())
    network = make_model(GROUP.model, seed=1)
    optimizer = AdamWScheduleFree(network.parameters(), lr=1e-2, weight_decay=0.01)
    optimizer.train()
    for step in range(STEPS):
        image, mask = batch(step)
        with engine.averaged():  # scoring in between changes nothing
            pass
        engine.step(image, mask, 1e-2)
        p = torch.sigmoid(network(image))
        (1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.eval()
    model, _, _ = engine.snapshot()
    for key, value in network.state_dict().items():
        assert torch.allclose(model[key], value, atol=1e-5)


def test_the_layout_is_the_measured_one_unless_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def layout(capability: str, **model: Any) -> object:
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
        engine = make(Config(model=ModelConfig(**model)), World())
        weight = engine.network.get_parameter("encoder2.enc2conv1.weight")
        return weight.is_contiguous(memory_format=torch.channels_last)

    assert layout("AVX512", features=16)
    assert not layout("AVX512", features=8)
    assert not layout("AVX2", features=16)
    assert layout("AVX2", features=8, channels_last=True)
    assert not layout("AVX512", features=16, channels_last=False)


@pytest.mark.parametrize("switch", ["channels_last", "compile"])
def test_switches_that_may_differ_change_nothing(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled by the backend that generates no C++: the wiring is ours, the code generation is torch's."""
    used: list[str] = []
    compile_module = torch.compile

    def compile_quickly(module: torch.nn.Module, options: dict[str, bool]) -> object:
        assert options["layout_optimization"] is False, "the layout is the config's"
        used.append("compile")
        return compile_module(module, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile_quickly)
    losses, state = train(World(), GROUP)
    cfg = replace(
        GROUP, model=replace(GROUP.model, channels_last=switch == "channels_last", compile=switch == "compile")
    )
    if (
        make(cfg, World())
        .network.get_parameter("encoder1.enc1conv1.weight")
        .is_contiguous(memory_format=torch.channels_last)
    ):
        used.append("channels_last")
    other_losses, other_state = train(World(), cfg)
    assert switch in used
    assert other_losses == pytest.approx(losses, abs=1e-5)
    assert largest_difference(state, other_state) < 1e-4
