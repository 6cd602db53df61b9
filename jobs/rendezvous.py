"""Rendezvous and heartbeats of the nodes of one start, through small files in a shared folder."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from segtrain.runtime import files
from segtrain.runtime.launcher import port_taken
from segtrain.runtime.outbox import patiently

PORTS = range(20_000, 30_000)  # below the ephemeral ports: no outgoing connection takes one in between
BEAT_EVERY_S = 5.0
SILENT_S = 45.0
STALLED_S = 10.0  # between two calls of silent(): this node itself stood still


@dataclass(frozen=True)
class Endpoint:
    """Where the first node listens."""

    host: str
    port: int


def free_port(host: str) -> int:
    """A port that nobody listens at, on any address of this host."""
    for port in random.SystemRandom().sample(PORTS, 200):
        if not port_taken(port):
            return port
    raise OSError(f"no free port on {host} among 200 of {PORTS.start} to {PORTS.stop - 1}")


@dataclass
class Rendezvous:
    """One start of a job, as node `index` of `nodes` sees it."""

    folder: Path
    index: int
    nodes: int
    host: str
    meet_s: float = float("inf")  # that the other nodes get to begin
    _begun_at: float = float("inf")
    _beats: int = 0
    _beat_at: float = float("-inf")
    _beat_fails: bool = False
    _checked_at: float = float("inf")
    _heard: dict[int, tuple[str, float]] = field(default_factory=dict)  # node: newest beat, first seen when

    def open(self) -> None:
        """Make the folder. The time begins in which the other nodes have to come."""
        patiently(self.folder, partial(files.make_folder, self.folder))
        self._begun_at = time.monotonic()

    def offer(self, attempt: int, port: int) -> Endpoint:
        """Publish where this node, the first, listens."""
        _write(self._endpoint(attempt), json.dumps([self.host, port]))
        return Endpoint(self.host, port)

    def endpoint(self, attempt: int) -> Endpoint | None:
        """Where the first node listens, None before it has published that."""
        try:
            return Endpoint(*json.loads(self._endpoint(attempt).read_text(encoding="utf-8")))
        except OSError:
            return None

    def await_endpoint(self, attempt: int, give_up: Callable[[], bool]) -> Endpoint | None:
        """The same, waited for; None when the first node has left or is gone, or `give_up` says so."""
        while (endpoint := self.endpoint(attempt)) is None and not give_up():
            if self.over() or 0 in self.silent():
                return None
            self.beat()
            time.sleep(0.2)
        return endpoint

    def leave(self) -> None:
        """Publish that the first node has made its last attempt."""
        _write(self.folder / "over", "")

    def over(self) -> bool:
        return (self.folder / "over").exists()

    def report(self, attempt: int, code: int) -> None:
        """Publish that this node's launcher has ended."""
        _write(self._report(attempt, self.index), str(code))

    def missing(self, attempt: int, patience_s: float, give_up: Callable[[], bool] = lambda: False) -> list[int]:
        """Nodes whose launchers have not ended after that long; those that are silent are not waited for.

        Empty where `give_up` says that there is no time to wait.
        """
        end = time.monotonic() + patience_s
        while not give_up():
            missing = [n for n in range(self.nodes) if n != self.index and not self._report(attempt, n).exists()]
            if set(missing) <= {*self.silent(), *self.absent()} or time.monotonic() > end:
                return missing
            self.beat()
            time.sleep(0.2)
        return []

    def beat(self) -> None:
        """Show that this node is alive, if a beat is due. By a file's content, since NFS caches the ages of files."""
        if self.nodes > 1 and time.monotonic() - self._beat_at >= BEAT_EVERY_S:
            self._beat_at = time.monotonic()
            self._beats += 1
            try:
                self._beat(self.index).write_text(str(self._beats), encoding="utf-8")
            except OSError:  # the next may succeed
                self._beat_fails = True
            else:
                self._beat_fails = False

    def silent(self) -> list[int]:
        """Nodes whose heartbeat has not changed for so long that they are gone.

        If this node itself stood still, or cannot beat, so may it be with all, in a file system that stalls, is full or
        read-only: they get their time anew.
        """
        now = time.monotonic()
        stalled = now - self._checked_at > STALLED_S
        self._checked_at = now
        if stalled or self._beat_fails:
            self._heard = {node: (beat, now) for node, (beat, _) in self._heard.items()}
            self._begun_at = now
        for node in range(self.nodes):
            if node == self.index:
                continue
            try:
                beat = self._beat(node).read_text(encoding="utf-8")
            except OSError:
                continue
            if self._heard.get(node, ("", now))[0] != beat:
                self._heard[node] = beat, now
        return [node for node, (_, seen) in self._heard.items() if now - seen > SILENT_S]

    def absent(self) -> list[int]:
        """Nodes that had their time to begin, and of which `silent` never heard: SLURM could not start their task."""
        if time.monotonic() - self._begun_at <= self.meet_s:
            return []
        return [node for node in range(self.nodes) if node != self.index and node not in self._heard]

    def _endpoint(self, attempt: int) -> Path:
        return self.folder / f"endpoint-{attempt}.json"

    def _report(self, attempt: int, node: int) -> Path:
        return self.folder / f"node-{node}.{attempt}"

    def _beat(self, node: int) -> Path:
        return self.folder / f"beat-{node}"


def _write(file: Path, text: str) -> None:
    patiently(file, partial(files.write_text, file, text))
