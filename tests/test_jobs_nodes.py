"""The nodes of a job meet, or the first one goes on without. No cluster."""

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import node, rendezvous, resources, submission
from segtrain.config import Config
from segtrain.errors import EXIT_STOPPED


def test_nodes_find_each_other(tmp_path: Path) -> None:
    first, second = (rendezvous.Rendezvous(tmp_path / "start", index, 2, f"n{index + 1}") for index in (0, 1))
    first.open()
    assert second.endpoint(0) is None
    port = rendezvous.free_port("n1")
    first.offer(0, port)
    assert second.await_endpoint(0, lambda: False) == rendezvous.Endpoint("n1", port)
    first.leave()
    assert second.await_endpoint(1, lambda: False) is None


def test_a_port_that_was_taken_in_between_is_changed(
    tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources(nodes=2))
    start = node.Start(made, "tiny", node.Node(0, 2, "n1", "7", 0), node.StopSignal())
    tried = []

    def torchrun(endpoint: rendezvous.Endpoint, attempt: int) -> int:
        tried.append(endpoint.port)
        start.rendezvous.report(attempt, 0)
        return int(endpoint.port == taken)

    with socket.socket() as stranger:
        stranger.bind(("", 0))
        stranger.listen()
        taken, free = stranger.getsockname()[1], rendezvous.free_port("n1")
        ports = iter([taken, free])
        monkeypatch.setattr(node, "free_port", lambda host: next(ports))
        monkeypatch.setattr(start, "_torchrun", torchrun)
        assert start.run() == 0
    assert tried == [taken, free]
    assert start.rendezvous.endpoint(1) == rendezvous.Endpoint("n1", free)


def test_the_launcher_does_not_wait_for_a_node_whose_task_could_not_start(tmp_path: Path, tiny: Config) -> None:
    """As SLURM 22.05 leaves the first node of a step waiting; torchrun by itself would for a quarter of an hour."""
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources(nodes=2, meet_s=2))
    start = node.Start(made, "tiny", node.Node(0, 2, "127.0.0.1", "7", 0), node.StopSignal())
    start.rendezvous.open()
    begun = time.monotonic()
    end = start._lead()
    assert time.monotonic() - begun < node.REPORT_S
    assert (end.lost, end.code) == (["node 1"], EXIT_STOPPED)
