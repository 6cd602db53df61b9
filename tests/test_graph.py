"""A step as one CUDA graph, on a stand-in: bitwise the plain steps, and plain steps where there can be no graph."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
import pytest
import torch
from fake_cuda import FakeGpuJob
from ranks import run_ranks
from torch import Tensor, nn
from trainings import assert_same, state_of

from segtrain.config import Config, load_config
from segtrain.data.store import Store
from segtrain.engines.ddp import DdpEngine
from segtrain.engines.graph import PLAIN_STEPS, _obstacle
from segtrain.errors import ConfigError
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import World
from segtrain.training.build import rehearse

GPU = World(device=torch.device("cuda:0"))
SMALL = ["model={features: 4, depth: 2, norm: batch}", "train.global_batch=4", "optim={lr: 0.0078125, clip_norm: 1}"]
STEPS = 7
State = tuple[list[float], dict[str, Any], dict[str, Any], dict[str, Any]]  # with arrays: they travel between processes


def stepped(cfg: Config, launched: bool, spoil: Any = None) -> State:
    """Losses, weights, moments and the rest after some steps on images and at rates that change."""
    train = replace(cfg.train, cuda_graph=launched)
    engine = DdpEngine(replace(cfg, train=train), make_model(cfg.model, 0), make_loss(cfg.loss), GPU)
    if spoil:
        spoil(engine)
    stream = torch.cuda.current_stream()
    draw = torch.Generator().manual_seed(0)
    losses = []
    for step in range(STEPS):
        image = torch.randn(4, 3, 32, 32, generator=draw)
        losses.append(engine.step(image, (image[:, :1] > 1).float(), cfg.optim.lr / 2**step, step / STEPS, step))
    assert torch.cuda.current_stream() is stream
    model, moments, rest = engine.snapshot()
    weights = {name: value.numpy() for name, value in model.items()}
    return [float(loss) for loss in losses], weights, {name: m.numpy() for name, m in moments.items()}, rest


def both(world: World, directory: Path, cfg: Config, spoil: Any = None) -> tuple[State, State, set[str]]:
    """The steps one operator after the other, and with a graph; what was asked of CUDA's graphs."""
    facts = directory / "facts.txt"
    fake_cuda.install(1, facts)
    plain = stepped(cfg, launched=False, spoil=spoil)
    assert not facts.exists() or "graph" not in facts.read_text()
    launched = stepped(cfg, launched=True, spoil=spoil)
    return plain, launched, {line for line in facts.read_text().splitlines() if "graph" in line}


def assert_equal(one: State, other: State) -> None:
    assert one[0] == other[0], "losses"
    for ours, theirs in zip(one[1:3], other[1:3], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert np.array_equal(value, theirs[name]), name
    assert one[3] == other[3]


@pytest.mark.law("L6")
@pytest.mark.parametrize(
    "settings",
    [
        ["precision=fp32", "optim.name=adam"],
        ["precision=bf16", "optim.name=adamw", "optim.ema=0.9", "optim.weight_decay=0.1"],
        ["precision=fp16", "optim.name=adam"],
        ["precision=fp16", "optim.name=sgd", "optim.clip_norm=null"],
        ["precision=fp32", "optim.name=sgd", "model={name: {part: resunet, dropout: 0.3}, norm: instance}"],
        ["precision=bf16", "loss={lovasz: 1, bce: 0.5}", "optim.lr_ratios={encoder*: 0.1}"],
    ],
    ids=" ".join,
)
def test_launched_steps_are_bitwise_the_plain_ones(tmp_path: Path, settings: list[str]) -> None:
    """Images, rates, dropout and the average's weight change from step to step.

    The rates are powers of two: with a graph they are rounded to float32.
    """
    cfg = load_config(None, [*SMALL, *settings])
    ((plain, launched, facts),) = run_ranks(1, both, tmp_path, cfg)
    assert facts == {"graph recorded", "graph launched"}
    assert len(set(plain[0])) == STEPS
    assert_equal(plain, launched)


def short_in_the_recording(engine: DdpEngine) -> None:
    """Memory ends in the middle of the update that is recorded."""
    update = engine._update

    def short(lr: float) -> None:
        if engine.recording:
            nn.utils.clip_grad_norm_(engine.network.parameters(), 1.0)
            engine.scaler.unscale_(engine.optimizer)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        update(lr)

    engine._update = short  # type: ignore[method-assign]


def short_in_the_recorded_pass(engine: DdpEngine) -> None:
    """Memory ends in the forward pass that is recorded, where a plain step would be taken again."""
    forward = engine._forward

    def short(image_bchw: Tensor) -> Tensor:
        logits = forward(image_bchw)
        if engine.recording:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return logits

    engine._forward = short  # type: ignore[method-assign]


def waits_in_the_recording(engine: DdpEngine) -> None:
    """The network asks for a number in each pass."""
    engine.network.register_forward_hook(lambda network, images, logits: logits * (logits.mean().item() > -1e9))


def halved_later(engine: DdpEngine) -> None:
    """The micro-batch is smaller from the second step on, as where memory ended."""
    step = engine.step

    def stepped_once(*arguments: Any) -> Tensor:
        loss = step(*arguments)
        engine.micro_batch = 2
        return loss

    engine.step = stepped_once  # type: ignore[assignment, method-assign]


def overflows_at_first(engine: DdpEngine) -> None:
    """Gradients are infinite in more steps than are taken before the recording."""
    backward, update = engine._backward, engine._update
    steps = 0

    def far_too_large(loss: Tensor) -> None:
        backward(loss * 1e12 if steps <= PLAIN_STEPS else loss)

    def counted(lr: float) -> None:
        nonlocal steps
        steps += 1
        update(lr)

    engine._backward = far_too_large  # type: ignore[method-assign]
    engine._update = counted  # type: ignore[method-assign]


def test_no_momentum_is_recorded_that_no_step_has_made(tmp_path: Path) -> None:
    cfg = load_config(None, [*SMALL, "precision=fp16", "optim.name=sgd"])
    ((plain, launched, facts),) = run_ranks(1, both, tmp_path, cfg, overflows_at_first)
    assert facts == {"graph recorded", "graph launched"}
    assert plain[3]["scaler"]["scale"] == 2.0 ** (16 - PLAIN_STEPS - 1)
    assert_equal(plain, launched)


@pytest.mark.parametrize(
    ("spoil", "asked"),
    [
        (short_in_the_recording, {"graph recorded"}),
        (short_in_the_recorded_pass, {"graph recorded"}),
        (waits_in_the_recording, {"graph recorded"}),
        (halved_later, set()),
    ],
)
def test_where_no_step_can_be_recorded_they_go_on_plainly(tmp_path: Path, spoil: Any, asked: set[str]) -> None:
    """Nothing of the recording that was begun is left, the loss scale and the current stream included."""
    cfg = load_config(None, [*SMALL, "precision=fp16"])
    ((plain, launched, facts),) = run_ranks(1, both, tmp_path, cfg, spoil)
    assert facts == asked
    assert_equal(plain, launched)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.compile=true"], "since model.compile has graphs of its own"),
        (["train.micro_batch=2"], "since a step has several micro-batches"),
        (["optim.name=schedulefree", "model.norm=group"], "since optim.name=schedulefree computes numbers in Python"),
        (["loss={dice: 1, bce: {start: 0, end: 1}}"], "since a weight of the loss changes with the step"),
        (
            ["loss={part: torch.nn.modules.loss:BCEWithLogitsLoss}"],
            "since loss is code of your own, which may compute in Python",
        ),
        ([], "since this is a CPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_stands_in_the_way_of_a_graph_is_said(
    settings: list[str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = load_config(None, [*SMALL, "train.cuda_graph=true", *settings])
    world = World(device=torch.device("cuda")) if settings else World()
    assert words in f"since {_obstacle(cfg, world, cfg.train.micro_batch or 4)}"
    if not settings:
        assert DdpEngine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), world).graph is None
        assert f"steps are launched one operation after the other, {words}" in caplog.text
        caplog.clear()
        assert DdpEngine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), World(rank=1)).graph is None
        rehearse(cfg, 2, begun=False)
        assert not caplog.text, "rank 0 says it, and not of the machine that looks over an ablation"


@pytest.mark.law("L12")
def test_an_engine_without_graphs_refuses_them() -> None:
    with pytest.raises(ConfigError, match=r"train\.cuda_graph=true does not go with engine=deepspeed"):
        load_config(None, [*SMALL, "train.cuda_graph=true", "engine=deepspeed"])


@pytest.mark.law("L6")
def test_a_run_of_launched_steps_that_is_stopped_goes_on_bitwise(
    tiny: Config, tiny_store: Store, tmp_path: Path
) -> None:
    """Its next start takes plain steps before it records anew."""
    cfg = replace(tiny, name="graph", device="cuda", train=replace(tiny.train, epochs=2, cuda_graph=True))
    runs = {}
    for name, epochs in (("alone", [2]), ("in two starts", [1, 2])):
        for to in epochs:
            job = FakeGpuJob(tmp_path / name, replace(cfg, train=replace(cfg.train, epochs=to)), 1)
            assert job.wait() == [0], job.output()
            assert {"graph recorded", "graph launched"} <= job.facts()
        runs[name] = tmp_path / name / "runs" / cfg.name
    assert "a step is one CUDA graph from here on" in (runs["alone"] / "log.txt").read_text()
    assert_same(state_of(runs["in two starts"]), state_of(runs["alone"]))
