"""Steps of `benchmarks.gpu` on one engine: facts, host waits, CPU against GPU, speed, a CUDA graph."""

import gc
import os
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_shot import Shot
from segtrain.config import (
    AUGMENTATIONS,
    LOSSES,
    NETWORKS,
    OPTIMIZERS,
    Config,
    ModelConfig,
    OptimConfig,
    Precision,
    TrainConfig,
)
from segtrain.data.augment.batch import draw, to_device
from segtrain.engines.ddp import DdpEngine
from segtrain.engines.engine import make_engine
from segtrain.losses.loss import DeepSupervision, Loss, make_loss
from segtrain.models.base import supervision_ratio
from segtrain.models.make import make_model
from segtrain.runtime.usage import gpu_reader
from segtrain.runtime.world import World

Results = Iterator[tuple[str, Any]]
Batch = tuple[Tensor, Tensor]
CPU = torch.device("cpu")
LR = 1e-4


def engine_of(cfg: Config, device: torch.device) -> DdpEngine:
    loss: Loss = make_loss(cfg.loss)
    if ratio := supervision_ratio(cfg.model):
        loss = DeepSupervision(loss, ratio)
    network = make_model(cfg.model, 0, cfg.data.channels)
    return cast(DdpEngine, make_engine(cfg, network, loss, World(device=device)))


def batch_of(cfg: Config, augmentation: str, device: torch.device, seed: int = 0) -> Batch:
    """A batch as the loop has it: float16 in pinned memory, moved without waiting, augmented."""
    generator = torch.Generator().manual_seed(seed)
    count, px = cfg.train.global_batch, cfg.data.image_size
    image = torch.randn(count, px, px, 3, generator=generator).half()
    mask = (image[..., 1] > 1).to(torch.uint8)
    draws = draw(augmentation, seed, np.arange(count))
    if device.type == "cuda":
        image, mask = image.pin_memory(), mask.pin_memory()
        draws = draws.moved(torch.Tensor.pin_memory) if draws else None
    return to_device(image, mask, draws, device)


def milliseconds(shot: Shot, work: Callable[[], Any], repeat: int = 20) -> float:
    """Of one call, of many that are queued without waiting between them."""
    for _ in range(3):
        work()
    shot.wait()
    began = time.perf_counter()
    for _ in range(repeat):
        work()
    shot.wait()
    return round(1000 * (time.perf_counter() - began) / repeat, 3)


def facts(shot: Shot) -> Results:
    """The GPU, its libraries, what NVML reads, the rates of products and copies."""
    yield "versions", {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
    yield "cores", len(os.sched_getaffinity(0))
    if shot.cpu:
        return
    world = World(device=shot.device)
    yield "gpu", {"name": world.device_name, "uuid": world.gpu_uuid, **world.libraries}
    reader = gpu_reader(world.gpu_uuid or "")
    yield "nvml", reader() if reader else None
    a = torch.randn(8192, 8192, device=shot.device, dtype=torch.bfloat16)
    yield "bf16_tflops", round(2 * 8192**3 / milliseconds(shot, lambda: a @ a, 10) / 1e9)
    source = torch.empty(2**30, device=shot.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    yield "copy_tb_per_s", round(2 * 2**30 / milliseconds(shot, lambda: target.copy_(source)) / 1e9, 2)


def waits(shot: Shot) -> Results:
    """The steps that make the host wait for the GPU, by torch's own check: where; None where none does."""
    small = ModelConfig(features=shot.features, norm="instance")
    wide = 12 if shot.cpu else 24  # swin_unetr's width is a multiple of 12
    cases: dict[str, tuple[Config, str]] = {f"loss {name}": (shot.config(loss=name), "reference") for name in LOSSES}
    for name in NETWORKS:
        model = ModelConfig(name=name, features=wide if name == "swin_unetr" else shot.features)
        cases[f"network {name}"] = shot.config(model=model), "none"
    for name in OPTIMIZERS:
        cases[f"optimiser {name}"] = shot.config(optim=OptimConfig(name=name), model=small), "none"
    for precision in ("tf32", "bf16", "fp16"):
        cases[precision] = shot.config(precision=precision, optim=OptimConfig(clip_norm=1.0, ema=0.9)), "strong"
    cases["micro-batches"] = shot.config(train=TrainConfig(global_batch=shot.batch, micro_batch=3)), "none"
    if shot.cpu:
        cases = {name: cases[name] for name in ("loss dice", "bf16", "micro-batches")}
    for name, (cfg, augmentation) in cases.items():
        yield name, _wait_of(shot, cfg, augmentation)


def _wait_of(shot: Shot, cfg: Config, augmentation: str) -> str | None:
    try:
        engine = engine_of(cfg, shot.device)
        for seed in range(2):
            engine.step(*batch_of(cfg, augmentation, shot.device, seed), LR, 0.5)
        if not shot.cpu:
            torch.cuda.set_sync_debug_mode("error")
        engine.step(*batch_of(cfg, augmentation, shot.device, 3), LR, 0.5)
    except Exception as error:  # noqa: BLE001  (a package that is missing ends no other case)
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "segtrain" in frame.filename]
        return f"{type(error).__name__}: {str(error)[:120]} at {where[-2:]}"
    finally:
        if not shot.cpu:
            torch.cuda.set_sync_debug_mode("default")
    return None


Devices = tuple[torch.device, torch.device]


def parity(shot: Shot) -> Results:
    """Largest differences of CPU and GPU in float32 without TF32: augmentations, losses, gradients of networks."""
    cfg = shot.config(train=TrainConfig(global_batch=4), precision="ieee")
    devices = (CPU, shot.device)
    for name in AUGMENTATIONS:
        yield f"augmentation {name}", _or_error(_augmentations_differ, cfg, name, devices)
    for name in list(LOSSES)[: 2 if shot.cpu else None]:
        yield f"loss {name}", _or_error(_losses_differ, replace(cfg, loss=name), devices)
    for name in list(NETWORKS)[: 1 if shot.cpu else None]:
        model = ModelConfig(name=name, features=24 if name == "swin_unetr" else 8)
        yield f"gradients {name}", _or_error(_gradients_differ, replace(cfg, model=model), devices)


def _or_error(compare: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns; the text of its error, such as a package that is missing, which ends no other case."""
    try:
        return compare(*arguments)
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error)[:120]}"


def _augmentations_differ(cfg: Config, name: str, devices: Devices) -> list[float]:
    """Images: the largest difference; masks: the share of voxels."""
    (image, mask), (other, other_mask) = (batch_of(cfg, name, device, 5) for device in devices)
    differs = (mask != other_mask.to(CPU)).float().mean().item()
    return [(image - other.to(CPU)).abs().max().item(), differs]


def _losses_differ(cfg: Config, devices: Devices) -> float:
    one, other = (engine_of(cfg, device).step(*batch_of(cfg, "none", device), LR, 0.5).item() for device in devices)
    return abs(one - other) / max(abs(one), 1e-6)


def _gradients_differ(cfg: Config, devices: Devices) -> float:
    ours, theirs = (_gradients(cfg, device) for device in devices)
    return float((ours - theirs).norm() / ours.norm())


def _gradients(cfg: Config, device: torch.device) -> Tensor:
    """All gradients of one step, on the CPU."""
    engine = engine_of(cfg, device)
    engine._gradients(*batch_of(cfg, "none", device), 0.5, 0)
    gradients = [p.grad for p in engine.network.parameters() if p.grad is not None]
    return torch.cat([gradient.flatten().to(CPU, torch.float64) for gradient in gradients])


def speed(shot: Shot) -> Results:
    """A step at each precision, layout and way: its time, the host's, its kernels and memory."""
    ways: list[tuple[Precision, bool, bool, bool]] = [
        # precision, channels_last, cudnn.benchmark, compiled
        ("bf16", True, False, False),
        ("fp32", True, False, False),
        ("tf32", True, False, False),
        ("bf16", True, True, False),
        ("bf16", True, False, True),
        ("ieee", False, False, False),
        ("fp32", False, False, False),
        ("tf32", False, False, False),
        ("bf16", False, False, False),
        ("tf32", True, False, True),
    ]
    for precision, channels_last, benchmark, compiled in ways[: 1 if shot.cpu else None]:
        model = ModelConfig(features=shot.features, channels_last=channels_last, compile=compiled)
        parts = [precision, "nhwc" if channels_last else "nchw", "benchmark" * benchmark, "compiled" * compiled]
        # Of an engine it asks only that cuDNN does not try its algorithms.
        cfg = shot.config(precision=precision, model=model, deterministic=not benchmark)
        yield " ".join(filter(None, parts)), _speed_of(shot, cfg)


def forget(device: torch.device) -> None:
    """Release the memory of what was measured before, compiled graphs with their buffers too, and count anew."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """The most memory that was allocated since then."""
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


def reserved_gib(device: torch.device) -> float:
    """The most memory that was taken from the device since then."""
    return round(torch.cuda.max_memory_reserved(device) / 2**30, 2)


def _speed_of(shot: Shot, cfg: Config) -> dict[str, Any]:
    forget(shot.device)
    engine = engine_of(cfg, shot.device)
    image, mask = batch_of(cfg, "none", shot.device)

    def step() -> None:
        engine.step(image, mask, LR)

    began = time.perf_counter()
    step()
    shot.wait()
    first_s = round(time.perf_counter() - began, 1)
    step_ms = milliseconds(shot, step, 2 if shot.cpu else 30)
    host_ms = round(statistics.median(_host_ms(shot, step) for _ in range(5)), 2)
    rate = round(1000 * shot.batch / step_ms)
    figures = {"ms": step_ms, "images_per_s": rate, "host_ms": host_ms, "first_s": first_s}
    return figures if shot.cpu else figures | _profile(shot, step)


def _host_ms(shot: Shot, step: Callable[[], None]) -> float:
    """Until the host has given a step to a GPU that waits for it: of several, the queue of kernels would be full."""
    shot.wait()
    began = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - began)


def _profile(shot: Shot, step: Callable[[], None]) -> dict[str, Any]:
    """Kernels of a step, its time on the GPU, the kernels that take most of it, memory."""
    from torch.profiler import ProfilerActivity, profile

    steps = 3
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(steps):
            step()
        shot.wait()
    kernels = [
        event
        for event in profiled.events()
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)  # a range of kernels
    ]
    spent_ms: Counter[str] = Counter()
    for kernel in kernels:
        spent_ms[kernel.name[:60]] += kernel.device_time / 1000 / steps
    return {
        "kernels": len(kernels) // steps,
        "gpu_ms": round(sum(spent_ms.values()), 2),
        "longest_ms": {name: round(spent, 2) for name, spent in spent_ms.most_common(8)},
        "memory_gib": peak_gib(shot.device),
    }


def graph(shot: Shot) -> Results:
    """A step beside the same as a CUDA graph (`train.cuda_graph`), on data that stays on the GPU; their losses."""
    if shot.cpu:
        return
    lr = 2.0**-13  # a graph's rates are float32
    for batch in (16, 4):
        losses = {}
        for launched in (False, True):
            model = ModelConfig(features=shot.features, channels_last=True)
            train = TrainConfig(global_batch=batch, cuda_graph=launched)
            cfg = shot.config(precision="bf16", model=model, train=train)
            forget(shot.device)
            engine = engine_of(cfg, shot.device)
            image, mask = batch_of(cfg, "none", shot.device)
            losses[launched] = [float(engine.step(image, mask, lr, 0.5, step)) for step in range(8)]
            name = f"batch {batch} {'graph' if launched else 'eager'}"
            recorded = engine.graph is not None and engine.graph.recorded
            yield f"{name} recorded", recorded
            yield f"{name} ms", milliseconds(shot, lambda: engine.step(image, mask, lr), 30)  # noqa: B023
            yield f"{name} memory gib", peak_gib(shot.device)
            yield f"{name} reserved gib", reserved_gib(shot.device)  # a graph's tensors are counted in this alone
        yield (
            f"batch {batch} losses",
            {"equal": losses[False] == losses[True], "eager": losses[False], "graph": losses[True]},
        )
