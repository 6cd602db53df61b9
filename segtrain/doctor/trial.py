"""A few measured steps of a config on random pixels: `python -m segtrain.doctor.trial CONFIG RANKS`.

Prints a line of JSON for each size of micro-batch (`forecast.Measurement`).
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from segtrain.config import Config, load_config
from segtrain.data.store import resolved_by_source
from segtrain.doctor.forecast import Measurement
from segtrain.errors import SegtrainError
from segtrain.runtime import cpus
from segtrain.runtime.allocator import use_allocator

if TYPE_CHECKING:
    import torch

    from segtrain.engines.engine import Engine

BUDGET_S = 12.0  # for all sizes together


def main(config: str, ranks: str) -> int:
    """Measure one of `ranks` ranks of this machine."""
    cfg = load_config(Path(config))
    with suppress(SegtrainError):  # the doctor tells it as a finding about the data
        cfg = replace(cfg, data=resolved_by_source(cfg.data))
    use_allocator(cfg.allocator, cfg.device)
    import torch

    from segtrain.runtime.world import World, be_deterministic
    from segtrain.training.build import build

    be_deterministic(cfg.deterministic)
    gpu = cfg.device != "cpu" and torch.cuda.is_available()
    torch.set_num_threads(cfg.threads_per_rank or cpus.of_rank(int(ranks)))
    share = cfg.train.global_batch // int(ranks)
    # DeepSpeed's step is the same work, and its start takes long.
    cfg = replace(cfg, engine="ddp", train=replace(cfg.train, global_batch=share))
    world = World(device=torch.device("cuda" if gpu else "cpu"))
    _, engine = build(cfg, world, begun=True)  # whatever the weights
    for measurement in on_gpu(cfg, engine, share) if gpu else on_cpu(cfg, engine, share):
        sys.stdout.write(json.dumps(asdict(measurement)) + "\n")
        sys.stdout.flush()
    return 0


def on_cpu(cfg: Config, engine: "Engine", share: int) -> Iterator[Measurement]:
    """Growing sizes, as many as the time allows; larger ones are extrapolated from them."""
    import torch

    began = time.monotonic()
    sizes = sorted({min(size, share) for size in (2, 4, 8, 16, 32, 64, share)})
    for place, size in enumerate(sizes):
        step_s, score_s = _measure(cfg, engine, size, torch.device("cpu"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield Measurement("cpu", _parameters(engine), size, True, step_s, score_s, peak)
        if place + 1 < len(sizes):
            expected_s = (2 * step_s + score_s) * sizes[place + 1] / size
            if time.monotonic() - began + expected_s > BUDGET_S:
                return


def on_gpu(cfg: Config, engine: "Engine", share: int) -> Iterator[Measurement]:
    """Halves of a rank's share of the batch, down to one that fits; then the size of the config, if that is smaller."""
    import torch

    from segtrain.runtime.out_of_memory import OutOfMemory

    device = torch.device("cuda")
    size = share
    requested = min(cfg.train.micro_batch or share, share)
    while size:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step_s, score_s = _measure(cfg, engine, size, device)
        except OutOfMemory:
            yield Measurement("cuda", _parameters(engine), size, False)
            half = (size + 1) // 2 if size > 1 else 0
            size = requested if half < requested < size else half
            continue
        peak = torch.cuda.max_memory_reserved()
        yield Measurement("cuda", _parameters(engine), size, True, step_s, score_s, peak)
        size = requested if requested < size else 0


def _parameters(engine: "Engine") -> int:
    return sum(parameter.numel() for parameter in engine.network.parameters())


def _measure(cfg: Config, engine: "Engine", size: int, device: "torch.device") -> tuple[float, float]:
    """Seconds of a step and of scoring: of each the faster of two."""
    import torch

    from segtrain.evaluation.tta import mean_probability

    px, channels = cfg.data.image_size, cfg.data.channels
    image = torch.rand(size, channels, px, px, device=device)
    layout = cfg.data.layout
    mask = (image[:, :1] > 0.9).float().repeat(1, layout.planes, 1, 1)
    if layout.ignores:
        mask[:, -1] = 0
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
