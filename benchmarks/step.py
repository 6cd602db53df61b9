"""Rows step, scale and memory: forward pass, backward pass and update of the reference network."""

from typing import Any

from benchmarks.data import config
from benchmarks.harness import Line, Options, Variant, Work, at_least, measure, peak_gib
from segtrain.config import Config, ModelConfig, Precision
from segtrain.data.prepare import ensure_store

BATCH = 16


def batch_of(size_px: int, samples: int = BATCH) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(samples, 3, size_px, size_px, generator=generator)
    return image, (image[:, :1] > 1.3).float()


def engine_step(
    world: Any, size_px: int, features: int, precision: Precision = "fp32", alone: bool = False, compiled: bool = False
) -> Work:
    """One step of our engine on this rank's share; with `alone`, nothing is sent between ranks."""
    from segtrain.engines.engine import make_engine
    from segtrain.losses.loss import make_loss
    from segtrain.models.make import make_model
    from segtrain.runtime.world import World

    cfg = Config(model=ModelConfig(features=features, compile=compiled), precision=precision)
    engine = make_engine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), World() if alone else world)
    image, mask = (tensor.to(world.device) for tensor in batch_of(size_px, BATCH // world.size))

    def work() -> int:
        before = loopback_bytes()
        engine.step(image, mask, 1e-4)
        return loopback_bytes() - before

    return work


def loopback_bytes() -> int:
    from pathlib import Path

    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def _reference_step(world: object, size_px: int, features: int) -> Work:
    from benchmarks.reference import Training

    training = Training(features)
    image, mask = batch_of(size_px)
    return lambda: training.step(image, mask)


def _matmul(world: object) -> Work:
    import torch

    a = torch.randn(2048, 2048)

    def work() -> float:
        for _ in range(10):
            torch.mm(a, a)
        return 10 * 2 * 2048.0**3

    return work


def _convolution(world: object) -> Work:
    import torch

    convolution = torch.nn.Conv2d(128, 128, 3, padding=1, bias=False)
    convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    x = torch.randn(BATCH, 128, 64, 64).contiguous(memory_format=torch.channels_last)

    def work() -> float:
        with torch.inference_mode():
            for _ in range(5):
                convolution(x)
        return 5 * 2 * 9 * 128 * 128 * 64 * 64.0 * BATCH

    return work


def step_flop(size_px: int, features: int) -> int:
    """Floating point operations of forward and backward pass for one image, counted by torch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segtrain.models.make import make_model

    network = make_model(ModelConfig(features=features), 0)
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, size_px, size_px)).sum().backward()
    return int(counter.get_total_flops())


def step(options: Options) -> list[Line]:
    """Images/s compared with the eager reference step; GFLOP/s compared with the machine's own peaks."""
    features = 4 if options.tiny else 32
    lines = []
    for size in (32,) if options.tiny else (256, 128):
        timings = measure(
            [
                Variant("ours", engine_step, (size, features)),
                Variant("system", engine_step, (size, features), keep=False),
                Variant("reference", _reference_step, (size, features), keep=False),
                Variant("bf16", engine_step, (size, features, "bf16")),
                Variant("matmul", _matmul),
                Variant("convolution", _convolution),
            ],
            options.repeat,
        )
        rate = {n: BATCH / timings[n].median_s for n in ("ours", "system", "reference", "bf16")}
        peak = {n: timings[n].values[0] / timings[n].median_s / 1e9 for n in ("matmul", "convolution")}
        gflops = step_flop(size, features) * rate["ours"] / 1e9
        what, theirs = f"{size} px, batch {BATCH}", f"{rate['reference']:.2f} img/s"
        share = gflops / peak["matmul"]
        lines += [
            at_least("step", what, f"{rate['ours']:.2f} img/s", theirs, rate["ours"] / rate["reference"], 1.5),
            Line("step", f"{what}, allocator=system", f"{rate['system']:.2f} img/s", theirs,
                 f"{rate['system'] / rate['reference']:.2f}x"),
            Line("step", f"{what}, precision=bf16", f"{rate['bf16']:.2f} img/s", theirs,
                 f"{rate['bf16'] / rate['reference']:.2f}x"),
            Line("step", f"{what}, of the matrix-product rate", f"{gflops:.0f} GFLOP/s",
                 f"{peak['matmul']:.0f} GFLOP/s", f"{share:.0%}", "at least 75%", share >= 0.75),
            Line("step", f"{what}, of the rate of one convolution forward", f"{gflops:.0f} GFLOP/s",
                 f"{peak['convolution']:.0f} GFLOP/s", f"{gflops / peak['convolution']:.0%}"),
        ]  # fmt: skip
    return lines


def scale(options: Options) -> list[Line]:
    """Ranks at a fixed global batch; bytes over the loopback device, and the least that a sum of gradients needs."""
    size, features = (32, 4) if options.tiny else (128, 32)
    timings = measure(
        [
            Variant("1x2", engine_step, (size, features)),
            Variant("2x1", engine_step, (size, features), ranks=2, threads=1),
            Variant("2 alone", engine_step, (size, features, "fp32", True), ranks=2, threads=1),
        ],
        options.repeat,
    )
    from segtrain.models.make import make_model

    parameters = sum(p.numel() for p in make_model(ModelConfig(features=features), 0).parameters())
    least = 2 * 4 * parameters  # two ranks; each sends half of its gradients and half of the sums
    sent = sorted(timings["2x1"].values)[len(timings["2x1"].values) // 2]
    rate = {name: BATCH / t.median_s for name, t in timings.items()}
    exposed = 1 - timings["2 alone"].median_s / timings["2x1"].median_s
    return [
        at_least("scale", f"2 ranks x 1 thread to 1 rank x 2, {size} px", f"{rate['2x1']:.2f} img/s",
                 f"{rate['1x2']:.2f} img/s", rate["2x1"] / rate["1x2"], 1.0),
        Line("scale", "bytes sent per step by 2 ranks, to the least possible", f"{sent / 1e6:.1f} MB",
             f"{least / 1e6:.1f} MB", f"{sent / least:.2f}x"),
        Line("scale", "step time that 2 ranks spend on what is sent, not hidden", f"{rate['2x1']:.2f} img/s",
             f"{rate['2 alone']:.2f} img/s", f"{exposed:.1%}"),
    ]  # fmt: skip


def _feed_memory(world: object, cfg: Config, patients: int, steps: int) -> Work:
    from segtrain.data.feed import Feed
    from segtrain.data.order import Order

    store = ensure_store(cfg.data)
    chosen = tuple(sorted(store.patients))[:patients]
    order = Order([store.patients[p].areas for p in chosen], "lesion", BATCH, 0)

    def work() -> float:
        feed = Feed(store, chosen, order, cfg.data, 0, 1)
        for number in range(steps):
            feed.gather(number)
        return 1024 * peak_gib()

    return work


def memory(options: Options) -> list[Line]:
    """Peak resident memory of a step, its parts, and whether it grows with the number of patients."""
    size, features = (32, 4) if options.tiny else (256, 32)
    timings = measure(
        [
            Variant("ours", engine_step, (size, features)),
            Variant("system", engine_step, (size, features), keep=False),
            Variant("reference", _reference_step, (size, features), keep=False),
            Variant("sizes", _sizes, (size, features), keep=False),
        ],
        1,
    )
    peak = {name: t.peak_gib for name, t in timings.items()}
    parameters_gib, activations_gib = timings["sizes"].values[0]
    needed = parameters_gib + activations_gib
    cfg = config(options, 32 if options.tiny else 256)
    patients = len(ensure_store(cfg.data).patients)
    few = measure([Variant("few", _feed_memory, (cfg, 8, 60), threads=1)], 1)["few"].values[0]
    many = measure([Variant("many", _feed_memory, (cfg, patients, 60), threads=1)], 1)["many"].values[0]
    theirs = f"{peak['reference']:.2f} GiB"
    return [
        Line("memory", f"{name}, {size} px, batch {BATCH}", f"{peak[key]:.2f} GiB", theirs,
             f"{peak[key] / peak['reference']:.2f}x", "below the reference's", peak[key] < peak["reference"])
        for name, key in (("allocator=keep", "ours"), ("allocator=system", "system"))
    ] + [
        Line("memory", "allocator=keep to parameters, gradients, moments and saved activations",
             f"{peak['ours']:.2f} GiB", f"{needed:.2f} GiB", f"{peak['ours'] / needed:.2f}x"),
        Line("memory", f"feeding from {patients} patients to feeding from 8", f"{many:.0f} MiB", f"{few:.0f} MiB",
             f"{many / few:.2f}x", "does not grow (1.05x)", many < 1.05 * few),
    ]  # fmt: skip


def _sizes(world: object, size_px: int, features: int) -> Work:
    """GiB of parameters with gradients and two moments, and of what autograd saves for the backward pass."""
    from torch.profiler import ProfilerActivity, profile

    from segtrain.models.make import make_model

    def work() -> tuple[float, float]:
        network = make_model(ModelConfig(features=features), 0)
        image = batch_of(size_px)[0]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as taken:
            logits = network(image)
        bytes_in_use = sum(event.self_cpu_memory_usage for event in taken.key_averages())
        saved_bytes = bytes_in_use - logits.untyped_storage().nbytes() + image.untyped_storage().nbytes()
        parameters = sum(p.numel() for p in network.parameters())
        return 4 * 4 * parameters / 2**30, saved_bytes / 2**30

    return work
