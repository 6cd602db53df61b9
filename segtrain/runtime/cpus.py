"""CPUs that this process may use: the least of affinity, cgroup quotas, SLURM's allocation and OMP_NUM_THREADS.

Whoever starts threads or worker processes asks here: more of them than the allocation has CPUs wait for each other, and
two jobs that both take the whole machine are many times slower than one. Imports no torch.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from segtrain.runtime.launcher import env_int

PROCESS = Path("/proc/self")
_IN_STEP = "SLURM_STEP_ID"  # set for tasks that srun starts, not for a batch script


def usable() -> int:
    """CPUs of this process and, under torchrun, of the other ranks on this node, which share them; at least one."""
    return least()[0]


def of_rank(ranks: int | None = None) -> int:
    """CPUs for one of so many ranks on this node, by default of those that there are; at least one."""
    ranks = _sharing() if ranks is None else ranks
    return max(1, least(ranks)[0] // ranks)


def least(ranks: int | None = None) -> tuple[int, str]:
    """The CPUs that so many ranks share, by default those that there are, and what allows no more."""
    allowed = list(_limits(_sharing() if ranks is None else ranks))
    return min(allowed, key=lambda limit: limit[0])


def _limits(ranks: int) -> Iterator[tuple[int, str]]:
    """What each source allows to that many ranks together."""
    yield len(os.sched_getaffinity(0)), "the affinity"
    for quota in filter(None, map(_quota, _cgroups())):
        yield max(1, int(quota)), f"a cgroup's quota of {quota:g} CPUs"  # on a part of a CPU a thread pauses
    if cpus := _number("SLURM_CPUS_PER_TASK"):
        # A batch script has the CPUs of all tasks on its node.
        tasks = 1 if _IN_STEP in os.environ else _number("SLURM_TASKS_PER_NODE") or 1
        yield cpus * tasks, f"SLURM_CPUS_PER_TASK={cpus}"
    if cpus := _number("SLURM_CPUS_ON_NODE"):
        yield cpus, f"SLURM_CPUS_ON_NODE={cpus}"
    threads = _number("OMP_NUM_THREADS")
    if threads and not _is_torchruns_default():
        yield threads * ranks, f"OMP_NUM_THREADS={threads}"  # which counts for each process


def _sharing() -> int:
    """The ranks on this node that share the CPUs of this process: not those that are tasks of SLURM each."""
    is_task = "TORCHELASTIC_RUN_ID" not in os.environ and _IN_STEP in os.environ and _number("SLURM_CPUS_PER_TASK")
    return 1 if is_task else max(1, env_int("LOCAL_WORLD_SIZE", 1))


def _number(name: str) -> int | None:
    """The positive number that an environment variable begins with; some are lists, 2(x3),1 or 4,2."""
    number = re.match(r"\s*(\d+)", os.environ.get(name, ""))
    return int(number[1]) or None if number else None


def _is_torchruns_default() -> bool:
    """Whether torchrun has set OMP_NUM_THREADS, always to 1, and not the user: it was not in its own environment."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    try:
        environment = (PROCESS.parent / str(os.getppid()) / "environ").read_bytes()
    except OSError:
        return False
    return not any(entry.startswith(b"OMP_NUM_THREADS=") for entry in environment.split(b"\0"))


def _cgroups() -> Iterator[Path]:
    """The folders of the cgroups that may limit this process's CPU time: its own and those above. See cgroups(7)."""
    try:
        memberships = [line.split(":", 2) for line in _lines("cgroup")]
        paths = {controller: path for _, names, path in memberships for controller in names.split(",")}
        mounts = [line.partition(" - ") for line in _lines("mountinfo")]
    except (OSError, ValueError):
        return
    for mount, _, about in mounts:
        root, place = mount.split()[3:5]
        kind, _, options = about.split()[:3]
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller not in paths or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        top, path = Path(place), Path(paths[controller])
        # A container may have its own cgroup mounted as the top, while its path begins at the machine's.
        own = top / path.relative_to(root) if path.is_relative_to(root) else top
        yield own
        yield from (above for above in own.parents if above.is_relative_to(top))


def _quota(cgroup: Path) -> float | None:
    """The CPUs' time that a cgroup allows, in CPUs; None where it has no limit."""
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((cgroup / f"cpu.cfs_{what}_us").read_text(encoding="utf-8") for what in ("quota", "period"))
        return None if int(quota) < 0 else int(quota) / int(period)
    return None


def _lines(file: str) -> list[str]:
    return (PROCESS / file).read_text(encoding="utf-8").splitlines()
