"""A pooling that keeps no indices: the same bits as torch's own, in less memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_recompute import pass_through
from torch import Tensor, nn
from torch.nn import functional as F

from segtrain.config import Config, ModelConfig, OptimConfig, TrainConfig
from segtrain.engines.engine import make_engine
from segtrain.losses.loss import DeepSupervision, make_loss
from segtrain.models.base import supervision_ratio
from segtrain.models.make import make_model
from segtrain.models.pooling import Halving
from segtrain.runtime.world import World

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(2, 17), st.integers(2, 17)),
    layout=st.sampled_from(LAYOUTS),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_values_and_gradients_are_torch_s(
    seed: int, shape: tuple[int, int, int, int], layout: torch.memory_format, levels: int
) -> None:
    """With few levels most maxima are there twice, and which of them has the gradient matters."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(levels, shape, generator=generator).float().contiguous(memory_format=layout)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    pooled, expected = Halving()(ours), F.max_pool2d(theirs, 2)
    gradient = torch.randn(pooled.shape, generator=generator)
    (pooled * gradient).sum().backward()
    (expected * gradient).sum().backward()
    assert torch.equal(pooled, expected)
    assert pooled.is_contiguous(memory_format=layout) == expected.is_contiguous(memory_format=layout)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_a_gradient_of_the_gradient_is_torch_s() -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float32)
    seconds = []
    for pool in (Halving(), nn.MaxPool2d(2)):
        leaf = x.clone().requires_grad_()
        [first] = torch.autograd.grad(pool(leaf).pow(3).sum(), leaf, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    assert torch.equal(*seconds)
    assert seconds[0].any()


def plain(network: nn.Module) -> nn.Module:
    """The network with torch's own pooling."""
    for module in network.modules():
        if isinstance(module, Halving):
            module.__class__ = nn.MaxPool2d  # type: ignore[assignment]
    return network


def test_no_indices_are_kept() -> None:
    (_, ours), (_, theirs) = pass_through(network()), pass_through(plain(network()))  # of 2 images of 64 px
    pixels = [2 * 4 * 2**level * (32 >> level) ** 2 for level in range(3)]
    assert theirs - ours == 8 * sum(pixels)


def network(**model: Any) -> nn.Module:
    return make_model(ModelConfig(features=4, depth=3, **model), 1).train()


WAYS = pytest.mark.parametrize(
    ("model", "more"),
    [
        ({}, {}),
        ({"channels_last": True}, {}),
        ({"channels_last": True}, {"precision": "bf16"}),
        ({"deep_supervision": 0.5, "norm": "instance"}, {}),
        ({"checkpoint_activations": True}, {}),
        ({}, {"train": TrainConfig(global_batch=4, micro_batch=1)}),
    ],
)


@WAYS
def test_a_training_has_the_bits_of_torch_s_layers(model: dict[str, Any], more: dict[str, Any]) -> None:
    require_same_training(model, more, plain)


def require_same_training(model: dict[str, Any], more: dict[str, Any], plain: Callable[[nn.Module], nn.Module]) -> None:
    """Equal losses and weights of the network as it is and of the one that `plain` makes of it."""
    losses, state = trained(model, more, lambda network: network)
    plain_losses, plain_state = trained(model, more, plain)
    assert losses == plain_losses
    assert losses[0] != losses[-1]
    assert all(torch.equal(state[name], tensor) for name, tensor in plain_state.items())


def trained(
    model: dict[str, Any], more: dict[str, Any], change: Callable[[nn.Module], nn.Module]
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of three steps."""
    cfg = Config(
        model=ModelConfig(features=4, depth=3, **model),
        **{"optim": OptimConfig(name="sgd"), "train": TrainConfig(global_batch=4), **more},
    )
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    mask = (image.mean(1, keepdim=True) > 0.3).float()
    loss = DeepSupervision(make_loss("dice"), supervision_ratio(cfg.model))
    engine = make_engine(cfg, change(make_model(cfg.model, 1)), loss, World())
    losses = [engine.step(image, mask, 1e-2, step=step).item() for step in range(3)]
    return losses, dict(engine.network.state_dict())
