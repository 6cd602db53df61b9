"""What tests of running out of memory share: a small training, and the errors that say that memory ended."""

from dataclasses import replace

import torch
from torch import Tensor

from segtrain.config import Config, ModelConfig, OptimConfig, TrainConfig
from segtrain.engines.engine import Engine, make_engine
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import World

BATCH = Config(
    data=replace(Config().data, image_size=32),
    model=ModelConfig(features=4, norm="batch"),
    optim=OptimConfig(lr=1e-2, ema=0.9),
    train=TrainConfig(global_batch=8),
)
SHORTAGES = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"),
    "c++": RuntimeError("std::bad_alloc"),
    "onednn": RuntimeError("could not create a primitive"),
    "python": MemoryError(),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuDNN 9, host": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    "cuDNN 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "runtime": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    "driver": RuntimeError("CUDA driver error: out of memory"),  # of the allocator's expandable segments
    "pinned": RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in the documentation"),
    "triton": RuntimeError("Triton Error [CUDA]: out of memory"),
    "nccl": torch.distributed.DistBackendError("unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
}


def make(cfg: Config, world: World) -> Engine:
    return make_engine(cfg, make_model(cfg.model, seed=1), make_loss(cfg.loss), world)


def batch(step: int, share: int = 8, px: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    image = torch.randn(share, 3, px, px, generator=generator)
    return image, (image.mean(1, keepdim=True) > 0.3).float()


def same(one: Engine, other: Engine) -> None:
    for ours, theirs in zip(one.snapshot()[:2], other.snapshot()[:2], strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name
