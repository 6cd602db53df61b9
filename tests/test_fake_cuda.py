"""Whole trainings through the branches for GPUs, on a stand-in for CUDA; and that no part waits for the device."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import TURING, FakeGpuJob, install, train_on_fake_gpu
from ranks import run_ranks
from torch.overrides import TorchFunctionMode
from trainings import assert_same, run_to_end, state_of

from segtrain.config import AUGMENTATIONS, LOSSES, NETWORKS, Config, ModelConfig, OptimConfig
from segtrain.data.augment.batch import draw, to_device
from segtrain.data.augment.draws import Contrasts
from segtrain.data.store import Store
from segtrain.engines.ddp import DdpEngine
from segtrain.losses.loss import DeepSupervision, make_loss
from segtrain.models.base import supervision_ratio
from segtrain.models.make import make_model
from segtrain.runtime.world import World

META = torch.device("meta")
WAITED = {"waited", "event recorded", "waited for an event"}  # as it starts, and in evaluations


@pytest.fixture(scope="module")
def cfg(tiny: Config, tiny_store: Store) -> Config:
    """Batch norm, and one memory layout on both devices."""
    model = ModelConfig(features=4, depth=2, norm="batch", channels_last=False)
    return replace(tiny, name="fake", model=model, log_every_steps=2)


def trained(directory: Path, cfg: Config, ranks: int) -> tuple[FakeGpuJob, Path]:
    job = FakeGpuJob(directory, replace(cfg, device="cuda"), ranks)
    assert job.wait() == [0] * ranks, job.output()
    return job, directory / "runs" / cfg.name


@pytest.fixture(scope="module")
def on_cpu(cfg: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the training leaves behind on a CPU."""
    return state_of(run_to_end(tmp_path_factory.mktemp("cpu"), cfg, 1))


class ShortOnFakeGpu(FakeGpuJob):
    """A training on an older GPU that has too little memory for a step while the slices lie there."""

    def rank_of(self) -> Callable[..., None]:
        return train_short_on_fake_gpu


def train_short_on_fake_gpu(*arguments: Any) -> None:
    from segtrain.training.micro_batch import MemoryGuard

    backward, release, held = DdpEngine._backward, MemoryGuard._release, [True]

    def short(engine: DdpEngine, loss: torch.Tensor) -> None:
        backward(engine, loss)
        if held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def watched(memory: MemoryGuard, message: str) -> bool:
        held.clear()
        return release(memory, message)

    setattr(DdpEngine, "_backward", short)  # noqa: B010
    setattr(MemoryGuard, "_release", watched)  # noqa: B010
    train_on_fake_gpu(*arguments, kind=TURING)


def test_slices_leave_a_gpu_that_has_too_little_memory_for_a_step(
    cfg: Config, on_cpu: dict[str, Any], tmp_path: Path
) -> None:
    """Bitwise the training without them, in whole batches."""
    job = ShortOnFakeGpu(tmp_path, replace(cfg, device="cuda"), 1)
    assert job.wait() == [0], job.output()
    assert_same(state_of(tmp_path / "runs" / cfg.name), on_cpu)
    run = tmp_path / "runs" / cfg.name
    text = (run / "log.txt").read_text()
    assert "precision=fp32: convolutions and all else in float32: this GPU has no TF32" in text
    assert [start["arithmetic"] for start in json.loads((run / "environment.json").read_text())] == ["float32"]
    assert text.index("lie on the cuda") < text.index("the training slices leave the cuda to the network")
    assert "samples of a rank at once" not in text
    assert "cache emptied" in job.facts()


def test_a_training_on_a_gpu_takes_the_same_steps(cfg: Config, on_cpu: dict[str, Any], tmp_path: Path) -> None:
    """Bitwise, since the stand-in computes on the CPU, from slices that lie on the GPU, as it believes."""
    job, run = trained(tmp_path / "gpu", cfg, 1)
    assert_same(state_of(run), on_cpu)
    assert job.facts() == {"current device cuda:0", "pinned memory", *WAITED}
    text = (run / "log.txt").read_text()
    assert "on 1 cuda:0 rank(s)" in text
    assert "lie on the cuda" in text
    assert "precision=fp32: convolutions in TF32" in text
    (start,) = json.loads((run / "environment.json").read_text())
    assert (start["device_name"], start["arithmetic"]) == ("Fake H100", "TF32 convolutions, float32 products")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {event["memory_gib"] for event in events if event["event"] == "train"} == {3.0}


def test_two_ranks_train_in_half_precision(cfg: Config, tmp_path: Path) -> None:
    """NCCL beside gloo, a loss scale, strong augmentation, the average, slices by the feed."""
    optim = OptimConfig(lr=1e-3, ema=0.9, clip_norm=1.0)
    data = replace(cfg.data, augment="strong", resident=False)
    changed = replace(cfg, precision="fp16", optim=optim, data=data)
    job, run = trained(tmp_path, changed, 2)
    for rank in range(2):
        assert job.facts(rank) == {
            f"current device cuda:{rank}",
            f"process group cpu:gloo,cuda:nccl cuda:{rank}",
            "pinned memory",
            *WAITED,
            "autocast cuda torch.float16",
            "scaler cuda",
        }
    assert "precision=fp16" in (run / "log.txt").read_text()
    assert json.loads((run / "outcome.json").read_text())["state"] == "finished"


class SayCuda(TorchFunctionMode):
    """Tensors of the meta device say that they are on a GPU, so that code takes its branches for one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return args[0].device == META
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_values() -> Iterator[None]:
    """Tensors on the meta device have no values: what would wait for a GPU raises, such as .item() and bool()."""
    with SayCuda():
        yield


def test_waiting_for_the_device_is_noticed(no_values: None) -> None:
    tensor = torch.zeros(3, device=META)
    for wait in (lambda: tensor.sum().item(), lambda: bool(tensor.any()), tensor.nonzero, tensor.cpu, tensor.tolist):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()
    with pytest.raises((RuntimeError, NotImplementedError)):
        tensor[tensor > 0]


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits_for_the_device(name: str, no_values: None) -> None:
    loss = make_loss(name)
    logits = torch.zeros(4, 1, 16, 16, device=META, requires_grad=True)
    value = loss.value(loss.sums(logits, torch.zeros(4, 1, 16, 16, device=META)), 0.5)
    value.backward()
    assert logits.grad is not None


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_waits_for_the_device(name: str, no_values: None) -> None:
    model = ModelConfig(name=name, features=12 if name == "swin_unetr" else 4)
    loss = make_loss("dice")
    if ratio := supervision_ratio(model):
        loss = DeepSupervision(loss, ratio)
    network = make_model(model, 0).to(META).train()
    logits = network(torch.zeros(2, 3, 64, 64, device=META))
    loss.value(loss.sums(logits, torch.zeros(2, 1, 64, 64, device=META))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_augmentation_waits_for_the_device(name: str, no_values: None) -> None:
    draws = draw(name, 0, np.arange(8), Contrasts.of(Config().data))
    image, mask = torch.zeros(8, 32, 32, 3, dtype=torch.float16), torch.zeros(8, 32, 32, dtype=torch.uint8)
    images, masks = to_device(image, mask, draws, META)
    assert (images.shape, masks.shape) == ((8, 3, 32, 32), (8, 1, 32, 32))


def benchmarked(world: World, deterministic: bool, gpus: int) -> tuple[set[bool], bool, bool]:
    """Whether cuDNN tries its algorithms in a step, in a prediction, and after them."""
    if gpus:
        install(gpus)
    cfg = Config(model=ModelConfig(features=4, depth=2), deterministic=deterministic)
    device = torch.device("cuda:0" if gpus else "cpu")
    engine = DdpEngine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), World(device=device))
    seen: list[bool] = []
    engine.network.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    image = torch.zeros(2, 3, 32, 32)
    engine.step(image, image[:, :1], 1e-3)
    in_steps = set(seen)
    engine.logits(image)
    return in_steps, seen[-1], torch.backends.cudnn.benchmark


@pytest.mark.parametrize(("gpus", "deterministic", "expected"), [(1, False, True), (1, True, False), (0, False, False)])
def test_cudnn_tries_its_algorithms_in_steps_alone(gpus: int, deterministic: bool, expected: bool) -> None:
    """Not where results must be the same each time, nor in evaluations, whose last batches have many shapes."""
    assert run_ranks(1, benchmarked, deterministic, gpus) == [({expected}, False, False)]
