"""What the machine allows this user: CPUs, semaphores in shared memory, open files, processes."""

import os
import resource
from collections.abc import Iterator

import psutil

from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime import cpus
from segtrain.runtime.machine import SHARED_MEMORY, limit_of, semaphore_error

FEW_FILES = 256
FEW_PROCESSES = 128  # that may still be started: torch and BLAS start a thread a core in each rank


def check(ranks: int) -> Iterator[Finding]:
    """All limits, for a training of so many ranks on this machine."""
    yield processors(ranks)
    yield semaphores(semaphore_error())
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield processes(resource.getrlimit(resource.RLIMIT_NPROC)[0], _running())


def processors(ranks: int) -> Finding:
    """Whether each rank has a CPU of its own."""
    usable, limit = cpus.least(ranks)
    message = f"{usable} may be used ({limit}), {cpus.of_rank(ranks)} by each of {ranks} ranks"
    if usable >= ranks:
        return ok("CPUs", message)
    return warning("CPUs", f"{message}: they wait for each other", "ask for more CPUs, or start fewer ranks")


def semaphores(error: str | None) -> Finding:
    """Whether worker processes can share semaphores."""
    if error is None:
        return ok("shared memory", f"{SHARED_MEMORY} can be used")
    return failure(
        "shared memory",
        f"{SHARED_MEMORY} cannot be used ({error}), so no worker process can be started",
        "mount it (a tmpfs), or set data.workers=1, and --workers 1 for evaluate",
    )


def open_files(allowed: int) -> Finding:
    """Whether a process may open as many files as pools of workers and ranks need."""
    message = f"{limit_of(resource.RLIMIT_NOFILE)} open files are allowed"
    if allowed == resource.RLIM_INFINITY or allowed >= FEW_FILES:
        return ok("open files", message)
    return warning("open files", message, f"raise the limit: ulimit -n {FEW_FILES * 16}")


def processes(allowed: int, running: int) -> Finding:
    """Whether this user may start further processes and threads; of no effect for root."""
    if allowed == resource.RLIM_INFINITY or os.geteuid() == 0 or allowed - running >= FEW_PROCESSES:
        return ok("processes", f"{running} processes and threads of this user, enough may be started")
    message = f"{running} processes and threads of this user, of {allowed} that are allowed"
    return warning("processes", message, "end some, or raise the limit with ulimit -u; or set threads_per_rank=1")


def _running() -> int:
    """Threads of this user on this machine."""
    running = 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        if uids is not None and uids.real == os.getuid():
            running += process.info["num_threads"] or 0
    return running
