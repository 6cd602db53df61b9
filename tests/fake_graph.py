"""A stand-in for CUDA graphs on a CPU: the operators of a step are recorded, and computed again at each launch.

As on a GPU a recording computes nothing that stays, a launch reads and writes the tensors of the recording, numbers
from Python are those of the recording, and an operator for which the host would wait cannot be recorded.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu_counts import waits_for

Note = Callable[[str], None]


class FakeGraph:
    """What `torch.cuda.CUDAGraph` is to its users."""

    note: Note = print

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []  # operator, arguments by place and by name, results

    def replay(self) -> None:
        """Compute all operators again, from and into the tensors of the recording."""
        self.note("graph launched")
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for operator, args, kwargs, results in self.calls:
                again = operator(*args, **kwargs)
                for place, value in zip(_tensors(results), _tensors(again), strict=True):
                    if place.data_ptr() != value.data_ptr():  # neither a view nor written in place
                        place.detach().copy_(value)


class _Recorder(TorchDispatchMode):
    """Takes down each operator, and what tensors that were there before held before it."""

    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph
        self.ours: set[int] = set()  # storages that the recording made
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # by storage: a tensor and its values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits_for(func, args):
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({func})")
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage().data_ptr()
            if storage not in self.ours and storage not in self.before:
                self.before[storage] = tensor.detach(), tensor.detach().clone()
        results = func(*args, **kwargs)
        known = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        self.ours |= {tensor.untyped_storage().data_ptr() for tensor in _tensors(results)} - known
        self.graph.calls.append((func, args, kwargs, results))
        return results

    def undo(self) -> None:
        """Give all tensors that were there before the values that they had."""
        with torch.no_grad():
            for tensor, values in self.before.values():
                tensor.copy_(values)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class FakeStream:
    """A stream, beside which there is no other work."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        pass


class _Current(threading.local):
    """A thread's stream, and whether it is being recorded."""

    def __init__(self) -> None:
        self.stream = FakeStream()
        self.recorded = False


CURRENT = _Current()


def _set_stream(stream: FakeStream) -> None:
    CURRENT.stream = stream


@contextmanager
def _on(stream: FakeStream) -> Iterator[None]:
    before = CURRENT.stream
    CURRENT.stream = stream
    try:
        yield
    finally:
        CURRENT.stream = before


@contextmanager
def recorded(graph: FakeGraph, **_: Any) -> Iterator[None]:
    """What `torch.cuda.graph` is to its users.

    After an error a recording cannot be ended, and its stream stays the current one.
    """
    graph.note("graph recorded")
    recorder = _Recorder(graph)
    before = CURRENT.stream
    CURRENT.stream, CURRENT.recorded = FakeStream(), True
    try:
        with recorder:
            yield
    except Exception as error:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from error
    finally:
        CURRENT.recorded = False
        recorder.undo()
    CURRENT.stream = before


def replacements(note: Note) -> dict[str, Any]:
    """Names in `torch.cuda`, and what stands for them."""
    kind = type("NotedGraph", (FakeGraph,), {"note": staticmethod(note)})
    return {
        "CUDAGraph": kind,
        "graph": recorded,
        "Stream": FakeStream,
        "stream": _on,
        "current_stream": lambda device=None: CURRENT.stream,
        "set_stream": _set_stream,
        "empty_cache": lambda: note("cache emptied in a graph" if CURRENT.recorded else "cache emptied"),
    }
