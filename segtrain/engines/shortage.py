"""Which errors mean that memory did not suffice."""

import torch

# Of torch's allocator on the CPU, of oneDNN, of cuDNN and cuBLAS, which ask for memory by themselves.
WORDS = ("can't allocate memory", "could not create a memory object", "ALLOC_FAILED", "CUDA error: out of memory")


class OutOfMemory(Exception):
    """Memory did not suffice for a micro-batch; the network is as it was before the step."""


def is_shortage(error: BaseException) -> bool:
    """Whether the error says that there was not enough memory, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
