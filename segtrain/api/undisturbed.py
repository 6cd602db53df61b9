"""The caller's process: as a new one while segtrain works in it, and as it was afterwards."""

import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from segtrain.data.sources.own import forget_fingerprints
from segtrain.errors import SegtrainError
from segtrain.runtime import stacks
from segtrain.runtime.allocator import give_memory_back
from segtrain.runtime.process import logging_as_before, on_this_machine

P = ParamSpec("P")
T = TypeVar("T")
LEAVE_S = 5.0  # for a thread to end that has nothing left to do
THREADS = ("outbox", "feed", "watch", "onlooker", "stop", "score", "augment")  # names of ours begin so
Setting = tuple[Callable[[], Any], Callable[[Any], None], Any]  # read, set, what a new process has


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context for work in a caller's process, after which that is as before.

    Within it torch is set as in a new process, so that the work has the same bits.
    """
    threads = set(threading.enumerate())
    with ExitStack() as stack:
        stack.callback(_give_memory_back)
        stack.enter_context(_environment())
        stack.enter_context(logging_as_before())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(_torch())
        stack.enter_context(_signal_for_stacks())
        stack.callback(_wait_for_threads, threads)
        forget_fingerprints()
        stack.enter_context(on_this_machine())
        yield


def plain_errors(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose SegtrainErrors come without our frames: those would keep a network in memory."""

    @wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except SegtrainError as error:
            error.__cause__ = error.__context__ = None
            raise error.with_traceback(None) from None

    return called


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@contextmanager
def _signal_for_stacks() -> Iterator[None]:
    """The signal that has the stacks written is ignored after a training."""
    handler = signal.getsignal(stacks.SIGNAL) if stacks.SIGNAL else None
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(stacks.SIGNAL, handler)


@contextmanager
def _torch() -> Iterator[None]:
    """Settings and generators of torch, and the generators of NumPy and Python."""
    import numpy as np  # slow to import, like torch
    import torch

    gpus = torch.cuda.is_initialized()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    gpu_states = torch.cuda.get_rng_state_all() if gpus else []
    gpu = torch.cuda.current_device() if gpus else None
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for setting in _settings():
            stack.callback(_set(*setting))
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            if gpus:
                torch.cuda.set_rng_state_all(gpu_states)
                torch.cuda.set_device(gpu)
            else:  # as where CUDA begins; it need not have begun by now
                torch.cuda.manual_seed_all(torch.initial_seed())


def _set(read: Callable[[], Any], write: Callable[[Any], None], new: Any) -> Callable[[], None]:
    """Set what a new process has; what sets it as before."""
    try:
        before = read()
        if before != new:
            write(new)
    except RuntimeError:  # set by torch's newer switches (fp32_precision), after which the older ones refuse
        return lambda: None
    return partial(write, before)


def _settings() -> Iterator[Setting]:
    import torch

    yield torch.get_num_threads, torch.set_num_threads, torch.get_num_threads()  # the training sets it
    yield torch.get_default_dtype, torch.set_default_dtype, torch.float32
    yield _is_deterministic, _be_deterministic, (False, False)
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
    for module, name, new in (
        (torch.backends.cudnn, "allow_tf32", True),
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cudnn, "deterministic", False),
        (torch.backends.cuda.matmul, "allow_tf32", False),
        (torch.utils.deterministic, "fill_uninitialized_memory", True),
    ):
        yield partial(getattr, module, name), partial(setattr, module, name), new


def _is_deterministic() -> tuple[bool, bool]:
    import torch

    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _be_deterministic(setting: tuple[bool, bool]) -> None:
    import torch

    if setting != _is_deterministic():  # even to switch off what is off, torch imports its compiler
        torch.use_deterministic_algorithms(setting[0], warn_only=setting[1])


def _wait_for_threads(before: set[threading.Thread]) -> None:
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(THREADS):
            thread.join(LEAVE_S)


def _give_memory_back() -> None:
    if comm := sys.modules.get("deepspeed.comm.comm"):
        vars(comm)["cdb"] = None  # its process group
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # after an error on the GPU nothing can be given back
            torch.cuda.empty_cache()
    give_memory_back()
