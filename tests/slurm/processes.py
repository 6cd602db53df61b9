"""Processes by id and start time, ports on loopback."""

import contextlib
import os
import socket
from pathlib import Path


def descendants(pid: int) -> list[tuple[int, str | None]]:
    """Process ids below one, nearest first, with their start times."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(0), []):
            found.append((child, started(child)))
            todo.append(child)
    return found


def alive(pid: int, start: str | None) -> bool:
    """Whether pid still is the process that was meant (same start time, not a zombie)."""
    return start is not None and started(pid) == start


def started(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def free_ports(count: int) -> list[int]:
    """Free ports below the ephemeral range: an outgoing connection cannot take one in between."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])  # two that probe at the same time find others
    for port in range(low - 3000 + worker % 8 * 350 + os.getpid() % 100 * 3, low):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise SystemExit("no free ports")


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
