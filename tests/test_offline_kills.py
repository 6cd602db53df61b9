"""A real queue of four runs: one refused, one whose rank is killed, and the queue itself killed and started again."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from queues import ends, entries
from trainings import assert_same, state_of

from segtrain.config import Config, to_yaml
from segtrain.run import Run

ROOT = Path(__file__).resolve().parent.parent


# Read by every Python that the queue starts: at their second event the runs `killed` and `cut` wait, once, for SIGTERM
# or their end, so that what happens to them then happens in the middle of their training, however slow this machine is.
HOLD = """
import os, pathlib, signal, sys, time

def hold(event, arguments):
    if event != "open" or not str(arguments[0]).endswith(HELD) or not arguments[2] & os.O_WRONLY:
        return
    metrics = pathlib.Path(arguments[0])
    pid = metrics.parent.with_suffix(".pid")
    if not metrics.stat().st_size or pid.exists():
        return
    asked.append(pid)
    os.kill(os.getpid(), signal.SIGALRM)  # to the main thread, while a thread beside it writes
    while not pid.exists():
        time.sleep(0.01)

def wait(*_):
    told, handler = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *given: (told.append(given), handler(*given)))
    pid = asked[-1]
    pid.with_suffix(".part").write_text(str(os.getpid()))
    pid.with_suffix(".part").rename(pid)
    while not told:
        time.sleep(0.01)

asked = []
HELD = ("/killed/metrics.jsonl", "/cut/metrics.jsonl")
signal.signal(signal.SIGALRM, wait)
sys.addaudithook(hold)
"""


@contextlib.contextmanager
def started(folder: Path, *options: str) -> "Iterator[subprocess.Popen[bytes]]":
    """The queue's process, which does not outlive a test that fails."""
    paths = os.pathsep.join((str(folder), str(ROOT)))
    with (folder / "said.txt").open("ab") as said:
        queue = subprocess.Popen(
            [sys.executable, "-m", "jobs.offline", "queue.yaml", *options], cwd=folder, stdout=said, stderr=said,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        yield queue
    finally:
        queue.kill()
        queue.wait()


def held(run: Run, queue: "subprocess.Popen[bytes]", folder: Path) -> int:
    """The process that trains a run, once it waits."""
    pid, end = run.root.with_suffix(".pid"), time.monotonic() + 300
    while not pid.exists():
        assert queue.poll() is None, (folder / "said.txt").read_text()
        assert time.monotonic() < end, (folder / "said.txt").read_text()
        time.sleep(0.01)
    return int(pid.read_text())


@pytest.mark.law("L6")
@pytest.mark.law("L8")
@pytest.mark.law("L10")
def test_a_killed_queue_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, tiny: Config, fragile: Config, unbroken: dict[int, dict[str, Any]]
) -> None:
    for name, cfg in (("fragile", replace(fragile, log_every_steps=7)), ("tiny", tiny)):
        (tmp_path / f"{name}.yaml").write_text(to_yaml(cfg))
    names = {"killed": "fragile", "cut": "fragile", "bad": "tiny", "a": "tiny"}
    runs: list[dict[str, Any]] = [{"name": name, "config": f"{base}.yaml"} for name, base in names.items()]
    runs[2]["overrides"] = {"optim.lrr": 1}
    (tmp_path / "queue.yaml").write_text(yaml.safe_dump({"name": "night", "runs": runs, "min_free_gib": 0.1}))
    (tmp_path / "sitecustomize.py").write_text(HOLD)
    night = tmp_path / "runs" / "night"
    killed, cut = Run(night / "killed"), Run(night / "cut")

    with started(tmp_path, "--when-done", "echo early > hook") as queue:
        os.kill(held(killed, queue, tmp_path), signal.SIGKILL)
        held(cut, queue, tmp_path)
        queue.kill()
        queue.wait()
    assert cut.result().state != "finished", "it was to be cut off"

    with started(tmp_path, "--at-once", "2", "--when-done", "echo bye >> hook") as queue:
        assert queue.wait(timeout=600) == 1, (tmp_path / "said.txt").read_text()
    told = ends(tmp_path)
    assert [end for end in told if end[0] in ("killed", "bad")] == [
        ("bad", "refused"), ("killed", "failed"), ("killed", "finished"),
    ]  # fmt: skip
    assert {end for end in told if end[1] == "finished"} == {(name, "finished") for name in ("killed", "cut", "a")}
    [why] = [entry["why"] for entry in entries(tmp_path, "end") if entry["how"] == "failed"]
    assert why == "rank 0 was killed by SIGKILL (by hand, or out of memory)"
    assert [entry["run"] for entry in entries(tmp_path, "start")].count("cut") == 2
    assert (night / "hook").read_text() == "bye\n"
    assert re.search(
        r"a: finished at step \d+, best DSC 0\.\d{4} \(n = 2, 95% CI ", (tmp_path / "said.txt").read_text()
    )
    report = (night / "report" / "report.md").read_text()
    assert re.search(r"\| bad \| not begun \| [^|]*queue\.yaml, runs\.\d: unknown key optim\.lrr", report)
    for run in (killed, cut):
        assert_same(state_of(run.root), unbroken[1])
    subprocess.run(["sha256sum", "-c", "results.zip.sha256"], cwd=night, check=True)
    with zipfile.ZipFile(night / "results.zip") as pack:
        assert pack.testzip() is None
        inside = {name.removeprefix("night/") for name in pack.namelist()}
    assert {f"{name}/outcome.json" for name in ("killed", "cut", "a")} <= inside
    assert {"journal.jsonl", "report/index.html", "report/results.csv", "logs/killed.log"} <= inside
