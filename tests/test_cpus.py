"""Threads and worker processes follow the allocation: the least of affinity, quotas, SLURM and OMP_NUM_THREADS."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segtrain.config import Config
from segtrain.data import prepare
from segtrain.data.augment.ahead import default_workers
from segtrain.doctor import limits
from segtrain.runtime import cpus
from segtrain.runtime.world import join

ROOT = Path(__file__).resolve().parent.parent
CORES = 64
VARIABLES = (
    "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_TASKS_PER_NODE", "SLURM_STEP_ID",
    "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID",
)  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with many cores and no limits; the folder stands for /proc/<process>."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    process = tmp_path / "proc" / "self"
    process.mkdir(parents=True)
    monkeypatch.setattr(cpus, "PROCESS", process)
    return process


@pytest.mark.parametrize(
    ("environment", "usable", "of_rank"),
    [
        ({}, CORES, CORES),
        ({"LOCAL_WORLD_SIZE": "4"}, CORES, CORES // 4),
        ({"LOCAL_WORLD_SIZE": "100"}, CORES, 1),
        ({"OMP_NUM_THREADS": "3"}, 3, 3),
        ({"OMP_NUM_THREADS": "3", "LOCAL_WORLD_SIZE": "4"}, 12, 3),
        ({"OMP_NUM_THREADS": "40", "LOCAL_WORLD_SIZE": "4"}, CORES, 16),
        ({"OMP_NUM_THREADS": "4,2"}, 4, 4),
        ({"OMP_NUM_THREADS": "many"}, CORES, CORES),
        ({"SLURM_CPUS_PER_TASK": "8"}, 8, 8),
        ({"SLURM_CPUS_PER_TASK": "8", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "a"}, 8, 2),
        ({"SLURM_CPUS_PER_TASK": "8", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, 4, 1),
        ({"SLURM_CPUS_ON_NODE": "5", "SLURM_CPUS_PER_TASK": "8"}, 5, 5),
        # A batch script has the CPUs of its node's tasks, a task of a step its own, which need not be shared.
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_TASKS_PER_NODE": "2(x3)"}, 16, 16),
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_TASKS_PER_NODE": "2(x3)", "SLURM_STEP_ID": "0"}, 8, 8),
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_STEP_ID": "0", "LOCAL_WORLD_SIZE": "2"}, 8, 8),
        (
            {"SLURM_CPUS_PER_TASK": "8", "SLURM_STEP_ID": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"},
            8,
            4,
        ),
    ],
)
def test_the_environment_limits_the_cpus(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], usable: int, of_rank: int
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (cpus.usable(), cpus.of_rank()) == (usable, of_rank)


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({"job/step/cpu.max": "max 100000"}, CORES),
        ({"job/step/cpu.max": "400000 100000"}, 4),
        ({"job/step/cpu.max": "max 100000", "job/cpu.max": "250000 100000"}, 2),
        ({"job/step/cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "300000 100000"}, 3),
        ({"job/cpu.cfs_quota_us": "-1", "job/cpu.cfs_period_us": "100000"}, CORES),
        ({"job/cpu.cfs_quota_us": "600000", "job/cpu.cfs_period_us": "100000"}, 6),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_quotas_of_this_cgroup_and_of_those_above_it_limit_the_cpus(
    machine: Path, tmp_path: Path, version: int, files: dict[str, str], usable: int
) -> None:
    top = tmp_path / "cgroup"
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"{text}\n")
    kind, member = ("cgroup rw,cpu,cpuacct", "4:cpuacct,cpu") if version == 1 else ("cgroup2 rw,nsdelegate", "0:")
    name, _, options = kind.partition(" ")
    (machine / "cgroup").write_text(f"8:pids:/elsewhere\n{member}:/job/step\n")
    (machine / "mountinfo").write_text(
        "22 1 0:20 / /proc rw,relatime - proc proc rw\n"
        f"31 22 0:26 / {tmp_path}/pids rw shared:9 - cgroup cgroup rw,pids\n"
        f"32 22 0:27 / {top} rw shared:9 master:1 - {name} {name} {options}\n"
    )
    assert cpus.usable() == usable


def test_a_container_without_a_namespace_of_its_own_sees_its_quota_at_the_top(machine: Path, tmp_path: Path) -> None:
    (machine / "cgroup").write_text("4:cpu:/docker/abc\n0::/\n")
    for root in ("/docker/abc", "/"):
        (machine / "mountinfo").write_text(f"32 22 0:27 {root} {tmp_path} rw - cgroup cgroup rw,cpu\n")
        (tmp_path / "cpu.cfs_quota_us").write_text("200000\n")
        (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
        assert cpus.usable() == 2


LAUNCHER = """
import os, subprocess, sys
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does for several ranks
os.environ |= {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2"}
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
"""
RANK = """
import os
from segtrain.runtime import cpus
os.sched_getaffinity, cpus._cgroups = (lambda _: range(64)), (lambda: ())
print(cpus.of_rank())
"""


@pytest.mark.parametrize(("threads", "of_rank"), [(None, 32), ("1", 1), ("5", 5)])
def test_what_torchrun_sets_by_default_is_no_wish_of_the_user(threads: str | None, of_rank: int) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    command = [sys.executable, "-c", LAUNCHER, RANK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) == of_rank


def test_training_preparing_and_augmenting_ask_for_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Config
) -> None:
    def no_pool(*_: Any) -> None:
        raise AssertionError("more than one process")

    monkeypatch.setattr(prepare, "process_pool", no_pool)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    prepare.ensure_store(replace(tiny.data, store=str(tmp_path / "store")))
    assert default_workers() == 1
    threads = torch.get_num_threads()
    try:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
        with join("cpu", None):
            assert torch.get_num_threads() == 3
        with join("cpu", 2):
            assert torch.get_num_threads() == 2, "the config decides"
    finally:
        torch.set_num_threads(threads)
    assert default_workers() == 2


def test_the_doctor_says_what_limits_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    finding = limits.processors(2)
    assert (finding.state, finding.message) == ("ok", "3 may be used (SLURM_CPUS_PER_TASK=3), 1 by each of 2 ranks")
    assert limits.processors(4).state == "warning"


def test_nobody_else_counts_cpus() -> None:
    for path in [*(ROOT / "segtrain").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        assert path.name == "cpus.py" or not re.search(r"sched_getaffinity|cpu_count", path.read_text()), path
