"""Run a function as every rank of a real job on this machine, over gloo or, on GPUs, NCCL.

The processes are forked from one that knows torch.
"""

import contextlib
import itertools
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from workers import WORKER

from segtrain.config import DeviceName

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "segtrain.train",
        "segtrain.commands.train",
        "segtrain.training.session",
        "segtrain.training.loop",
        "torch.utils.tensorboard",
        "tensorboard.summary.writer.event_file_writer",
        "torch._dynamo",
        "torch._inductor.compile_fx",  # DeepSpeed imports it: 1.5 s
        "torch.profiler",
        "scipy.stats",
        "pytest",
        "hypothesis",
        "PIL.GifImagePlugin",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
        "ready",
    ]
)
TIMEOUT_S = 120
# Below the ports that connections and listeners at port 0 take; each worker of pytest-xdist has 2,000 of its own.
PORTS = itertools.count(15000 + WORKER % 7 * 2000 + os.getpid() % 100 * 10)


def free_port(address: str = "127.0.0.1") -> int:
    """A port for others to listen at, which nobody else is given meanwhile."""
    for port in PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((address, port))
            return port
    raise AssertionError("no end")


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *arguments: Any,
    device: DeviceName = "cpu",
    deterministic: bool = False,
) -> list[Any]:
    """What `function(world, *arguments)`, which must be importable, returned on each rank."""
    how, port = (device, deterministic), free_port()
    pipes, processes = [], []
    for rank in range(world_size):
        here, there = FORKSERVER.Pipe(duplex=False)
        process = FORKSERVER.Process(target=_rank, args=(there, rank, world_size, port, how, function, arguments))
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    try:
        outcomes = [pipe.recv() if pipe.poll(TIMEOUT_S) else ("hung", f"no answer in {TIMEOUT_S} s") for pipe in pipes]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()
    for kind, value in outcomes:
        assert kind == "returned", value
    return [value for _, value in outcomes]


def _rank(
    pipe: Connection,
    rank: int,
    world_size: int,
    port: int,
    how: tuple[DeviceName, bool],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    from segtrain.runtime.world import join

    try:
        device, deterministic = how
        with join(device, 1, deterministic) as world:
            pipe.send(("returned", function(world, *arguments)))
    except BaseException:  # noqa: BLE001  the parent raises it
        pipe.send(("raised", traceback.format_exc()))
