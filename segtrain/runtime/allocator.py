"""Settings that make glibc keep the memory that a step, or the scoring of a batch, frees for the next one.

A step at 256 px and a batch of 16 takes and frees some 3 GB of activations. By default glibc maps each large block
anew and returns it at once, so the kernel zeroes all of its pages at every step; docs/performance.md has the cost. With
these settings large blocks come from the heap, and the heap does not shrink. Nothing here imports torch.

Blocks in a heap cannot move, so a small one that lasts between large ones that are freed parts the hole that they
leave, and a hole must be up to 96 bytes larger than an aligned block that is to come into it. Hence, by a record of the
blocks of a step (docs/performance.md):

- What lasts is made by the first step: moments, oneDNN's primitives. During it large blocks are mapped apart from the
  heap (`begin_first_step`, `end_first_step`), so that what lasts lies together.
- For what is small gaps are left, in which no activation fits.
- What is cut off around an aligned block becomes part of its free neighbours, and is not kept for small requests
  (`without_small_caches`). A process can be told so only when it is started.
"""

import ctypes
import sys
import threading
from collections.abc import MutableMapping

from segtrain.config import AllocatorName, DeviceName

M_MXFAST, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = 1, -1, -2, -3, -4  # malloc.h
TOP_PAD_BYTES = 256 << 20  # the heap grows by this much at a time
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: TOP_PAD_BYTES, M_MXFAST: 0}  # -1: never smaller
APART = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 1 << 20, M_TOP_PAD: 128 << 10}  # during the first step
GAP_BYTES, GAPS = 512 << 10, 32
# Setting any of them ends glibc's own adjustment of the thresholds, so they become what it would have adjusted them to.
UNDO = {
    M_MMAP_MAX: 65536,
    M_MMAP_THRESHOLD: 32 << 20,
    M_TRIM_THRESHOLD: 64 << 20,
    M_TOP_PAD: 128 << 10,
    M_MXFAST: 128,
}  # mallopt(3)
TUNABLES, SMALL_CACHE = "GLIBC_TUNABLES", "glibc.malloc.tcache_count"  # no other C library reads them
_malloc_keeps = threading.Event()  # set from `keep_memory` to `give_memory_back`
_in_first_step = threading.Event()


def use_allocator(allocator: AllocatorName, device: DeviceName) -> None:
    """Apply the setting to this process, before torch allocates memory. What is done on a GPU does not need it."""
    if allocator == "keep" and device != "cuda":
        keep_memory()


def begin_first_step() -> None:
    """Have large blocks mapped apart, where memory is kept: the first step of a training is about to begin."""
    if _malloc_keeps.is_set() and (libc := _glibc()):
        _in_first_step.set()
        for option, value in APART.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)  # else they would come to lie in what is free at the heap's end


def end_first_step() -> None:
    """Keep memory again, where `begin_first_step` was called; later calls do nothing."""
    if _in_first_step.is_set() and (libc := _glibc()):
        _in_first_step.clear()
        keep_memory()
        _leave_gaps(libc)


def _leave_gaps(libc: ctypes.CDLL) -> None:
    """Free memory in the heap, in pieces that do not become one: the start of each block stays taken.

    The rest of the last block may become part of what follows it.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.realloc.restype, libc.realloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
    for block in [libc.malloc(GAP_BYTES) for _ in range(GAPS + 1)]:
        libc.realloc(block, 1)


def keep_memory() -> bool:
    """Make malloc keep freed memory until the process ends; False, and no change, where the C library is not glibc."""
    libc = _glibc()
    if libc is None:
        return False
    _malloc_keeps.set()
    return all(libc.mallopt(option, value) == 1 for option, value in KEEP.items())


def without_small_caches(environment: MutableMapping[str, str]) -> None:
    """Have processes that are started with this environment keep no small blocks apart, unless it says how many."""
    others = environment.get(TUNABLES, "")
    if SMALL_CACHE not in others:
        environment[TUNABLES] = ":".join(filter(None, (others, f"{SMALL_CACHE}=0")))


def give_memory_back() -> None:
    """Undo what malloc was told, and return what is free to the system, for a caller whose process goes on."""
    if _malloc_keeps.is_set() and (libc := _glibc()):
        _malloc_keeps.clear()
        _in_first_step.clear()
        for option, value in UNDO.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None  # musl has none
