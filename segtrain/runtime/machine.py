"""What a machine may lack: semaphores, open files, processes. Imports no torch."""

import errno
import resource

SHARED_MEMORY = "/dev/shm"


def shortage(error: BaseException) -> str | None:
    """What limit of the machine an error comes from, and the remedy; None where it comes from something else."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files: {limit_of(resource.RLIMIT_NOFILE)} are allowed; raise the limit with ulimit -n"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _too_few_processes()
    return None


def why_no_processes(error: BaseException) -> str:
    """Why worker processes cannot be started, from what starting them raised."""
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return _too_few_processes()
    return shortage(error) or f"{SHARED_MEMORY} cannot be used ({getattr(error, 'strerror', None) or error}); mount it"


def limit_of(kind: int) -> str:
    """A limit of this process, for people."""
    soft, _ = resource.getrlimit(kind)
    return "any number" if soft == resource.RLIM_INFINITY else str(soft)


def _too_few_processes() -> str:
    allowed = limit_of(resource.RLIMIT_NPROC)
    return (
        f"no further process or thread may be started: {allowed} are allowed to this user, or fewer to this container; "
        "raise the limit with ulimit -u, or the container's with --pids-limit"
    )
