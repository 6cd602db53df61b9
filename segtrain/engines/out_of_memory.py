"""Errors that mean there was not enough memory."""

import torch

# Messages of torch's allocator on the CPU, and of oneDNN, cuDNN and cuBLAS, which allocate memory themselves.
PRIMITIVE = "could not create a primitive"  # at the end: with more words behind it oneDNN cannot do such an operation
WORDS = (
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a memory object",
    "ALLOC_FAILED",
    "CUDA error: out of memory",
)


class OutOfMemory(Exception):
    """There was not enough memory for a micro-batch; the network is as it was before the step."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that there was not enough memory, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).strip()
    return isinstance(error, RuntimeError) and (message.endswith(PRIMITIVE) or any(word in message for word in WORDS))
