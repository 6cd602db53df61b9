"""Have glibc keep the memory that a step, or the scoring of a batch, frees: the next one needs the same again.

A step at 256 px and a batch of 16 takes and frees some 3 GB of activations. By default glibc maps each large block
anew and gives it back at once, so the kernel zeroes every page of it at every step; docs/performance.md has what that
costs. Here large blocks come from the heap, and the heap does not shrink. No torch is imported: what counts is what
happens before its first allocation.
"""

import ctypes
import sys

from segtrain.config import AllocatorName, DeviceName

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
TOP_PAD_BYTES = 256 << 20  # the heap grows by this much at a time


def use_allocator(allocator: AllocatorName, device: DeviceName) -> None:
    """Have the process do as `allocator` says; call it before torch allocates. What a GPU computes needs none of it."""
    if allocator == "keep" and device != "cuda":
        keep_memory()


def keep_memory() -> bool:
    """Set the process's malloc so, for good; False (and nothing is changed) where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: TOP_PAD_BYTES}
    return all(libc.mallopt(option, value) == 1 for option, value in settings.items())
