"""A machine: its name, processor and driver; what it may lack: semaphores, files, processes, space, a name, a compiler.

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
import socket
import sysconfig
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = "/dev/shm"
CPU_COMPILERS = ("g++",)  # for which torch looks where CXX names none
CUDA_COMPILERS = ("gcc", "clang")  # for which Triton looks where CC names none
CPU_INFO = Path("/proc/cpuinfo")
NVIDIA_VERSION = Path("/proc/driver/nvidia/version")
UNKNOWN = uuid.uuid4().hex  # of a machine that does not say which it is: equal to no other


def processor(info: Path = CPU_INFO) -> str:
    """The model of the processor, or its architecture where the system names no model."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*:\s*(\S.*)$", info.read_text(encoding="utf-8"), re.MULTILINE):
            return model[1].strip()
    return platform.machine()


def cpu_flags(info: Path = CPU_INFO) -> frozenset[str]:
    """What the processor can do, by the kernel's names; none where it does not say."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return frozenset(next((flags for key, _, flags in named if key.strip() in ("flags", "Features")), "").split())


def identity() -> str:
    """This machine since its start, and who counts its processes: containers of one host may each have a process 7."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {UNKNOWN}"


def began(number: object) -> int | None:
    """When a process or thread of this machine began, in ticks since the machine's start; None where it has ended."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the command's name, from the state on; see proc(5)
    return None if fields[0] in "ZX" else int(fields[19])


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


@dataclass(frozen=True)
class Lack:
    """A thing that this machine does not have, and what to do about it."""

    thing: str
    remedy: str


def lacks_to_compile(device: str) -> Lack | None:
    """What model.compile lacks for a device, cpu or cuda: a compiler, or Python's headers; None where it has both."""
    variable = "CC" if device == "cuda" else "CXX"
    named = os.environ.get(variable)
    commands = (named,) if named else CUDA_COMPILERS if device == "cuda" else CPU_COMPILERS
    # With TORCH_INDUCTOR_INSTALL_GXX torch fetches one itself.
    if not os.environ.get("TORCH_INDUCTOR_INSTALL_GXX") and not any(map(shutil.which, commands)):
        return Lack(" or ".join(commands), f"install one, name it in {variable}, or set model.compile=false")
    # What Triton and Inductor generate includes it.
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return Lack("Python.h", "install Python's headers (python3-dev), or set model.compile=false")
    return None


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
