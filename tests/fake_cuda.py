"""Stand-ins for CUDA on a CPU: a process that believes it has GPUs, and the operations of torch's SyncBatchNorm.

With `install` the program takes its own branches for `cuda:N`, while tensors stay on the CPU, where they get the same
values. Nothing here says how fast a GPU is, nor what its kernels round.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_graph
import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from trainings import Job, train_rank

FACTS = "cuda-{rank}.txt"  # what was asked of CUDA, a line for each kind, in the job's folder
GIB = 2**30


@dataclass(frozen=True)
class FakeGpu:
    """A model of GPU. `capability` is CUDA's, which says what units it has."""

    name: str
    capability: tuple[int, int]


HOPPER = FakeGpu("Fake H100", (9, 0))
TURING = FakeGpu("Fake T4", (7, 5))


class FakeGpuJob(Job):
    """A training whose ranks have a GPU each, as they believe."""

    def rank_of(self) -> Callable[..., None]:
        return train_on_fake_gpu

    def facts(self, rank: int = 0) -> set[str]:
        """What the rank asked of CUDA."""
        return set((self.directory / FACTS.format(rank=rank)).read_text().splitlines())


def train_on_fake_gpu(
    directory: Path, argv: list[str], rank: int, ranks: int, *others: Any, kind: FakeGpu = HOPPER
) -> None:
    """A rank of the training, as `train_rank`."""
    install(ranks, directory / FACTS.format(rank=rank), kind)
    train_rank(directory, argv, rank, ranks, *others)


def install(gpus: int, facts: Path | None = None, kind: FakeGpu = HOPPER) -> None:
    """Have this process believe that it has so many GPUs, until it ends. What it asks of them goes into `facts`."""
    seen: set[str] = set()

    def note(fact: str) -> None:
        if facts and fact not in seen:
            seen.add(fact)
            with facts.open("a") as file:
                file.write(fact + "\n")

    _replace_devices(note)
    _replace_cuda(gpus, kind, note)
    _replace_precision(note)
    _replace_nccl(note)


def on_cpu(device: Any) -> Any:
    """The CPU in place of a GPU, in whatever way that is named; anything else as it is."""
    if isinstance(device, torch.device):
        return torch.device("cpu") if device.type == "cuda" else device
    return "cpu" if isinstance(device, str) and device.partition(":")[0] == "cuda" else device


def _replace_devices(note: Callable[[str], None]) -> None:
    """Tensors that are made on a GPU, or moved there, are on the CPU."""

    class OnCpu(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func is torch.device:
                return func(*args, **kwargs)
            if func is Tensor.pin_memory:
                note("pinned memory")
                return args[0]
            if kwargs.pop("pin_memory", False):
                note("pinned memory")
            if "device" in kwargs:
                kwargs["device"] = on_cpu(kwargs["device"])
            return func(*map(on_cpu, args), **kwargs)

    OnCpu().__enter__()  # type: ignore[no-untyped-call]
    start = threading.Thread.run

    def run(thread: threading.Thread) -> None:  # modes are of one thread each
        with OnCpu():
            start(thread)

    move = torch.nn.Module.to

    def to(module: torch.nn.Module, *places: Any, **named: Any) -> Any:
        return move(module, *map(on_cpu, places), **{name: on_cpu(place) for name, place in named.items()})

    threading.Thread.run = run  # type: ignore[method-assign, assignment]
    torch.nn.Module.to = to  # type: ignore[method-assign, assignment]


def _replace_cuda(gpus: int, kind: FakeGpu, note: Callable[[str], None]) -> None:
    def properties(device: Any = None) -> SimpleNamespace:
        index = getattr(device, "index", device) or 0
        uuid = f"0000000{index}-0000-0000-0000-000000000000"
        return SimpleNamespace(name=kind.name, uuid=uuid, total_memory=80 * GIB)

    class Event:
        """What a rank waits for by itself, and not for what it queues later."""

        def __init__(self, **_: Any) -> None:
            pass

        def record(self, stream: Any = None) -> None:
            note("event recorded")

        def synchronize(self) -> None:
            note("waited for an event")

    replaced: dict[str, Any] = {
        "device_count": lambda: gpus,
        "is_available": lambda: False,  # or torch itself would use it
        "set_device": lambda device: note(f"current device {device}"),
        "get_device_properties": properties,
        "mem_get_info": lambda device=None: (70 * GIB, 80 * GIB),
        "get_device_capability": lambda device=None: kind.capability,
        "get_device_name": lambda device=None: properties(device).name,
        "max_memory_allocated": lambda device=None: 3 * GIB,
        "max_memory_reserved": lambda device=None: 4 * GIB,
        "reset_peak_memory_stats": lambda device=None: None,
        "Event": Event,
        "synchronize": lambda device=None: note("waited"),
        "default_generators": [torch.Generator() for _ in range(gpus)],
        "nccl": SimpleNamespace(version=lambda: (2, 28, 9)),
    } | fake_graph.replacements(note)
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)


def _replace_precision(note: Callable[[str], None]) -> None:
    class Autocast(torch.autocast):
        def __init__(self, device_type: str, *others: Any, **named: Any) -> None:
            if named.get("enabled", True):
                note(f"autocast {device_type} {named.get('dtype')}")
            super().__init__(on_cpu(device_type), *others, **named)

    class GradScaler(torch.amp.GradScaler):
        def __init__(self, device: str = "cuda", **named: Any) -> None:
            if named.get("enabled", True):
                note(f"scaler {device}")
            super().__init__(on_cpu(device), **named)

    torch.autocast = Autocast  # type: ignore[misc]
    torch.amp.GradScaler = GradScaler  # type: ignore[misc, assignment]


def _replace_nccl(note: Callable[[str], None]) -> None:
    initialise = dist.init_process_group

    def init_process_group(backend: str | None = None, *others: Any, device_id: Any = None, **named: Any) -> None:
        note(f"process group {backend} {device_id}")
        initialise("gloo", *others, **named)

    dist.init_process_group = init_process_group


@contextmanager
def sync_batch_norm_kernels() -> Iterator[None]:
    """A context in which the CPU has the operations of SyncBatchNorm, which torch has for GPUs, by their definition."""
    library = torch.library.Library("aten", "IMPL")
    for operation in (
        batch_norm_stats,
        batch_norm_gather_stats_with_counts,
        batch_norm_elemt,
        batch_norm_backward_reduce,
        batch_norm_backward_elemt,
    ):
        library.impl(operation.__name__, operation, "CPU")
    try:
        yield
    finally:
        library._destroy()


def _over(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _wide(value: Tensor, x: Tensor) -> Tensor:
    return value.view(1, -1, *[1] * (x.dim() - 2))


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x = _full(x)
    return x.mean(_over(x)), (x.var(_over(x), unbiased=False) + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    weight = counts.view(-1, 1)
    count = weight.sum()
    mean_of_all = (mean * weight).sum(0) / count
    variance = ((invstd**-2 - eps + (mean - mean_of_all) ** 2) * weight).sum(0) / count
    if running_mean is not None and running_var is not None:
        running_mean.mul_(1 - momentum).add_(mean_of_all * momentum)
        running_var.mul_(1 - momentum).add_(variance * count / (count - 1) * momentum)
    return mean_of_all, (variance + eps).rsqrt()


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    scale = invstd if weight is None else invstd * weight
    shift = torch.zeros_like(mean) if bias is None else bias
    return ((_full(x) - _wide(mean, x)) * _wide(scale, x) + _wide(shift, x)).to(x.dtype)


def batch_norm_backward_reduce(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    input_wanted: bool,
    weight_wanted: bool,
    bias_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    gradient = _full(gradient)
    total = gradient.sum(_over(x))
    centred = (gradient * (_full(x) - _wide(mean, x))).sum(_over(x))
    return total, centred, centred * invstd if weight_wanted else None, total.clone() if bias_wanted else None


def batch_norm_backward_elemt(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    total: Tensor,
    centred: Tensor,
    counts: Tensor,
) -> Tensor:
    count = counts.sum()
    scale = invstd if weight is None else invstd * weight
    shared = _wide(total / count, x) + (_full(x) - _wide(mean, x)) * _wide(invstd**2 * centred / count, x)
    return ((_full(gradient) - shared) * _wide(scale, x)).to(x.dtype)
