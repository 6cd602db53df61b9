"""A few steps of the config on made-up pixels in a process of its own, measured: `python -m segtrain.doctor.trial`.

Prints a line of JSON a size of micro-batch: seconds of a step and of scoring as many slices, peak memory.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtrain.config import Config, load_config
from segtrain.runtime.allocator import use_allocator

if TYPE_CHECKING:
    import torch

    from segtrain.engines import Engine

BUDGET_S = 12.0  # for all sizes together


def main(config: str, ranks: str) -> int:
    """Measure one of `ranks` ranks of this machine."""
    cfg = load_config(Path(config))
    use_allocator(cfg.allocator, cfg.device)
    import os

    import torch

    from segtrain.runtime.world import World, be_deterministic
    from segtrain.training.build import build

    be_deterministic(cfg.deterministic)
    gpu = cfg.device != "cpu" and torch.cuda.is_available()
    torch.set_num_threads(cfg.threads_per_rank or max(1, len(os.sched_getaffinity(0)) // int(ranks)))
    share = cfg.train.global_batch // int(ranks)
    # DeepSpeed's step is the same work; its start is not worth waiting for here.
    cfg = replace(cfg, engine="ddp", train=replace(cfg.train, global_batch=share))
    world = World(device=torch.device("cuda" if gpu else "cpu"))
    _, engine = build(cfg, world, begun=True)  # from whatever weights
    told = {"device": "cuda" if gpu else "cpu", "parameters": sum(p.numel() for p in engine.network.parameters())}
    for line in on_gpu(cfg, engine, share) if gpu else on_cpu(cfg, engine, share):
        sys.stdout.write(json.dumps({**told, **line}) + "\n")
        sys.stdout.flush()
    return 0


def on_cpu(cfg: Config, engine: "Engine", share: int) -> Iterator[dict[str, Any]]:
    """Growing sizes, as long as the time suffices: what is beyond can be told from them."""
    import torch

    began = time.monotonic()
    sizes = sorted({min(size, share) for size in (2, 4, 8, 16, 32, 64, share)})
    for place, size in enumerate(sizes):
        step_s, score_s = _measure(cfg, engine, size, torch.device("cpu"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield {"size": size, "step_s": step_s, "score_s": score_s, "peak_bytes": peak, "fits": True}
        if place + 1 < len(sizes):
            expected_s = (2 * step_s + score_s) * sizes[place + 1] / size
            if time.monotonic() - began + expected_s > BUDGET_S:
                return


def on_gpu(cfg: Config, engine: "Engine", share: int) -> Iterator[dict[str, Any]]:
    """From a rank's whole share of the batch down to what fits; then what the config asks for, if that is less."""
    import torch

    from segtrain.engines.out_of_memory import OutOfMemory

    device, size = torch.device("cuda"), share
    asked = min(cfg.train.micro_batch or share, share)
    while size:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step_s, score_s = _measure(cfg, engine, size, device)
        except OutOfMemory:
            yield {"size": size, "fits": False}
            half = (size + 1) // 2 if size > 1 else 0
            size = asked if half < asked < size else half
            continue
        peak = torch.cuda.max_memory_reserved()
        yield {"size": size, "step_s": step_s, "score_s": score_s, "peak_bytes": peak, "fits": True}
        size = asked if asked < size else 0


def _measure(cfg: Config, engine: "Engine", size: int, device: "torch.device") -> tuple[float, float]:
    """Seconds of a step and of scoring, the faster of two each."""
    import torch

    from segtrain.evaluation.tta import mean_probability

    px, channels = cfg.data.image_size, cfg.data.channels
    image = torch.rand(size, channels, px, px, device=device)
    mask = (image[:, :1] > 0.9).float()
    engine.micro_batch = size

    def step() -> None:
        engine.step(image, mask, 0.0)

    def score() -> None:
        with torch.inference_mode():
            mean_probability(engine.logits, image, engine.logits(image), cfg.evaluate.tta)

    times = []
    for work in (step, score):
        best = float("inf")
        for _ in range(2):
            began = time.monotonic()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.monotonic() - began)
        times.append(best)
    return times[0], times[1]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
