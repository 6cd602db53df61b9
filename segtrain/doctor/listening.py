"""Where this user's processes listen: who reaches the port of a launcher may run code as the user."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from segtrain.doctor.finding import Finding, ok, warning
from segtrain.runtime.addresses import Listener, listeners

# Programs, and modules of python -m, by whose ports code may be run or results be read; a name or its beginning.
PROGRAMS = ("torch.distributed.", "torchrun", "deepspeed", "jupyter", "tensorboard", "segtrain", "jobs.")
REMEDY = (
    "let only this machine in: segtrain train --nproc N for torchrun, --host 127.0.0.1 for servers; docs/security.md"
)
SHOWN = 3


def of_launch(processes: Sequence[psutil.Process]) -> Finding:
    """Where the ranks and their launcher listen, which the doctor has started as `segtrain train --nproc` does."""
    here = sorted(listeners(processes))
    if is_open := [listener for listener in here if not listener.is_local]:
        return warning(
            "listening", f"ranks listen at {_places(is_open)}", "report it; docs/security.md says what to do"
        )
    places = ", ".join(sorted({listener.address for listener in here})) or "no port"
    return ok(
        "listening", f"ranks and their launcher: {places}; under plain torchrun all interfaces (docs/security.md)"
    )


def check() -> Iterator[Finding]:
    """Programs of this user that the network reaches."""
    for process in psutil.process_iter(["uids", "cmdline"]):
        program = _program(process.info["cmdline"] or [])
        if not process.info["uids"] or process.info["uids"].real != os.getuid() or not program.startswith(PROGRAMS):
            continue
        if is_open := sorted(listener for listener in listeners([process]) if not listener.is_local):
            yield warning("open port", f"{program}, process {process.pid}, listens at {_places(is_open)}", REMEDY)


def _program(words: Sequence[str]) -> str:
    """The module, script or program that a command line runs."""
    if "-m" in words[1:3]:
        return "".join(words[words.index("-m") + 1 :][:1])
    is_python = words and Path(words[0]).name.startswith("python")
    return Path("".join(words[1:2] if is_python else words[:1])).name


def _places(open_ones: Sequence[Listener]) -> str:
    more = f" and {len(open_ones) - SHOWN} more" if len(open_ones) > SHOWN else ""
    return ", ".join(_place(listener) for listener in open_ones[:SHOWN]) + more


def _place(listener: Listener) -> str:
    if listener.address in ("0.0.0.0", "::"):
        return f"port {listener.port} of all interfaces"
    return f"{listener.address} port {listener.port}"
