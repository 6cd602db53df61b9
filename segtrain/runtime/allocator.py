"""Settings that make glibc keep the memory that a step, or the scoring of a batch, frees for the next one.

A step at 256 px and a batch of 16 takes and frees some 3 GB of activations. By default glibc maps each large block
anew and returns it at once, so the kernel zeroes all of its pages at every step; docs/performance.md has the cost. With
these settings large blocks come from the heap, and the heap does not shrink. They must be made before torch's first
allocation, so nothing here imports torch.

An aligned block is cut out of one that is up to 96 bytes larger, and what is cut off is kept apart for small
requests, so that neighbours that are free again do not become one. `without_small_caches` has the pieces joined to
them: a tenth to a seventh of the memory of a step (docs/performance.md). A process can be told so only when it is
started.
"""

import ctypes
import sys
import threading
from collections.abc import MutableMapping

from segtrain.config import AllocatorName, DeviceName

M_MXFAST, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = 1, -1, -2, -3, -4  # malloc.h
TOP_PAD_BYTES = 256 << 20  # the heap grows by this much at a time
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: TOP_PAD_BYTES, M_MXFAST: 0}
# Setting any of them ends glibc's own adjustment of the thresholds, so they become what it would have adjusted them to.
UNDO = {
    M_MMAP_MAX: 65536,
    M_MMAP_THRESHOLD: 32 << 20,
    M_TRIM_THRESHOLD: 64 << 20,
    M_TOP_PAD: 128 << 10,
    M_MXFAST: 128,
}  # mallopt(3)
TUNABLES, SMALL_CACHE = "GLIBC_TUNABLES", "glibc.malloc.tcache_count"  # no other C library reads them
_kept = threading.Event()  # set while malloc keeps memory


def use_allocator(allocator: AllocatorName, device: DeviceName) -> None:
    """Apply the setting to this process, before torch allocates memory. A training on a GPU does not need it."""
    if allocator == "keep" and device != "cuda":
        keep_memory()


def keep_memory() -> bool:
    """Make malloc keep freed memory until the process ends; False, and no change, where the C library is not glibc."""
    libc = _glibc()
    if libc is None:
        return False
    _kept.set()
    return all(libc.mallopt(option, value) == 1 for option, value in KEEP.items())


def without_small_caches(environment: MutableMapping[str, str]) -> None:
    """Have processes that are started with this environment keep no small blocks apart, unless it says how many."""
    others = environment.get(TUNABLES, "")
    if SMALL_CACHE not in others:
        environment[TUNABLES] = ":".join(filter(None, (others, f"{SMALL_CACHE}=0")))


def give_memory_back() -> None:
    """Undo `keep_memory`, and return what is free to the system, for a caller whose process goes on."""
    if _kept.is_set() and (libc := _glibc()):
        _kept.clear()
        for option, value in UNDO.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None  # musl has none
