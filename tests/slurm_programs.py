"""SLURM's entries of jobs, its programs that list them (squeue, sacct, scontrol on the path), and a clock."""

import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from jobs.scheduler import SEPARATOR, Entry


def program(folder: Path, name: str, script: str) -> None:
    """A program of that name in the folder."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def entry(
    job: str, state: str, name: str = "", folder: str = "", user: str = "", reason: str = "", starts: str = ""
) -> Entry:
    """SLURM's entry of a job of this user."""
    return Entry(job, state, user or str(os.getuid()), name, folder, reason, starts)


def squeue_lines(*entries: Entry) -> str:
    """What squeue prints of them, as SLURM 22.05 does."""
    rows = (
        (one.id, one.state, one.user, one.name, one.folder, one.reason or "None", one.starts or "N/A")
        for one in entries
    )
    return "".join(f"{SEPARATOR.join(row)}\n" for row in rows)


def sacct_lines(*entries: Entry, cluster: str = "") -> str:
    """What sacct prints of them."""
    rows = ((one.id, one.state, one.user, one.name, one.folder, cluster or one.cluster) for one in entries)
    return "".join(f"{SEPARATOR.join(row)}\n" for row in rows)


class Slurm:
    """SLURM's programs in a folder: they print the files that a test fills, and count how often they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("squeue", "sacct", "scontrol", "scancel", "sbatch"):
            program(folder, name, f'cd {folder}; echo "$@" >> {name}.calls; cat {name}.out 2>/dev/null || true')
        self.is_cluster("here")
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def is_cluster(self, name: str) -> None:
        """Have scontrol name the cluster so."""
        (self.folder / "scontrol.out").write_text(f"ControlMachine          = any\nClusterName             = {name}\n")

    def queue(self, *entries: Entry) -> None:
        """Have squeue list these."""
        (self.folder / "squeue.out").write_text(squeue_lines(*entries))

    def accounting(self, *entries: Entry) -> None:
        """Have sacct list these."""
        (self.folder / "sacct.out").write_text(sacct_lines(*entries))

    def is_away(self) -> None:
        """Have slurmctld answer nobody; the accounting is a daemon of its own."""
        for name in ("squeue", "scontrol", "scancel"):
            program(self.folder, name, "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")

    def calls(self, name: str) -> list[str]:
        """The arguments of each call of a program."""
        file = self.folder / f"{name}.calls"
        return file.read_text().splitlines() if file.exists() else []


def stand_in_clock(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[float]:
    """The time of these modules of jobs/, which passes only where they wait; subprocess waits by the real one."""
    now = [1000.0]
    passing = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    for module in modules:
        monkeypatch.setattr(module, "time", passing)
    return now
