"""Transposed convolutions: the bias has its gradient by a sum, and all else is as in torch's own."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segtrain.config import Config, ModelConfig, TrainConfig
from segtrain.engines.ddp import DdpEngine
from segtrain.engines.transposed import SummedBias, sum_biases
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import World

pytestmark = pytest.mark.quick
CPU = torch.device("cpu")


class Biases(TorchDispatchMode):
    """Counts the transposed convolutions whose bias has its gradient by the convolution's own backward pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slow = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            transposed, wanted = args[7], args[10]
            self.slow += transposed and wanted[2]
        return func(*args, **(kwargs or {}))


def grown(**options: Any) -> nn.Sequential:
    """A layer and an activation that changes its output in place."""
    torch.manual_seed(0)
    return nn.Sequential(nn.ConvTranspose2d(4, 6, **options), nn.ReLU(inplace=True))


def gradients(network: nn.Module, image: Tensor, half: bool) -> tuple[Tensor, list[Tensor]]:
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = network(image)
    output.double().pow(2).mean().backward()
    return output.detach(), [image.grad, *(parameter.grad for parameter in network.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
        {"kernel_size": (3, 1), "stride": (1, 2), "dilation": (2, 1)},
    ],
)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_torch_s(options: dict[str, Any], half: bool, layout: torch.memory_format) -> None:
    """The bias's within rounding, beside a sum in float64; all others bit by bit."""
    theirs = grown(**options)
    ours = deepcopy(theirs)
    sum_biases(ours, CPU)
    image = torch.randn(2, 4, 9, 7).contiguous(memory_format=layout)
    expected, (*others, bias) = gradients(theirs, image, half)
    output, (*our_others, our_bias) = gradients(ours, image, half)
    assert torch.equal(output, expected)
    for gradient, value in zip(our_others, others, strict=True):
        assert torch.equal(gradient, value)
    exact = (2 * expected.double() / expected.numel()).sum((0, 2, 3))
    tolerance = 0.01 if half else 1e-6
    assert torch.allclose(our_bias.double(), exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))
    assert torch.allclose(bias.double(), exact, rtol=5 * tolerance, atol=5 * tolerance * float(exact.abs().max()))


def test_an_engine_never_asks_a_transposed_convolution_for_its_bias_s_gradient() -> None:
    """On a CPU in channels_last; names and weights in the state dict stay."""
    cfg = Config(model=ModelConfig(features=4, depth=2, channels_last=True), train=TrainConfig(global_batch=2))
    network = make_model(cfg.model, 0)
    names = list(network.state_dict())
    engine = DdpEngine(cfg, network, make_loss(cfg.loss), World())
    image = torch.randn(2, 3, 16, 16)
    with Biases() as counted:
        engine.step(image, (image[:, :1] > 1).float(), 1e-3)
    assert counted.slow == 0
    with Biases() as plain:
        make_model(cfg.model, 0)(image).sum().backward()
    assert plain.slow == 2, "or it counts nothing"
    assert list(engine.network.state_dict()) == names
    assert sum(isinstance(module, SummedBias) for module in engine.network.modules()) == 2
    contiguous = replace(cfg, model=replace(cfg.model, channels_last=False))
    engine = DdpEngine(contiguous, make_model(cfg.model, 0), make_loss(cfg.loss), World())
    assert not any(isinstance(module, SummedBias) for module in engine.network.modules())


def test_other_layers_and_devices_are_left_alone() -> None:
    """Without a bias, a frozen one, a class of its own, another device."""

    class Own(nn.ConvTranspose2d):
        pass

    network = nn.Sequential(nn.ConvTranspose2d(1, 1, 2, bias=False), Own(1, 1, 2), nn.ConvTranspose2d(1, 1, 2))
    sum_biases(network, torch.device("cuda"))
    assert not [module for module in network if isinstance(module, SummedBias)]
    sum_biases(network, CPU)
    assert [type(module) for module in network] == [nn.ConvTranspose2d, Own, SummedBias]
    bias = network[2].bias
    assert isinstance(bias, nn.Parameter)
    bias.requires_grad_(False)
    network(torch.ones(1, 1, 4, 4)).sum().backward()
    assert bias.grad is None
    assert network[2](torch.ones(1, 1, 4, 4), output_size=[5, 5]).shape == (1, 1, 5, 5)
