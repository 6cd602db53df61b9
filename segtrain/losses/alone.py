"""A context in which a loss sees no other ranks.

A loss of the user's own has the whole global batch already where it needs it. One that gathers over ranks by itself
would count each rank's samples once more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor


def _fill(outputs: list[Tensor], tensor: Tensor, *_: Any, **__: Any) -> None:
    outputs[0].copy_(tensor)


def _copy(output: Tensor, tensor: Tensor, *_: Any, **__: Any) -> None:
    output.copy_(tensor)


def _nothing(*_: Any, **__: Any) -> None:
    pass


# What each is in a job of one process.
STAND_INS = {
    "is_initialized": lambda: False,
    "get_world_size": lambda *_, **__: 1,
    "get_rank": lambda *_, **__: 0,
    "all_gather": _fill,
    "all_gather_into_tensor": _copy,
    "reduce_scatter_tensor": _copy,
    "all_reduce": _nothing,
    "reduce": _nothing,
    "broadcast": _nothing,
    "barrier": _nothing,
}


@contextmanager
def alone() -> Iterator[None]:
    """A context in which this process is the only rank, for calls through `torch.distributed`.

    Functions that a module imported by name before find no process group, and say so.
    """
    names = vars(dist)
    before = {name: names[name] for name in STAND_INS if name in names}
    group: Any = dist.group
    world = group.WORLD
    for name in before:
        names[name] = STAND_INS[name]
    group.WORLD = None
    try:
        yield
    finally:
        group.WORLD = world
        names.update(before)
