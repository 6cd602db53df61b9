"""Batch norm over the samples of all ranks, by one collective forward and one backward.

torch's SyncBatchNorm runs on GPUs alone, and its host waits for the device three times a layer, to leave out ranks
without samples. Here all ranks have equally many samples, so the host knows the counts. On a GPU the kernels are those
that SyncBatchNorm calls, and few others: the host of a GPU with a small share of the batch is what a step waits for.

Legend: n samples, c channels, then any positions.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from segtrain.models.freeze import is_frozen
from segtrain.runtime.world import World

log = logging.getLogger(__name__)

ACTIVATED = ("drop", "act")  # the modules of a norm of timm's, applied in this order (timm/layers/norm_act.py)
# And the mean and biased variance by which it was, unless they are in what was running already.
Normalised = tuple[Tensor, Tensor | None, Tensor | None]
Running = tuple[Tensor, Tensor, float]  # mean and variance, which the kernels move, and the share of a batch in them


def over_all_ranks(network: nn.Module, world: World, compiled: bool, alone: bool = False) -> nn.Module:
    """The network with a GlobalBatchNorm in place of each batch norm, where there are several ranks, or one `alone`.

    Names in the state dict, weights and buffers stay the same. A batch norm that computes something else besides stays
    as it is, with a warning: each rank normalises its own samples. So does a frozen one, which sees no samples.
    """
    if world.size == 1 and not alone:
        return network
    if isinstance(network, _BatchNorm):
        return GlobalBatchNorm(network, world, compiled) if _is_known(network) else network
    replaced: dict[nn.Module, nn.Module] = {}  # a norm that the network has under two names stays one
    strange: set[str] = set()
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child is None or is_frozen(child):
                continue
            if isinstance(child, _BatchNorm) and _is_known(child):
                module._modules[name] = replaced.setdefault(child, GlobalBatchNorm(child, world, compiled))
            elif isinstance(child, _BatchNorm):
                strange.add(type(child).__qualname__)
    for name in sorted(strange) if world.is_main and not alone else ():
        log.warning(
            "%s is a batch norm with a forward of its own: each rank normalises its own samples there, so the training "
            "depends on the number of ranks",
            name,
        )
    return network


def _is_known(norm: _BatchNorm) -> bool:
    """Whether it is torch's, or has an activation at its end as timm's BatchNormAct2d, and nothing else."""
    return type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward) or norm._modules.keys() == set(
        ACTIVATED
    )


class GlobalBatchNorm(_BatchNorm):
    """A batch norm that normalises over the samples of all ranks in training; it communicates in training alone."""

    def __init__(self, norm: _BatchNorm, world: World, compiled: bool) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
        self.affine = norm.affine
        self.track_running_stats = norm.track_running_stats
        self.weight, self.bias = norm.weight, norm.bias
        self._buffers.update(norm._buffers)
        self._modules.update(norm._modules)
        self.train(norm.training)
        self.world = world
        # The compiler cannot see into collectives. It is imported only where it is used: that takes a second.
        self._normalise: Callable[..., Normalised] = torch.compiler.disable(normalise) if compiled else normalise

    def forward(self, input_nc: Tensor) -> Tensor:
        """The normalised input, after the norm's activation where it has one. Collective in training."""
        output_nc = self._normalised(input_nc)
        for name in ACTIVATED if self._modules else ():
            output_nc = self.get_submodule(name)(output_nc)
        return output_nc

    def _normalised(self, input_nc: Tensor) -> Tensor:
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            return functional.batch_norm(
                input_nc, mean, variance, self.weight, self.bias, training=mean is None, eps=self.eps
            )
        running = self._running() if _fused(input_nc) else None
        output_nc, mean, variance = self._normalise(input_nc, self.weight, self.bias, self.eps, self.world, running)
        if mean is not None and variance is not None:
            self._track(mean, variance, _count(input_nc, self.world))
        elif self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return output_nc

    def _running(self) -> Running | None:
        """What the kernels can move by themselves: a share that depends on the number of batches is on the device."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return None
        return self.running_mean, self.running_var, self.momentum

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics as nn.BatchNorm does; their variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        for running, value in ((self.running_mean, mean), (self.running_var, variance * (count / (count - 1)))):
            running.copy_(running * (1 - factor) + value * factor)


def normalise(
    input_nc: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    world: World,
    running: Running | None = None,
) -> Normalised:
    """The input normalised over the samples of all ranks; `running` is moved, on a GPU alone. Collective."""
    if _count(input_nc, world) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input_nc.shape}")
    normalised: Normalised
    if _fused(input_nc):
        normalised = _NormaliseOnGpu.apply(input_nc, weight, bias, eps, world, running)  # type: ignore[no-untyped-call]
    else:
        normalised = _Normalise.apply(input_nc, weight, bias, eps, world)  # type: ignore[no-untyped-call]
    return normalised


class _Normalise(torch.autograd.Function):
    """Each rank's samples move the mean and variance of all, so gradients are summed over ranks as well."""

    @staticmethod
    def forward(
        ctx: Any, input_nc: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, world: World
    ) -> Normalised:
        input_nc = input_nc.contiguous(memory_format=_layout(input_nc))
        mean, variance = _of_all_ranks(*_statistics(input_nc), world)
        invstd = (variance + eps).rsqrt()
        output_nc = torch.native_batch_norm(input_nc, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(input_nc, weight, mean, variance, invstd)
        ctx.eps, ctx.world = eps, world
        ctx.mark_non_differentiable(mean, variance)
        return output_nc, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_nc: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        input_nc, weight, mean, variance, invstd = ctx.saved_tensors
        gradient_nc = gradient_nc.contiguous(memory_format=_layout(input_nc))
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient_nc, input_nc, weight, mean, variance, mean, invstd, False, ctx.eps, [False, True, True]
        )
        of_output, of_centred = of_bias, of_weight / invstd
        of_output, of_centred = ctx.world.sum(torch.stack((of_output, of_centred)).double()).to(mean.dtype)
        sums = of_output, of_centred, _count(input_nc, ctx.world)
        of_input = _input_gradient(gradient_nc, input_nc, mean, invstd, weight, sums)
        if weight is None:
            return of_input, None, None, None, None
        # These two are this rank's: DDP and DeepSpeed sum them, as those of all weights.
        return of_input, of_weight, of_bias, None, None


class _NormaliseOnGpu(torch.autograd.Function):
    """The same by the kernels of SyncBatchNorm: torch/nn/modules/_functions.py."""

    @staticmethod
    def forward(
        ctx: Any,
        input_nc: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        world: World,
        running: Running | None,
    ) -> Normalised:
        input_nc = input_nc.contiguous(memory_format=_layout(input_nc))
        means, invstds = world.stacked(torch.stack(torch.batch_norm_stats(input_nc, eps))).unbind(1)
        counts, ctx.counts = _counts(_count(input_nc, world), world.size, means.dtype, means.device)
        running_mean, running_var, share = running or (None, None, 0.0)
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            input_nc, means, invstds, running_mean, running_var, share, eps, counts
        )
        output_nc = torch.batch_norm_elemt(input_nc, weight, bias, mean, invstd, eps)
        ctx.save_for_backward(input_nc, weight, mean, invstd)
        ctx.world = world
        if running:
            return output_nc, None, None
        variance = invstd**-2 - eps
        ctx.mark_non_differentiable(mean, variance)
        return output_nc, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_nc: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        input_nc, weight, mean, invstd = ctx.saved_tensors
        gradient_nc = gradient_nc.contiguous(memory_format=_layout(input_nc))
        has_weight = weight is not None
        of_output, of_centred, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient_nc, input_nc, mean, invstd, weight, True, has_weight, has_weight
        )
        of_output, of_centred = ctx.world.sum_into(torch.stack((of_output, of_centred)))
        of_input = torch.batch_norm_backward_elemt(
            gradient_nc, input_nc, mean, invstd, weight, of_output, of_centred, ctx.counts
        )
        return of_input, of_weight, of_bias, None, None, None


@lru_cache(64)  # one for each size of a layer
def _counts(count: int, ranks: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values of a channel on each rank, as the kernels of forward and backward want them."""
    counts = torch.full((ranks,), count // ranks, dtype=dtype, device=device)
    return counts, counts.to(torch.int32)


def _input_gradient(
    gradient_nc: Tensor,
    input_nc: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    sums: tuple[Tensor, Tensor, int],
) -> Tensor:
    """`sums` over all ranks: of the output's gradient, of it times the centred input, and of the samples."""
    of_output, of_centred, count = sums
    scale = invstd if weight is None else invstd * weight
    slope = -scale * invstd**2 * of_centred / count
    offset = -scale * of_output / count - slope * mean
    shape = (1, -1, *(1,) * (input_nc.dim() - 2))
    scaled_nc = torch.addcmul(offset.view(shape), gradient_nc, scale.view(shape))
    return scaled_nc.addcmul_(input_nc, slope.view(shape)).to(input_nc.dtype)


def _statistics(input_nc: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of this rank's samples, in float32 or more."""
    # Running statistics that nobody needs: the results have their type.
    unused = torch.zeros(2, input_nc.size(1), dtype=torch.promote_types(input_nc.dtype, torch.float32))
    mean, variance = torch.batch_norm_update_stats(input_nc, unused[0], unused[1], 0.0)
    return mean, variance


def _of_all_ranks(mean: Tensor, variance: Tensor, world: World) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all samples, from those of the ranks' equal shares. Collective.

    Their squares are added in float64: in float32 they would cancel.
    """
    own = mean.double()
    mean_of_all, square = world.sum(torch.stack((own, variance + own**2))) / world.size
    return mean_of_all.to(mean.dtype), (square - mean_of_all**2).clamp_min(0).to(mean.dtype)


def _count(input_nc: Tensor, world: World) -> int:
    """Values of a channel over all ranks."""
    return input_nc.numel() // input_nc.size(1) * world.size


def _layout(input_nc: Tensor) -> torch.memory_format:
    for dimensions, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if input_nc.dim() == dimensions and input_nc.is_contiguous(memory_format=layout):
            return layout
    return torch.contiguous_format


def _fused(input_nc: Tensor) -> bool:
    """Whether there are SyncBatchNorm's kernels."""
    return input_nc.is_cuda
