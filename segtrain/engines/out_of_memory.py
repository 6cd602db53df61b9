"""Which errors mean that memory did not suffice."""

import torch

# Of torch's allocator on the CPU, of oneDNN, of cuDNN and cuBLAS, which ask for memory by themselves.
PRIMITIVE = "could not create a primitive"  # at the end: more words behind it mean that oneDNN cannot do such a thing
WORDS = (
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a memory object",
    "ALLOC_FAILED",
    "CUDA error: out of memory",
)


class OutOfMemory(Exception):
    """Memory did not suffice for a micro-batch; the network is as it was before the step."""


def is_shortage(error: BaseException) -> bool:
    """Whether the error says that there was not enough memory, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).strip()
    return isinstance(error, RuntimeError) and (said.endswith(PRIMITIVE) or any(word in said for word in WORDS))
