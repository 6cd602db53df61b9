"""Generators that a part of the user's own draws from: seeded for each sample, and put back afterwards (L4)."""

import functools
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segtrain.config.importing import PREFIX
from segtrain.data.order import generator

GLOBAL = 3  # generators that a process has one of: random, numpy.random, torch
MOST_OBJECTS = 5000  # that are looked through for generators

Reseed = Callable[[int], object]


@contextmanager
def kept() -> Iterator[None]:
    """A context after which the global generators are as they were before."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def numbers(seed: int, stream: int, position: int, count: int) -> list[int]:
    """Seeds for `count` generators besides the global ones: a function of the run's seed and the position."""
    drawn: NDArray[np.int64] = generator(seed, stream, position).integers(2**32, size=GLOBAL + count)
    return [int(number) for number in drawn]


def seed_all(seeds: Sequence[int], own: Sequence[Reseed]) -> None:
    """Seed the global generators and a part's own."""
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(seeds[2])  # torch.manual_seed would seed those of the GPU too
    for reseed, seed in zip(own, seeds[GLOBAL:], strict=True):
        reseed(seed)


def own_generators(part: Any) -> list[Reseed]:
    """What seeds the generators that a part keeps for itself: in attributes, closures, globals of its module."""
    found: list[Reseed] = []
    seen: dict[int, Any] = {}  # keeps the objects, so that no other gets the same id
    waiting = [part]
    while waiting and len(seen) < MOST_OBJECTS:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if reseed := _reseed_of(item):
            found.append(reseed)
        else:
            waiting += reversed(list(_inside(item)))
    return found


def _reseed_of(item: Any) -> Reseed | None:
    """What seeds a generator, or a transform of a library that keeps generators; None: it is neither."""
    if isinstance(item, type | types.ModuleType):
        return None
    if isinstance(item, np.random.Generator):
        return functools.partial(_reseed_generator, item)
    if isinstance(item, np.random.RandomState):
        return None if item is np.random.mtrand._rand else item.seed
    if isinstance(item, random.Random):
        return item.seed
    if isinstance(item, torch.Generator):
        return None if item is torch.default_generator else item.manual_seed
    for name in ("set_random_seed", "set_random_state"):  # albumentations; MONAI
        if callable(method := getattr(item, name, None)):
            reseed: Reseed = method
            return reseed
    return None


def _reseed_generator(item: np.random.Generator, seed: int) -> None:
    item.bit_generator.state = type(item.bit_generator)(seed).state


def _inside(item: Any) -> Iterator[Any]:
    """What an object is made of, where generators may be kept."""
    if isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, list | tuple):
        yield from item
    elif isinstance(item, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, types.MethodType):
        yield from (item.__self__, item.__func__)
    elif isinstance(item, types.FunctionType):
        yield from _of_function(item)
    elif not isinstance(item, type | types.ModuleType | str | bytes | np.ndarray | torch.Tensor):
        yield from getattr(item, "__dict__", {}).values()
        if _is_users(type(item)):  # its methods may draw from globals of its module
            methods = [value for kind in type(item).__mro__ for value in vars(kind).values()]
            yield from (method for method in methods if isinstance(method, types.FunctionType))


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    if _is_users(function):
        names = _names(function.__code__)
        yield from (value for name, value in function.__globals__.items() if name in names)


def _is_users(thing: Any) -> bool:
    """Whether a function or class is of the part's files; modules beside the part's own are in no table of Python's."""
    module = str(thing.__module__)
    return module.startswith(PREFIX) or module not in sys.modules


def _names(code: types.CodeType) -> set[str]:
    """Global names that a function's code uses, and those of functions inside it."""
    inside = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inside)
