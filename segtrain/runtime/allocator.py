"""Settings that make glibc keep the memory that a step, or the scoring of a batch, frees for the next one.

A step at 256 px and a batch of 16 takes and frees some 3 GB of activations. By default glibc maps each large block
anew and returns it at once, so the kernel zeroes all of its pages at every step; docs/performance.md has the cost. With
these settings large blocks come from the heap, and the heap does not shrink. They must be made before torch's first
allocation, so nothing here imports torch.
"""

import ctypes
import sys

from segtrain.config import AllocatorName, DeviceName

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
TOP_PAD_BYTES = 256 << 20  # the heap grows by this much at a time


def use_allocator(allocator: AllocatorName, device: DeviceName) -> None:
    """Apply the setting to this process, before torch allocates memory. A training on a GPU does not need it."""
    if allocator == "keep" and device != "cuda":
        keep_memory()


def keep_memory() -> bool:
    """Make malloc keep freed memory until the process ends; False, and no change, where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: TOP_PAD_BYTES}
    return all(libc.mallopt(option, value) == 1 for option, value in settings.items())
