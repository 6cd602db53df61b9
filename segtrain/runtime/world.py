"""The ranks of a job, and their collectives.

All ranks must call every collective. With one rank there is no process group, and each collective is the identity.
"""

import datetime
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from segtrain.config import DeviceName
from segtrain.errors import LaunchError, SegtrainError, StopReason
from segtrain.runtime import machine
from segtrain.runtime.launcher import env_int

log = logging.getLogger(__name__)

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def gpu_uuid(self) -> str | None:
        """The driver's name of this rank's GPU, None on a CPU."""
        if self.device.type != "cuda":
            return None
        return f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"

    @property
    def device_name(self) -> str:
        """The model of this rank's GPU, or of the processor."""
        return machine.processor() if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    @property
    def libraries(self) -> dict[str, str]:
        """The versions of CUDA, cuDNN, NCCL and the driver, where the device is a GPU."""
        if self.device.type == "cpu":
            return {}
        nccl = ".".join(map(str, torch.cuda.nccl.version())) if dist.is_nccl_available() else None
        versions = {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": nccl,
            "driver": machine.nvidia_driver(),
        }
        return {name: str(version) for name, version in versions.items() if version}

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over ranks, on every rank; not differentiable. Collective."""
        total = tensor.detach().clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def concatenate(self, tensor_n: Tensor) -> Tensor:
        """The ranks' flat tensors, all of one size, concatenated in rank order on every rank. Collective."""
        if self.size == 1:
            return tensor_n
        parts = [torch.empty_like(tensor_n) for _ in range(self.size)]
        dist.all_gather(parts, tensor_n.contiguous())
        return torch.cat(parts)

    def concatenate_samples(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors [b, ...], all of one shape, concatenated in rank order on every rank. Collective."""
        return self.concatenate(tensor.flatten()).view(-1, *tensor.shape[1:])

    def sum_keep_gradient(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; its gradient flows to this rank's tensor. Collective."""
        if self.size == 1:
            return tensor
        return self.sum(tensor) + (tensor - tensor.detach())  # in this order, all ranks get the same bits

    def gather(self, item: T) -> list[T] | None:
        """Every rank's item in rank order on rank 0, None elsewhere. Collective."""
        if self.size == 1:
            return [item]
        items: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(item, items)
        return items

    def on_main(self, function: Callable[[], T]) -> T:
        """The value of `function` on rank 0, on every rank; its SegtrainError is raised on every rank. Collective."""
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = function()
            except SegtrainError as error:
                box[1] = error
        if self.size > 1:
            dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        result: T = box[0]
        return result

    def largest(self, *values: int) -> list[int]:
        """The maximum of each value over ranks, on every rank; computed on the CPU, so no device waits. Collective."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return [int(value) for value in largest.tolist()]

    def first(self, item: T | None) -> T:
        """The item of the first rank that has one, on every rank; at least one has. Collective."""
        items: list[T | None] = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(items, item)
        return next(each for each in items if each is not None)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank. Collective."""
        return self.largest(flag)[0] > 0

    def agree(self, reason: StopReason | None, save: bool = False) -> tuple[StopReason | None, bool]:
        """A reason to stop that any rank has, and whether any rank wants to save: the same on all ranks. Collective."""
        value, saves = self.largest(reason or 0, save)
        return (StopReason(value) if value else None), saves > 0


def be_deterministic(enabled: bool) -> None:
    """Make operations give the same bits each time, on CUDA too, or raise RuntimeError; or switch that off.

    Call it before CUDA starts: cuBLAS reads its setting then. torch would also fill all new memory, which costs time
    and only helps to find bugs: that stays off.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(enabled)


@contextmanager
def join(device: DeviceName, threads: int | None, deterministic: bool = False) -> Iterator[World]:
    """Join the job that torchrun (or RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) describes; alone without one.

    NCCL for CUDA tensors, gloo for CPU tensors. Raises LaunchError: no CUDA, fewer GPUs than ranks, address unreachable
    or port taken.
    """
    rank, size = env_int("RANK", 0), env_int("WORLD_SIZE", 1)
    local_rank, local_size = env_int("LOCAL_RANK", 0), env_int("LOCAL_WORLD_SIZE", 1)
    be_deterministic(deterministic)
    world = World(rank, size, local_rank, device_of(device, local_rank, local_size))
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local_size))
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if size > 1:
        _init(world, one_node=local_size == size)
    yield world
    # Not after an error: the other ranks may be in a collective, and this one must not wait for them.
    if dist.is_initialized():
        dist.destroy_process_group()


def be_a_group(world: World) -> None:
    """Make a process group of this one process, for code that needs one."""
    if world.size == 1 and not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def device_of(device: DeviceName, local_rank: int, local_size: int) -> torch.device:
    """The device of a rank on this machine. Raises LaunchError where there is no such device."""
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise LaunchError(
            "device=cuda, but torch sees no CUDA device; use device=auto or device=cpu, or check nvidia-smi"
        )
    if not gpus:
        return torch.device("cpu")
    if local_size > gpus:
        raise LaunchError(
            f"{local_size} ranks on {socket.gethostname()}, which has {gpus} GPU(s); "
            f"use --nproc_per_node={gpus}, or device=cpu"
        )
    return torch.device("cuda", local_rank)


def _init(world: World, one_node: bool) -> None:
    if one_node:  # the host name may not resolve; the loopback interface always works
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    device_id = world.device if world.device.type == "cuda" else None
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # nobody says that the others have been started
        log.info("rank %d waits at %s:%s for the other ranks of WORLD_SIZE=%d", world.rank, address, port, world.size)
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(minutes=30), device_id=device_id)
    except (dist.DistError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "EADDRINUSE" in reason or "in use" in reason:
            raise LaunchError(
                f"port {port} on {address} is taken; set MASTER_PORT to a free one, or use torchrun --standalone"
            ) from error
        raise LaunchError(
            f"rank {world.rank} of {world.size} cannot reach {address}:{port} ({reason[:150]}); "
            "start with torchrun, or set MASTER_ADDR and MASTER_PORT"
        ) from error
