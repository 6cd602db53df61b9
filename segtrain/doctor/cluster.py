"""SLURM on this machine. Training does not need it; `segtrain submit` and `segtrain ablate --cluster` do."""

import os
import shutil
import subprocess
from collections.abc import Iterator

from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime.launcher import slurm_environment

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
TIMEOUT_S = 10


def check() -> Iterator[Finding]:
    """SLURM's commands, its queue, its accounting."""
    installed = [name for name in COMMANDS if shutil.which(name)]
    if not installed:
        yield ok("scheduler", "no SLURM on this machine; only segtrain submit and segtrain ablate --cluster need it")
        return
    if missing := [name for name in COMMANDS if name not in installed]:
        yield failure("scheduler", f"{', '.join(missing)}: not found beside {installed[0]}", "add SLURM's bin to PATH")
        return
    if trouble := _trouble("squeue", "-h", "-u", str(os.getuid())):
        yield warning("scheduler", f"squeue: {trouble}", "jobs cannot be submitted now; ask who runs the cluster")
        return
    yield ok("scheduler", "SLURM answers")
    if trouble := _trouble("sacct", "-n", "-X", "-S", "now"):
        yield warning("accounting", f"sacct: {trouble}", "segtrain status cannot say how jobs without an outcome ended")
    else:
        yield ok("accounting", "sacct answers")


def _trouble(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=slurm_environment()
        )
    except OSError as error:
        return str(error.strerror)
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT_S} s"
    if not done.returncode:
        return None
    lines = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
    return lines[-1][:200].removeprefix(f"{command[0]}: ")
