"""What saving costs: hold-up of the loop, writing, verifying, restoring, for the reference network with Adam's moments;
and what it costs two ranks to agree at each step whether to stop."""

import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.harness import Line, Options
from segtrain.checkpoint import Saver, Snapshot, newest, read
from segtrain.config import Config
from segtrain.dist import World, join
from segtrain.engines import make_engine
from segtrain.losses import make_loss
from segtrain.models import make_model
from segtrain.run import Run


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def save_and_load(repeat: int) -> dict[str, float]:
    """Medians in ms, and MiB."""
    cfg = Config()
    engine = make_engine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), World())
    engine.step(torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64), 1e-4)
    times: dict[str, list[float]] = {name: [] for name in ("hold-up", "write", "verify and read", "restore")}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        run = Run(Path(folder) / "run")
        run.checkpoints.mkdir(parents=True)
        saver = Saver(run, keep=2)
        for step in range(repeat):

            def save(step: int = step) -> None:
                model, moments, extra = engine.snapshot()
                saver.save(step, Snapshot(model, moments, {"step": step, "engine": extra}))

            times["hold-up"].append(seconds(save))
            times["write"].append(seconds(saver.wait))
            name = newest(run)
            assert name is not None
            times["verify and read"].append(seconds(lambda name=name: read(run.checkpoints / name)))
            found = read(run.checkpoints / name)
            times["restore"].append(
                seconds(lambda found=found: engine.restore(found.model, found.optimizer, found.state["engine"]))
            )
        size = sum(f.stat().st_size for f in (run.checkpoints / name).iterdir())
        saver.close()
    return {f"{name} ms": 1000 * statistics.median(values) for name, values in times.items()} | {"MiB": size / 2**20}


def agree(rank: int, port: int, repeat: int, pipe: Connection) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    with join("cpu", 1) as world:
        world.largest(0, 0)
        pipe.send([seconds(lambda: world.largest(0, 0)) for _ in range(100 * repeat)])


def agreement_ms(repeat: int) -> float:
    """Median of one agreement between two ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    ranks = [context.Process(target=agree, args=(rank, port, repeat, there)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = here.recv()
    for process in ranks:
        process.join()
    return 1000 * statistics.median(found)


def plain_save_ms(folder: Path, repeat: int) -> float:
    """Hold-up of `torch.save` of network and optimiser between two steps, the usual way."""
    cfg = Config()
    network = make_model(cfg.model, 0)
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [network.state_dict(), optimizer.state_dict()]
    return 1000 * statistics.median(seconds(lambda: torch.save(states, folder / "plain.pt")) for _ in range(repeat))


def checkpoint(options: Options) -> list[Line]:
    """The row of the table."""
    repeat = 2 if options.tiny else 2 * options.repeat + 1
    found, plain_ms = save_and_load(repeat), plain_save_ms(options.folder, repeat)
    held, restored = found["hold-up ms"], found["verify and read ms"] + found["restore ms"]
    return [
        Line("checkpoint", f"hold-up of the loop, {found['MiB']:.0f} MiB", f"{held:.0f} ms",
             f"torch.save: {plain_ms:.0f} ms", f"{held:.0f} ms", "under 100 ms", held < 100),
        Line("checkpoint", "written and synced in the background", f"{found['write ms']:.0f} ms", "", ""),
        Line("checkpoint", "verified, read and restored", f"{restored:.0f} ms", "", f"{restored:.0f} ms",
             "under 1000 ms", restored < 1000),
        Line("checkpoint", "2 ranks agreeing whether to stop, at each step", f"{agreement_ms(repeat):.2f} ms", "", ""),
    ]  # fmt: skip
