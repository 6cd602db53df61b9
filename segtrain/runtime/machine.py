"""A machine: its processor and driver; what it may lack: semaphores, files, processes, space, a name, a compiler.

Imports no torch.
"""

import errno
import multiprocessing
import os
import platform
import pwd
import re
import resource
import shutil
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = "/dev/shm"
CPU_COMPILERS = ("g++",)  # for which torch looks where CXX names none
CUDA_COMPILERS = ("gcc", "clang")  # for which Triton looks where CC names none
CPU_INFO = Path("/proc/cpuinfo")
NVIDIA_VERSION = Path("/proc/driver/nvidia/version")


def processor(info: Path = CPU_INFO) -> str:
    """The model of the processor, or its architecture where the system names no model."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*:\s*(\S.*)$", info.read_text(encoding="utf-8"), re.MULTILINE):
            return model[1].strip()
    return platform.machine()


def nvidia_driver(file: Path = NVIDIA_VERSION) -> str | None:
    """The version of the NVIDIA driver that the kernel has loaded; None where there is none."""
    with suppress(OSError):
        # NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024
        if version := re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", file.read_text(encoding="utf-8")):
            return version[0]
    return None


def shortage(error: BaseException) -> str | None:
    """What limit of the machine an error comes from, and the remedy; None where it comes from something else."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files: {limit_of(resource.RLIMIT_NOFILE)} are allowed; raise the limit with ulimit -n"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _too_few_processes()
    return None


def full_disk(error: BaseException) -> str | None:
    """What a full disk or an exhausted quota keeps from being written, and the remedy; None where that is not it."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return f"{error.filename or 'the output'}: cannot be written ({error.strerror}); free some space and try again"


def why_no_processes(error: BaseException) -> str:
    """Why worker processes cannot be started, from what starting them raised."""
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return _too_few_processes()
    return shortage(error) or f"{SHARED_MEMORY} cannot be used ({getattr(error, 'strerror', None) or error}); mount it"


def semaphore_error() -> str | None:
    """Why this machine gives no semaphores, which processes share; None where it does."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except (OSError, ImportError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


def limit_of(kind: int) -> str:
    """A limit of this process, for people."""
    soft, _ = resource.getrlimit(kind)
    return "any number" if soft == resource.RLIM_INFINITY else str(soft)


def missing_compiler(device: str) -> str | None:
    """The command of the compiler that model.compile lacks for a device, cpu or cuda; None where there is one."""
    if os.environ.get("TORCH_INDUCTOR_INSTALL_GXX"):  # torch fetches one itself
        return None
    named = os.environ.get("CC" if device == "cuda" else "CXX")
    commands = (named,) if named else CUDA_COMPILERS if device == "cuda" else CPU_COMPILERS
    return None if any(map(shutil.which, commands)) else " or ".join(commands)


def name_user() -> None:
    """Have the environment name the user of this process, or the number of one without a name.

    MONAI cannot be imported without a name. torch keeps compiled code in a folder of /tmp by that name, which is
    another user's where sudo or a container has left another name in the environment.
    """
    try:
        os.environ["LOGNAME"] = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        os.environ["LOGNAME"] = f"uid-{os.geteuid()}"


def _too_few_processes() -> str:
    allowed = limit_of(resource.RLIMIT_NPROC)
    return (
        f"no further process or thread may be started: {allowed} are allowed to this user, or fewer to this container; "
        "raise the limit with ulimit -u, or the container's with --pids-limit"
    )
