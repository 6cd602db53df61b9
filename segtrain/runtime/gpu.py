"""The start of CUDA and of NCCL, and a remedy where they do not start; waiting for a device. Imports torch."""

from collections.abc import Callable

import torch

from segtrain.errors import LaunchError, gist

# Parts of messages of the CUDA driver, its runtime and torch, and the remedy of each.
CUDA_REMEDIES = {
    "driver on your system is too old": "update the NVIDIA driver, or install a torch that is built for its CUDA",
    "forward compatibility": "update the NVIDIA driver, or install a torch that is built for its CUDA",
    "no kernel image": "install a torch that is built for this kind of GPU",
    "not compatible with the current PyTorch": "install a torch that is built for this kind of GPU",
    "busy or unavailable": "see nvidia-smi for a process that holds it",
    "out of memory": "see nvidia-smi for a process that holds its memory",
}
NCCL_REMEDIES = {
    "Duplicate GPU": "start one rank for each GPU, and give each its own",
    "shared memory segment": "enlarge /dev/shm (docker run --ipc=host or --shm-size=8g)",
    "socket interface": "set NCCL_SOCKET_IFNAME to the interface between the nodes",
    "out of memory": "see nvidia-smi for a process that holds the GPU's memory",
}


AMPERE = (8, 0)  # the compute capability of the first GPUs with units for TF32 and bfloat16


def is_ampere_or_newer(device: torch.device) -> bool:
    """Whether it is a GPU with units for TF32 and bfloat16, which a T4 or V100 lacks."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE


def fence(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all that it was given before this call, and not for what it gets later.

    Any thread may call it. A CPU has done it.
    """
    if device.type != "cuda":
        return _wait_for_nothing
    event = torch.cuda.Event(blocking=True)  # the thread sleeps: the one that feeds the device needs the core
    event.record(torch.cuda.current_stream(device))
    return event.synchronize


def _wait_for_nothing() -> None:
    pass


def start_gpu(device: torch.device) -> None:
    """Make the GPU the current one and run an operation on it. Raises LaunchError where that fails."""
    try:
        torch.cuda.set_device(device)
        torch.ones(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason, remedy = cuda_problem(error)
        raise LaunchError(f"{device} cannot be used: {reason}; {remedy}, or use device=cpu") from error


def cuda_problem(error: Exception) -> tuple[str, str]:
    """Why CUDA did not start, in one line, and the remedy."""
    return gist(error), _remedy(str(error), CUDA_REMEDIES, "check the GPU with nvidia-smi")


def nccl_problem(error: Exception) -> tuple[str, str] | None:
    """Why NCCL did not start, in one line, and the remedy; None for an error of something else."""
    message = str(error)
    if "nccl" not in message.lower():
        return None
    # torch's own words come first, and NCCL's, which name the cause, last.
    cause = message.rpartition("Last error:")[2] or message
    return gist(cause), _remedy(message, NCCL_REMEDIES, "set NCCL_DEBUG=INFO, which prints the cause")


def _remedy(message: str, remedies: dict[str, str], otherwise: str) -> str:
    return next((remedy for words, remedy in remedies.items() if words.lower() in message.lower()), otherwise)
