"""Python, packages, torch's devices and backends, DeepSpeed's operations."""

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from segtrain import DISTRIBUTION, __version__
from segtrain.config import Config, Precision
from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime import cpus
from segtrain.runtime.machine import cpu_flags, lacks_to_compile
from segtrain.runtime.usage import gpu_reader

OLDEST_PYTHON = (3, 11)
OPS = (
    "import deepspeed; from deepspeed.ops import __compatible_ops__ as ops; "
    "print(deepspeed.__version__, sum(ops.values()), len(ops))"
)


def check(cfg: Config) -> Iterator[Finding]:
    """Python, packages, devices and, where it is used, DeepSpeed."""
    yield python(sys.version_info[:2])
    yield packages()
    yield from devices(cfg)
    if cfg.model.compile:
        yield compiler(cfg)
    if cfg.engine == "deepspeed":
        yield deepspeed(cfg)


def python(version: tuple[int, int]) -> Finding:
    """Whether the project supports this Python."""
    message = f"Python {platform.python_version()}, {sys.executable}"
    if version >= OLDEST_PYTHON:
        return ok("python", message)
    return failure("python", f"{message}: not supported", "use Python 3.11 or newer: make PYTHON=/path/to/python3.12")


def packages() -> Finding:
    """Whether the installed packages are those that the project requires."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # a copy of the code, found through PYTHONPATH
        return warning(
            "packages",
            f"{DISTRIBUTION} is not installed, so its requirements are not known here",
            "pip install -e . in the checkout",
        )
    wrong, remedies = [], []
    for text in requirements:
        required = Requirement(text)
        if required.marker and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{required.name} is missing")
        else:
            if required.specifier.contains(installed, prereleases=True):
                continue
            wrong.append(f"{required.name} {installed} is not {required.specifier}")
        remedies.append(f"'{required.name}{required.specifier}'")
    if wrong:
        return failure("packages", "; ".join(wrong), f"pip install {' '.join(remedies)}")
    return ok("packages", f"segtrain {__version__}, torch {metadata.version('torch')}, as required")


def devices(cfg: Config) -> Iterator[Finding]:
    """The devices that training would use, and whether they can do the precision."""
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if cfg.device != "cpu" else 0
    if gpus:
        yield from _gpus(gpus, cfg.precision)
    elif cfg.device == "cuda":
        yield failure("device", "device=cuda, but torch sees no GPU", "check nvidia-smi and torch.version.cuda")
    elif shutil.which("nvidia-smi"):
        yield warning(
            "device",
            "nvidia-smi is installed, but torch sees no GPU; training would run on the CPU",
            "install torch's CUDA build, check CUDA_VISIBLE_DEVICES",
        )
    else:
        yield ok("device", f"CPU, {cpus.usable()} usable cores, {torch.backends.cpu.get_cpu_capability()}")
    if not dist.is_gloo_available():
        yield failure("backend", "torch has no gloo, which ranks need to agree", "install an official build of torch")
    if cfg.precision == "tf32" and not gpus:
        yield failure("precision", "precision=tf32 is a mode of CUDA devices", "use precision=fp32 or bf16")
    elif cfg.precision == "bf16" and not gpus and "amx_bf16" not in cpu_flags():
        yield warning("precision", "precision=bf16 is far slower on a CPU without bf16 units", "use precision=fp32")


def _gpus(count: int, precision: Precision) -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    from segtrain.runtime.gpu import AMPERE, cuda_problem

    try:
        properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason, remedy = cuda_problem(error)
        yield failure("device", f"{count} GPU(s), but CUDA does not start: {reason}", f"{remedy}, or use device=cpu")
        return
    names = ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in properties)
    yield ok("device", f"{count} GPU(s): {names}; CUDA {torch.version.cuda}")
    yield from _units([gpu for gpu in properties if (gpu.major, gpu.minor) < AMPERE], precision)
    if not dist.is_nccl_available():
        yield failure("backend", "torch has no NCCL", "install torch's CUDA build")
    unread = [str(index) for index, gpu in enumerate(properties) if gpu_reader(f"GPU-{gpu.uuid}") is None]
    if unread:
        yield warning(
            "watching",
            f"NVML cannot read GPU {', '.join(unread)}: its use, power and temperature are not recorded",
            "mount the driver's libnvidia-ml.so.1 (--gpus, --nv)",
        )


def _units(older: Sequence[Any], precision: Precision) -> Iterator[Finding]:
    """What these GPUs, from before Ampere, make of the precision."""
    names = ", ".join(sorted({gpu.name for gpu in older}))
    lack = f"{names} has no units for precision={precision}, which came with compute capability 8.0"
    if older and precision == "tf32":
        yield failure("precision", lack, "use precision=fp16 or fp32")
    if older and precision == "bf16":
        yield warning("precision", f"{lack}: it may be slower than fp32", "use precision=fp16")


def compiler(cfg: Config) -> Finding:
    """Whether there is what model.compile needs."""
    import torch

    gpu = cfg.device != "cpu" and torch.cuda.device_count() > 0
    setting = f"model.compile={str(cfg.model.compile).lower()}"
    if lack := lacks_to_compile("cuda" if gpu else "cpu"):
        state = warning if cfg.model.compile == "auto" else failure
        return state("compiler", f"{setting}, but there is no {lack.thing}", lack.remedy)
    return ok("compiler", f"{setting} has its compiler and Python's headers")


def deepspeed(cfg: Config) -> Finding:
    """Whether DeepSpeed can be imported."""
    if importlib.util.find_spec("deepspeed") is None:
        return failure("deepspeed", "engine=deepspeed, but it is not installed", "pip install deepspeed")
    # In a process of its own: it prints as it pleases, and without a compiler its import may fail.
    done = subprocess.run([sys.executable, "-c", OPS], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return failure("deepspeed", f"it cannot be imported: {lines[-1][:200]}", "repair that, or use engine=ddp")
    version, usable, known = done.stdout.split()[-3:]
    # The project uses torch's optimisers, and gloo or NCCL: none of DeepSpeed's operations has to be compiled.
    message = f"DeepSpeed {version}, ZeRO {cfg.deepspeed.zero}; its compiled operations are not needed"
    return ok("deepspeed", f"{message} ({usable} of {known} would compile here)")
