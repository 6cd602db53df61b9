"""A real queue of five runs: one refused, one whose rank is killed, and the queue itself killed and started again."""

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from queues import ends, entries
from trainings import assert_same, state_of

from segtrain.config import Config
from segtrain.loading import to_yaml
from segtrain.run import Run

ROOT = Path(__file__).resolve().parent.parent


def start(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.offline", "queue.yaml", *options], cwd=folder, stdout=said, stderr=said,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def wait_for(what: Callable[[], object], queue: "subprocess.Popen[bytes]", folder: Path) -> None:
    end = time.monotonic() + 120
    while not what():
        assert queue.poll() is None, (folder / "said.txt").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)


def ranks(config: str) -> list[int]:
    """The processes that train with a config's file of that name, their launcher apart."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_text().split("\0")
        except OSError:  # it has ended
            continue
        if (
            "jobs.rank" in words
            and "torch.distributed.run" not in words
            and any(word.endswith(config) for word in words)
        ):
            found.append(int(file.parent.name))
    return found


@pytest.mark.law("L6")
@pytest.mark.law("L8")
@pytest.mark.law("L10")
def test_a_killed_queue_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, tiny: Config, fragile: Config, unbroken: dict[int, dict[str, Any]]
) -> None:
    for name, cfg in (("fragile", replace(fragile, log_every_steps=7)), ("tiny", tiny)):
        (tmp_path / f"{name}.yaml").write_text(to_yaml(cfg))
    names = {"killed": "fragile", "cut": "fragile", "bad": "tiny", "a": "tiny", "b": "tiny"}
    runs: list[dict[str, Any]] = [{"name": name, "config": f"{base}.yaml"} for name, base in names.items()]
    runs[2]["overrides"] = {"optim.lrr": 1}
    (tmp_path / "queue.yaml").write_text(yaml.safe_dump({"name": "night", "runs": runs, "min_free_gib": 0.1}))
    night = tmp_path / "runs" / "night"
    killed, cut = Run(night / "killed"), Run(night / "cut")

    queue = start(tmp_path, "--when-done", "echo early > hook")
    wait_for(killed.metrics.exists, queue, tmp_path)
    [rank] = ranks(f"{tmp_path.name}/runs/.jobs/night/001/configs/killed.yaml")
    os.kill(rank, signal.SIGKILL)
    wait_for(cut.metrics.exists, queue, tmp_path)
    queue.kill()
    queue.wait()
    assert cut.result()["state"] != "finished", "it was to be cut off"

    queue = start(tmp_path, "--at-once", "2", "--when-done", "echo bye >> hook")
    assert queue.wait(timeout=500) == 1, (tmp_path / "said.txt").read_text()
    told = ends(tmp_path)
    assert [end for end in told if end[0] in ("killed", "bad")] == [
        ("bad", "refused"), ("killed", "failed"), ("killed", "finished"),
    ]  # fmt: skip
    assert {end for end in told if end[1] == "finished"} == {(name, "finished") for name in ("killed", "cut", "a", "b")}
    [why] = [entry["why"] for entry in entries(tmp_path, "end") if entry["how"] == "failed"]
    assert why == "rank 0 was killed by SIGKILL (by hand, or for want of memory)"
    assert [entry["run"] for entry in entries(tmp_path, "start")].count("cut") == 2
    assert (night / "hook").read_text() == "bye\n"
    assert re.search(
        r"a: finished at step \d+, best DSC 0\.\d{4} \(n = 2, 95% CI ", (tmp_path / "said.txt").read_text()
    )
    for run in (killed, cut):
        assert_same(state_of(run.root), unbroken[1])
    subprocess.run(["sha256sum", "-c", "results.zip.sha256"], cwd=night, check=True)
    with zipfile.ZipFile(night / "results.zip") as pack:
        assert pack.testzip() is None
        inside = {name.removeprefix("night/") for name in pack.namelist()}
    assert {f"{name}/outcome.json" for name in ("killed", "cut", "a", "b")} <= inside
    assert {"journal.jsonl", "report/index.html", "report/results.csv", "logs/killed.log"} <= inside
