"""Ports, a real all-reduce between the ranks of this machine, signals through torchrun."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segtrain.config import Config
from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime.launcher import env_int, port_taken

CHILD = ("-m", "segtrain.doctor.rank")
START_S = 90.0  # for torchrun and the ranks
DEFAULT_PORT = 29500  # of torchrun without --standalone


def ports() -> Iterator[Finding]:
    """Whether the port that the environment names, or torchrun's own, is free, and the machine can talk to itself."""
    asked = env_int("MASTER_PORT", 0)
    if port_taken(asked or DEFAULT_PORT):
        said = f"port {asked or DEFAULT_PORT} is taken"
        if asked:
            yield failure("port", f"{said}, and MASTER_PORT names it", "set MASTER_PORT to a free one")
        else:
            yield warning(
                "port", f"{said}; torchrun takes it by default", "use torchrun --standalone, or --master-port"
            )
    else:
        yield ok("port", f"{asked or DEFAULT_PORT} is free")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        yield failure(
            "loopback", f"127.0.0.1 does not answer ({error})", "ranks of one machine talk through it: bring lo up"
        )


def check(cfg: Config, ranks: int, grace_s: float, child: Sequence[str] = CHILD) -> Iterator[Finding]:
    """Start `ranks` small processes under torchrun, as a training is started; have them add up, then stop them."""
    with tempfile.TemporaryDirectory(prefix="segtrain-doctor-") as folder:
        log = Path(folder, "log")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *child]
        with log.open("w") as said:
            torchrun = subprocess.Popen(
                [*command, folder, cfg.device], stdout=said, stderr=said, start_new_session=True,
                env={"OMP_NUM_THREADS": "1", **os.environ, "TMPDIR": folder},  # torchrun leaves folders there
            )  # fmt: skip
        try:
            ready = _wait(folder, "ready", ranks, START_S, torchrun)
            yield _all_reduce(ready, ranks, log)
            if len(ready) == ranks:
                asked_s = time.time()
                torchrun.terminate()
                yield _signals(_wait(folder, "told", ranks, grace_s, None), ranks, asked_s, grace_s)
        finally:
            _end(torchrun)


def _wait(folder: str, what: str, ranks: int, limit_s: float, process: subprocess.Popen[bytes] | None) -> list[Any]:
    """What the ranks wrote down, as far as they did in time."""
    end = time.monotonic() + limit_s
    while True:
        gone = process is not None and process.poll() is not None
        found = [json.loads(file.read_text()) for file in sorted(Path(folder).glob(f"{what}-*.json"))]
        if len(found) == ranks or gone or time.monotonic() > end:
            return found
        time.sleep(0.05)


def _all_reduce(ready: Sequence[Any], ranks: int, log: Path) -> Finding:
    if len(ready) < ranks:
        words = [line for line in log.read_text().splitlines() if "Error" in line and "ChildFailed" not in line]
        word = words[-1][:200] if words else "no word"
        return failure(
            "all-reduce", f"{ranks - len(ready)} of {ranks} ranks did not get through: {word}",
            "see that message; try NCCL_DEBUG=INFO, or GLOO_SOCKET_IFNAME=lo on one machine",
        )  # fmt: skip
    if wrong := [rank for rank in ready if rank["sum"] != ranks * (ranks + 1) / 2]:
        return failure("all-reduce", f"rank {wrong[0]['rank']} got {wrong[0]['sum']}", "do not train on this machine")
    took, device = max(rank["seconds"] for rank in ready), ready[0]["device"]
    return ok("all-reduce", f"{ranks} ranks on {device}: right, 16 MiB in {1000 * took:.1f} ms")


def _signals(told: Sequence[Any], ranks: int, asked_s: float, grace_s: float) -> Finding:
    if len(told) < ranks:
        return failure(
            "signals",
            f"{ranks - len(told)} of {ranks} ranks heard nothing of torchrun's SIGTERM in {grace_s:.0f} s: they could "
            "not save before they are killed",
            "start torchrun itself, not a script that keeps signals to itself (use exec)",
        )
    took_s = max(rank["time"] for rank in told) - asked_s
    return ok("signals", f"SIGTERM to torchrun reached {ranks} ranks in {took_s:.2f} s, {grace_s:.0f} s are given")


def _end(torchrun: subprocess.Popen[bytes]) -> None:
    """Leave no process behind, ranks that ignore signals included."""
    import psutil

    try:
        family = psutil.Process(torchrun.pid).children(recursive=True)
    except psutil.Error:
        family = []
    try:
        torchrun.wait(5 if not family else 1)
    except subprocess.TimeoutExpired:
        torchrun.kill()
        torchrun.wait()
    for process in family:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(family, timeout=5)
