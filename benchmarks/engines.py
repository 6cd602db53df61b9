"""Row engines: memory, bytes sent and images/s of DDP and of DeepSpeed's stages; what fits into a given memory."""

import importlib.util
import os
import resource
from dataclasses import replace
from typing import Any

from benchmarks.harness import Line, Options, Variant, Work, measure
from benchmarks.step import BATCH, batch_of, loopback_bytes
from segtrain.config import Config, DeepSpeedConfig, ModelConfig

RANKS = 2
STAGES = (0, 1, 2, 3)
CONTIGUOUS = "ddp in DeepSpeed's layout"


def under(cfg: Config, zero: int | None, offload: bool = False) -> Config:
    """The config under DDP, or under DeepSpeed at a ZeRO stage."""
    if zero is None:
        return cfg
    return replace(cfg, engine="deepspeed", deepspeed=DeepSpeedConfig(zero=zero, offload=offload))  # type: ignore[arg-type]


def contiguous(cfg: Config) -> Config:
    """The config under DDP in the memory layout that DeepSpeed requires."""
    return replace(cfg, model=replace(cfg.model, channels_last=False))


def _step(world: Any, cfg: Config, size_px: int) -> Work:
    from segtrain.engines.engine import make_engine
    from segtrain.losses.loss import make_loss
    from segtrain.models.make import make_model

    engine = make_engine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), world)
    image, mask = batch_of(size_px, BATCH // world.size)

    def work() -> int:
        before = loopback_bytes()
        engine.step(image, mask, 1e-4)
        return loopback_bytes() - before

    return work


def _step_within(world: Any, cfg: Config, size_px: int, budget_gib: float) -> Work:
    """The same in a process that may allocate `budget_gib` beyond what it has after importing torch."""
    import deepspeed  # noqa: F401  imported before the budget is set

    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())  # noqa: SIM115, PTH123
    limit = int(status["VmData"].split()[0]) * 1024 + int(budget_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return _step(world, cfg, size_px)


def engines(options: Options) -> list[Line]:
    """A line per engine, then which engine can train a large network in a given memory."""
    if not importlib.util.find_spec("deepspeed"):
        return [Line("engines", "DeepSpeed is not installed: pip install -e '.[deepspeed]'", "", "", "")]
    size, features = (32, 4) if options.tiny else (128, 32)
    base = Config(model=ModelConfig(features=features))
    ways = {"ddp": base, CONTIGUOUS: contiguous(base)} | {f"zero {zero}": under(base, zero) for zero in STAGES}
    variants = [Variant(name, _step, (cfg, size), RANKS, 1) for name, cfg in ways.items()]
    results = measure(variants, options.repeat)
    lines = []
    for name, timings in results.items():
        sent = sorted(timings.values)[len(timings.values) // 2]
        ours = (
            f"{BATCH / timings.median_s:.2f} img/s, {timings.peak_gib:.2f} GiB a rank, {sent / 1e6:.0f} MB sent a step"
        )
        ratio = results["ddp"].median_s / timings.median_s
        lines.append(Line("engines", f"{name}, 2 ranks, {size} px", ours, "ddp", f"{ratio:.2f}x the images/s"))
    return lines + _budget(options)


def _budget(options: Options) -> list[Line]:
    """A wide network on small images, where weights, gradients and moments fill the memory."""
    ranks, width, budget_gib = (2, 8, 1.0) if options.tiny else (4, 96, 1.2)
    cfg = Config(model=ModelConfig(features=width, norm="group"))
    # glibc reads it when a process starts: freed memory goes back at once, so that resident memory is memory in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    lines = []
    ways = {"ddp": contiguous(cfg)} | {f"zero {zero}": under(cfg, zero) for zero in (1, 2, 3)}
    ways["zero 3 with offload"] = under(cfg, 3, offload=True)
    for name, under_engine in ways.items():
        variant = Variant(name, _step_within, (under_engine, 32, budget_gib), ranks, 1, keep=False)
        try:
            peak = f"{measure([variant], 1)[name].peak_gib:.2f} GiB resident, libraries in it"
        except RuntimeError as error:
            if "can't allocate memory" not in str(error) and "MemoryError" not in str(error):
                raise
            peak = "does not fit"
        what = f"{name}, U-Net of width {width}, {ranks} ranks, {budget_gib} GiB each beside the libraries"
        lines.append(Line("engines", what, peak, "", ""))
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return lines
