"""What a rank does and sends, counted: a process group that counts, and functions of the training that are watched."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from segtrain.data import order, store_columns
from segtrain.runtime import files
from segtrain.training.loop import Loop
from segtrain.training.micro_batch import MemoryGuard


class Counts:
    """Numbers by stage and kind, of what is done while no other rank's work is done here."""

    def __init__(self) -> None:
        self.stage = "start"
        self.of: Counter[tuple[str, str]] = Counter()
        self._elsewhere = 0

    def add(self, kind: str, number: int = 1) -> None:
        if not self._elsewhere:
            self.of[self.stage, kind] += number

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """In the block, what is done is another rank's work."""
        self._elsewhere += 1
        try:
            yield
        finally:
            self._elsewhere -= 1

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """In the block, what is done is of the stage; after it, of a step."""
        self.stage = stage
        try:
            yield
        finally:
            self.stage = "step"


class Done(dist._Work):
    """A collective that has ended."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.future: Future[Any] = Future()
        self.future.set_result(result)

    def wait(self, *_: Any) -> bool:
        return True

    def get_future(self) -> Future[Any]:
        return self.future


class CountingGroup(dist.ProcessGroup):
    """Counts the bytes that this rank sends or receives, and leaves all tensors as they are.

    By ring for a sum, by tree for a broadcast: what NCCL and gloo do at best.
    """

    def __init__(self, counts: Counts, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.counts = counts
        self.held: list[Done] = []  # torch holds no reference of its own

    def _done(self, kind: str, size_bytes: float, result: Any) -> Done:
        self.counts.add(f"{kind}, calls")
        self.counts.add(f"{kind}, bytes", round(size_bytes))
        self.held.append(Done(result))
        return self.held[-1]

    def allreduce(self, tensors: list[Tensor], *_: Any) -> Done:
        return self._done("sum", 2 * (self.size() - 1) / self.size() * _bytes(tensors), tensors)

    def broadcast(self, tensors: list[Tensor], *_: Any) -> Done:
        return self._done("broadcast", _bytes(tensors), tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], *_: Any) -> Done:
        for output in outputs[0]:
            output.copy_(inputs[0])
        return self._done("gather to all", (self.size() - 1) * _bytes(inputs), outputs)

    def _allgather_base(self, output: Tensor, one: Tensor, *_: Any) -> Done:
        output.view(self.size(), *one.shape).copy_(one.expand(self.size(), *one.shape))
        return self._done("gather to all", (self.size() - 1) * _bytes([one]), output)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], *_: Any) -> Done:
        for output in outputs[0] if outputs else ():
            output.copy_(inputs[0])
        return self._done("gather", (1 if self.rank() else self.size() - 1) * _bytes(inputs), outputs)

    def barrier(self, *_: Any) -> Done:
        return self._done("barrier", 0, [])

    def getBackendName(self) -> str:  # noqa: N802
        return "counting"


def _bytes(tensors: Sequence[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def counted(counts: Counts, store: Path) -> Iterator[None]:
    """In the block, stages are told apart, and what is read of the index and asked about files is counted."""
    real_step, real_entry, real_columns = MemoryGuard.step, store_columns.ColumnsFile.entry, order.Order.columns

    def step(*words: Any) -> Any:
        counts.stage = "step"
        counts.add("steps")
        return real_step(*words)

    def entry(file: Any, path: Path, patient: str) -> Any:
        first, end = file.span[file.columns.row[patient]].tolist()
        counts.add("bytes of index and columns", end - first)
        return real_entry(file, path, patient)

    def columns(self: Any, rank: int, world_size: int) -> slice:
        part = real_columns(self, rank, world_size)
        if counts.of["start", "samples of a batch"] == 0:
            counts.add("samples of a batch", part.stop - part.start)
        return part

    with_count = partial(_asked, counts, store)
    with ExitStack() as patches:
        for target, name, replacement in (
            (os, "stat", with_count(os.stat)),
            (os, "access", with_count(os.access)),
            (os, "listdir", with_count(os.listdir)),
            (store_columns, "open_file", _reads(counts, store_columns.open_file, ".npz")),
            (files, "sha256", _reads(counts, files.sha256, ".json")),
            (store_columns.ColumnsFile, "entry", entry),
            (order.Order, "columns", columns),
            (MemoryGuard, "step", step),
            (Loop, "_evaluate", _staged(counts, "evaluation", Loop._evaluate)),
            (Loop, "_save", _staged(counts, "checkpoint", Loop._save)),
        ):
            patches.enter_context(mock.patch.object(target, name, replacement))
        yield


def _staged(counts: Counts, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*words: Any, **options: Any) -> Any:
        with counts.during(stage):
            return function(*words, **options)

    return counted


def _asked(counts: Counts, store: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(path: Any, *words: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and str(path).startswith(f"{store}/"):
            counts.add("questions about files")
        return function(path, *words, **options)

    return counted


def _reads(counts: Counts, function: Callable[..., Any], suffix: str) -> Callable[..., Any]:
    def counted(path: Path, *words: Any) -> Any:
        if path.suffix == suffix:
            counts.add("bytes of index and columns", path.stat().st_size)
        return function(path, *words)

    return counted
