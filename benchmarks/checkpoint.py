"""What saving costs: hold-up of the loop, writing, verifying, restoring, for the reference network with Adam's moments;
and what it costs two ranks to agree at each step whether to stop.

    python benchmarks/checkpoint.py [--repeat 7] [--json FILE]
"""

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from segtrain import checkpoint
from segtrain.checkpoint import Saver, Snapshot
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
            name = checkpoint.newest(run)
            assert name is not None
            times["verify and read"].append(seconds(lambda name=name: checkpoint.read(run.checkpoints / name)))
            found = checkpoint.read(run.checkpoints / name)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = save_and_load(arguments.repeat) | {"agreement of 2 ranks ms": agreement_ms(arguments.repeat)}
    for name, value in found.items():
        print(f"{name:<26}{value:10.2f}")
    if arguments.json:
        machine = {"cores": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({"machine": machine, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
