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

import psutil

from segtrain.config import Config
from segtrain.doctor import listening
from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime.launcher import env_int, port_taken

CHILD = ("-m", "segtrain.doctor.rank")
START_S = 90.0  # for torchrun and the ranks
DEFAULT_PORT = 29500  # of torchrun without --standalone


def ports() -> Iterator[Finding]:
    """Whether MASTER_PORT, or torchrun's default port, is free, and loopback connections work."""
    requested = env_int("MASTER_PORT", 0)
    port = requested or DEFAULT_PORT
    if not port_taken(port):
        yield ok("port", f"{port} is free")
    elif requested:
        yield failure("port", f"MASTER_PORT={port} is in use", "set MASTER_PORT to a free port")
    else:
        message = f"port {port} is in use; it is torchrun's default"
        yield warning("port", message, "use torchrun --standalone, or --master-port")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        yield failure(
            "loopback", f"127.0.0.1 does not answer ({error})", "ranks of one machine talk through it: bring lo up"
        )


def check(cfg: Config, ranks: int, grace_s: float, child: Sequence[str] = CHILD) -> Iterator[Finding]:
    """Start `ranks` small processes under torchrun, as a training is started; let them all-reduce, then stop them."""
    with tempfile.TemporaryDirectory(prefix="segtrain-doctor-") as folder:
        log = Path(folder, "log")
        command = [sys.executable, "-m", "segtrain.runtime.torchrun", f"--nproc-per-node={ranks}", *child]
        with log.open("w", encoding="utf-8") as output:
            torchrun = subprocess.Popen(
                [*command, folder, cfg.device],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={"OMP_NUM_THREADS": "1", **os.environ, "TMPDIR": folder},  # torchrun leaves folders there
            )
        try:
            ready = _wait(folder, "ready", ranks, START_S, torchrun)
            yield _all_reduce(ready, ranks, log)
            if len(ready) == ranks:
                yield listening.of_launch(_family(torchrun))
                sent_s = time.monotonic()  # the same in all processes of a machine
                torchrun.terminate()
                yield _signals(_wait(folder, "signalled", ranks, grace_s, None), ranks, sent_s, grace_s)
        finally:
            _end(torchrun)


def _wait(folder: str, what: str, ranks: int, limit_s: float, process: subprocess.Popen[bytes] | None) -> list[Any]:
    """The reports that the ranks wrote, as many as came in time."""
    end = time.monotonic() + limit_s
    while True:
        gone = process is not None and process.poll() is not None
        reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(folder).glob(f"{what}-*.json"))]
        if len(reports) == ranks or gone or time.monotonic() > end:
            return reports
        time.sleep(0.05)


def _all_reduce(ready: Sequence[Any], ranks: int, log: Path) -> Finding:
    if len(ready) < ranks:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if "Error" in line and "ChildFailed" not in line]
        last_error = errors[-1][:200] if errors else "no message"
        return failure(
            "all-reduce",
            f"{ranks - len(ready)} of {ranks} ranks did not finish it: {last_error}",
            "see that message; try NCCL_DEBUG=INFO, or GLOO_SOCKET_IFNAME=lo on one machine",
        )
    if wrong := [rank for rank in ready if rank["sum"] != ranks * (ranks + 1) / 2]:
        return failure("all-reduce", f"rank {wrong[0]['rank']} got {wrong[0]['sum']}", "do not train on this machine")
    took_s = max(rank["seconds"] for rank in ready)
    device = ready[0]["device"]
    return ok("all-reduce", f"{ranks} ranks on {device}: correct, 16 MiB in {1000 * took_s:.1f} ms")


def _signals(signalled: Sequence[Any], ranks: int, sent_s: float, grace_s: float) -> Finding:
    if len(signalled) < ranks:
        return failure(
            "signals",
            f"torchrun's SIGTERM did not reach {ranks - len(signalled)} of {ranks} ranks in {grace_s:.0f} s: they "
            "would be killed before they can save",
            "start torchrun directly, not from a script that does not pass signals on (use exec)",
        )
    took_s = max(rank["time_s"] for rank in signalled) - sent_s
    message = f"SIGTERM to torchrun reached {ranks} ranks in {took_s:.2f} s, of {grace_s:.0f} s before a kill"
    return ok("signals", message)


def _end(torchrun: subprocess.Popen[bytes]) -> None:
    """Leave no process behind, ranks that ignore signals included."""
    family = [process for process in _family(torchrun) if process.pid != torchrun.pid]
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


def _family(torchrun: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """torchrun and what it has started."""
    try:
        process = psutil.Process(torchrun.pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
