"""Settings that make glibc keep the memory that a step, or the scoring of a batch, frees for the next one.

A step at 256 px and a batch of 16 takes and frees some 3 GB of activations. By default glibc maps each large block
anew and returns it at once, so the kernel zeroes all of its pages at every step; docs/performance.md has the cost. With
these settings large blocks come from the heap, and the heap does not shrink. They must be made before torch's first
allocation, so nothing here imports torch.
"""

import ctypes
import sys
import threading

from segtrain.config import AllocatorName, DeviceName

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
TOP_PAD_BYTES = 256 << 20  # the heap grows by this much at a time
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: TOP_PAD_BYTES}
# Setting any of them ends glibc's own adjustment of the thresholds, so they become what it would have adjusted them to.
UNDO = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20, M_TOP_PAD: 128 << 10}  # mallopt(3)
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
