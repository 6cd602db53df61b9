"""Row checkpoint: what saving the reference network with Adam's moments costs (hold-up of the loop, writing, verifying,
restoring), and what it costs two ranks to agree at each step whether to stop."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import Line, Options, Variant, Work, measure
from segtrain.config import Config
from segtrain.engines.engine import make_engine
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.run import Run
from segtrain.run.checkpoint import Saver, Snapshot, newest, read
from segtrain.runtime.world import World

AGREEMENTS = 100


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def save_and_load(folder: Path, repeat: int) -> dict[str, float]:
    """Medians in ms, and the size of a checkpoint in MiB."""
    cfg = Config()
    engine = make_engine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), World())
    engine.step(torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64), 1e-4)
    times: dict[str, list[float]] = {name: [] for name in ("hold-up", "write", "verify and read", "restore")}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run = Run(Path(scratch) / "run")
        run.checkpoints.mkdir(parents=True)
        saver = Saver(run, keep=2)
        for step in range(repeat):
            started = time.perf_counter()
            model, moments, extra = engine.snapshot()
            saver.save(step, Snapshot(model, moments, {"step": step, "engine": extra}))
            times["hold-up"].append(time.perf_counter() - started)
            times["write"].append(seconds(saver.failed))
            name = newest(run)
            assert name is not None
            started = time.perf_counter()
            loaded = read(run.checkpoints / name)
            times["verify and read"].append(time.perf_counter() - started)
            started = time.perf_counter()
            engine.restore(loaded.model, loaded.optimizer, loaded.state["engine"])
            times["restore"].append(time.perf_counter() - started)
        saver.close()
        size = sum(f.stat().st_size for f in (run.checkpoints / str(newest(run))).iterdir())
    return {f"{name} ms": 1000 * statistics.median(values) for name, values in times.items()} | {"MiB": size / 2**20}


def _agree(world: World) -> Work:
    def work() -> None:
        for _ in range(AGREEMENTS):
            world.largest(0, 0)

    return work


def plain_save_ms(folder: Path, repeat: int) -> float:
    """Hold-up of `torch.save` of network and optimiser between two steps, the usual way."""
    cfg = Config()
    network = make_model(cfg.model, 0)
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [network.state_dict(), optimizer.state_dict()]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "plain.pt"
        return 1000 * statistics.median(seconds(lambda: torch.save(states, file)) for _ in range(repeat))


def checkpoint(options: Options) -> list[Line]:
    """The row of the table."""
    repeat = 2 if options.tiny else 2 * options.repeat + 1
    saved, plain_ms = save_and_load(options.folder, repeat), plain_save_ms(options.folder, repeat)
    agreement = measure([Variant("agree", _agree, ranks=2, threads=1)], repeat)["agree"]
    agreement_ms = 1000 * agreement.median_s / AGREEMENTS
    hold_up, restored = saved["hold-up ms"], saved["verify and read ms"] + saved["restore ms"]
    return [
        Line("checkpoint", f"hold-up of the loop, {saved['MiB']:.0f} MiB", f"{hold_up:.0f} ms",
             f"torch.save: {plain_ms:.0f} ms", f"{hold_up:.0f} ms", "under 100 ms", hold_up < 100),
        Line("checkpoint", "written and synced in the background", f"{saved['write ms']:.0f} ms", "", ""),
        Line("checkpoint", "verified, read and restored", f"{restored:.0f} ms", "", f"{restored:.0f} ms",
             "under 1000 ms", restored < 1000),
        Line("checkpoint", "2 ranks agreeing whether to stop, at each step", f"{agreement_ms:.2f} ms", "", ""),
    ]  # fmt: skip
