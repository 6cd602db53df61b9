"""Python, packages, torch's devices and backends, DeepSpeed's operations."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from segtrain.config import Config
from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime.usage import gpu_reader

PYTHONS = (3, 11), (3, 13)
OPS = (
    "import deepspeed; from deepspeed.ops import __compatible_ops__ as ops; "
    "print(deepspeed.__version__, sum(ops.values()), len(ops))"
)


def check(cfg: Config) -> Iterator[Finding]:
    """All of this file."""
    yield python(sys.version_info[:2])
    yield packages()
    yield from devices(cfg)
    if cfg.engine == "deepspeed":
        yield deepspeed(cfg)


def python(version: tuple[int, int]) -> Finding:
    """Whether this Python is one that the project supports."""
    said = f"Python {platform.python_version()}, {sys.executable}"
    if PYTHONS[0] <= version <= PYTHONS[1]:
        return ok("python", said)
    return failure("python", f"{said}: not supported", "use Python 3.11 to 3.13: make PYTHON=/path/to/python3.12")


def packages() -> Finding:
    """Whether what is installed is what the project asks for."""
    wrong = []
    for text in metadata.requires("segtrain") or []:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} is not {wanted.specifier}")
    if wrong:
        return failure("packages", "; ".join(wrong), "pip install -c constraints.txt -e .")
    return ok("packages", f"segtrain {metadata.version('segtrain')}, torch {metadata.version('torch')}, as asked for")


def devices(cfg: Config) -> Iterator[Finding]:
    """What the training would run on, and whether the precision fits it."""
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if cfg.device != "cpu" else 0
    if gpus:
        named = [torch.cuda.get_device_properties(index) for index in range(gpus)]
        said = ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in named)
        yield ok("device", f"{gpus} GPU(s): {said}; CUDA {torch.version.cuda}")
        if not dist.is_nccl_available():
            yield failure("backend", "torch has no NCCL", "install torch's CUDA build")
        if silent := [str(index) for index, device in enumerate(named) if gpu_reader(f"GPU-{device.uuid}") is None]:
            yield warning("watching", f"NVML tells nothing of GPU {', '.join(silent)}: use, power and temperature are "
                          "not recorded", "mount the driver's libnvidia-ml.so.1 (--gpus, --nv)")  # fmt: skip
    elif cfg.device == "cuda":
        yield failure("device", "device=cuda, but torch sees no GPU", "check nvidia-smi and torch.version.cuda")
    elif shutil.which("nvidia-smi"):
        yield warning("device", "nvidia-smi is here, but torch sees no GPU; the CPU would train",
                      "install torch's CUDA build, check CUDA_VISIBLE_DEVICES")  # fmt: skip
    else:
        yield ok(
            "device", f"CPU, {len(os.sched_getaffinity(0))} usable cores, {torch.backends.cpu.get_cpu_capability()}"
        )
    if not dist.is_gloo_available():
        yield failure("backend", "torch has no gloo, which ranks agree through", "install an official build of torch")
    if cfg.precision == "tf32" and not gpus:
        yield failure("precision", "precision=tf32 is a mode of CUDA devices", "use precision=fp32 or bf16")
    elif cfg.precision == "bf16" and not gpus and "amx_bf16" not in _cpu_flags():
        yield warning("precision", "precision=bf16 on a CPU without bf16 units is far slower", "use precision=fp32")


def deepspeed(cfg: Config) -> Finding:
    """Whether DeepSpeed is there with the operations that the config makes it use."""
    if importlib.util.find_spec("deepspeed") is None:
        return failure("deepspeed", "engine=deepspeed, but it is not installed", "pip install 'segtrain[deepspeed]'")
    # In a process of its own: it prints what it likes, and without a compiler it may not even be imported.
    done = subprocess.run([sys.executable, "-c", OPS], capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no word"]
        return failure("deepspeed", f"it cannot be imported: {words[-1][:200]}", "mend that, or use engine=ddp")
    version, usable, known = done.stdout.split()[-3:]
    # The project uses torch's optimisers and gloo or NCCL: no operation of DeepSpeed's has to be compiled.
    said = f"DeepSpeed {version}, ZeRO {cfg.deepspeed.zero}; needs none of its compiled operations"
    return ok("deepspeed", f"{said}, {usable} of {known} would compile here")


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
