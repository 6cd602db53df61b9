"""Errors that mean there was not enough memory. Imports torch."""

import torch

PRIMITIVE = "could not create a primitive"  # at the end: with more words behind it oneDNN cannot do such an operation
# In lower case. Not Triton's "out of resource: shared memory", which a smaller micro-batch needs as much of.
WORDS = (
    "can't allocate memory",  # torch's allocator on the CPU
    "std::bad_alloc",
    "could not create a memory object",  # oneDNN
    "out of memory",  # CUDA error, CUDA driver error, Triton Error [CUDA], NCCL's Cuda failure 2
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, and those of cuFFT, cuSPARSE, cuSOLVER and cuDNN before 9
    "_allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, or HOST
    "cudaerrormemoryallocation",  # the CUDA runtime's own name for it
    "cuda_error_out_of_memory",  # the driver's
)


class OutOfMemory(Exception):
    """There was not enough memory for a micro-batch.

    The network is as it was before the step, unless the update had begun: then the step is not `repeatable`.
    """

    def __init__(self, message: str = "", repeatable: bool = True) -> None:
        super().__init__(message)
        self.repeatable = repeatable


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that there was not enough memory, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).strip().lower()
    return isinstance(error, RuntimeError) and (message.endswith(PRIMITIVE) or any(word in message for word in WORDS))
