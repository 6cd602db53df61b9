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
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from segtrain.config import DeviceName
from segtrain.errors import LaunchError, SegtrainError, StopReason
from segtrain.runtime import cpus, machine
from segtrain.runtime.addresses import keep_to_loopback
from segtrain.runtime.gpu import nccl_problem, start_gpu
from segtrain.runtime.interface import interface_to
from segtrain.runtime.launcher import env_int
from segtrain.runtime.peers import PeerWatch, stop_waiting_for_nccl
from segtrain.runtime.store import connect, has_agents_store, serve

log = logging.getLogger(__name__)

T = TypeVar("T")
CPU = torch.device("cpu")
TIMEOUT = datetime.timedelta(minutes=30)  # of a collective, and for the ranks to meet


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
        return self.sum_into(tensor.detach().clone())

    def sum_into(self, tensor: Tensor) -> Tensor:
        """The tensor, which becomes its sum over ranks on every rank; not differentiable. Collective."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def stacked(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors, all of one shape, along a new first dimension in rank order. Collective."""
        if self.size == 1:
            return tensor[None]
        together = tensor.new_empty((self.size * len(tensor), *tensor.shape[1:]))  # as gloo and NCCL both take it
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # torch 2.13 renamed it
        gather(together, tensor)
        return together.view(self.size, *tensor.shape)

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
    # Even to switch off what is off, torch imports its compiler: 1.6 s of each start.
    if enabled or torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(enabled)


@contextmanager
def join(device: DeviceName, threads: int | None, deterministic: bool = False) -> Iterator[World]:
    """Join the job that torchrun (or RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) describes; alone without one.

    NCCL for CUDA tensors, gloo for CPU tensors. Raises LaunchError: no CUDA, a GPU that cannot be used, fewer GPUs than
    ranks, address unreachable or port taken.
    """
    rank, size = env_int("RANK", 0), env_int("WORLD_SIZE", 1)
    local_rank, local_size = env_int("LOCAL_RANK", 0), env_int("LOCAL_WORLD_SIZE", 1)
    be_deterministic(deterministic)
    world = World(rank, size, local_rank, device_of(device, local_rank, local_size))
    torch.set_num_threads(threads or cpus.of_rank())
    if world.device.type == "cuda":
        start_gpu(world.device)
    peers = None
    is_callers_group = dist.is_initialized()
    if size > 1:
        _init(world, one_node=local_size == size)
        if world.device.type == "cuda":  # on a CPU gloo itself finds out
            peers = PeerWatch(rank, size, on_death=stop_waiting_for_nccl)
    try:
        yield world
    except BaseException:
        # Not with others: they may be in a collective, and this rank must not wait for them.
        if size == 1 and dist.is_initialized() and not is_callers_group:
            dist.destroy_process_group()
        raise
    if peers:
        peers.leave()
    if dist.is_initialized() and not is_callers_group:
        dist.destroy_process_group()


def be_a_group(world: World) -> None:
    """Make a process group of this one process, for code that needs one."""
    if world.size == 1 and not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")
        keep_to_loopback()
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
    if local_size <= gpus:
        return torch.device("cuda", local_rank)
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_LOCALID" not in os.environ:
        raise LaunchError(
            f"{local_size} ranks on {socket.gethostname()}, which has {gpus} GPU(s); "
            f"use --nproc_per_node={gpus}, or device=cpu"
        )
    if gpus > 1:
        raise LaunchError(
            f"{local_size} ranks on {socket.gethostname()}, and SLURM gives this one {gpus} GPU(s); "
            f"use --gpus-per-task=1, or --gpus-per-node={local_size} without --gpus-per-task"
        )
    # srun --gpus-per-task=1: each task sees its own GPU alone, as the first. NCCL refuses two ranks on one.
    return torch.device("cuda", 0)


def _init(world: World, one_node: bool) -> None:
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if one_node:
        keep_to_loopback()
    elif interface := interface_to(address or "", int(port or 0)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    device_id = world.device if world.device.type == "cuda" else None
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # nobody says that the others have been started
        log.info("rank %d waits at %s:%s for the other ranks of WORLD_SIZE=%d", world.rank, address, port, world.size)
    try:
        dist.init_process_group(
            backend,
            store=_store(world, one_node),
            rank=world.rank,
            world_size=world.size,
            timeout=TIMEOUT,
            device_id=device_id,
        )
    except (dist.DistError, ValueError, OSError) as error:
        if problem := nccl_problem(error):
            reason, remedy = problem
            raise LaunchError(f"NCCL cannot start on rank {world.rank} of {world.size}: {reason}; {remedy}") from error
        reason = " ".join(str(error).split())
        if "EADDRINUSE" in reason or "in use" in reason:
            raise LaunchError(
                f"port {port} on {address} is taken; set MASTER_PORT to a free one, or use torchrun --standalone"
            ) from error
        raise LaunchError(
            f"rank {world.rank} of {world.size} cannot reach {address}:{port} ({reason[:150]}); "
            "start with torchrun, or set MASTER_ADDR and MASTER_PORT"
        ) from error


def _store(world: World, one_node: bool) -> TCPStore | None:
    """The store of ranks that no launcher serves: rank 0 does. Raises OSError, DistError, ValueError.

    None leaves it to torch: to connect to a launcher's, or to say what is missing in the environment.
    """
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if has_agents_store() or not host or not port:
        return None
    if world.rank:
        return connect(host, int(port), world.size, TIMEOUT)
    return serve(host, int(port), world.size, TIMEOUT, other_nodes=not one_node)
