"""Networks and weights from elsewhere: the reference's, nnU-Net's, another package's, a file's."""

import json
import math
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segtrain.config import ModelConfig, NormName
from segtrain.errors import ConfigError
from segtrain.models.base import supervision_ratio
from segtrain.models.make import make_model


def test_keys_and_shapes_are_the_reference_s(golden: Path) -> None:
    shapes = json.loads((golden / "unet_init32_state_shapes.json").read_text())
    ours = {key: list(tensor.shape) for key, tensor in make_model(ModelConfig(), seed=0).state_dict().items()}
    assert ours == shapes
    assert list(ours) == list(shapes)


def test_outputs_are_the_reference_s(golden: Path) -> None:
    network = make_model(ModelConfig(features=4), seed=0).eval()
    with np.load(golden / "unet_init4.npz") as numbers:
        state = {k.removeprefix("state/"): torch.from_numpy(numbers[k]) for k in numbers if k.startswith("state/")}
        network.load_state_dict(state)
        with torch.inference_mode():
            probability = torch.sigmoid(network(torch.from_numpy(numbers["x"])))
        assert np.abs(probability.numpy() - numbers["y_eval"]).max() < 1e-5


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("norm", get_args(NormName))
def test_the_residual_u_net_is_dynunet(norm: NormName, depth: int) -> None:
    """The same function of the same weights, deep supervision and all."""
    from monai.networks.nets.dynunet import DynUNet

    options: dict[NormName, Any] = {
        "batch": "batch",
        "instance": ("instance", {"affine": True}),
        "group": ("group", {"num_groups": 4}),
    }
    ours = make_model(ModelConfig(name="resunet", features=4, depth=depth, norm=norm), seed=1)
    theirs = DynUNet(
        spatial_dims=2, in_channels=3, out_channels=1, kernel_size=[3] * (depth + 1), strides=[1] + [2] * depth,
        upsample_kernel_size=[2] * depth, filters=[4 * 2**level for level in range(depth + 1)], norm_name=options[norm],
        deep_supervision=True, deep_supr_num=max(1, depth - 2), res_block=True,
    )  # fmt: skip
    with torch.no_grad():
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(parameter)
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours.train()(x), theirs.train()(x), atol=1e-5)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)


def test_the_residual_u_net_is_as_wide_and_deep_as_nnu_net_s() -> None:
    network = make_model(ModelConfig(name="resunet"), seed=0)
    widths = [module.out_channels for name, module in network.named_modules() if name.endswith("conv1")]
    assert widths == [32, 64, 128, 256, 512, 512, 512, 256, 128, 64, 32]
    assert network.norm == "instance"
    assert supervision_ratio(ModelConfig(name="resunet")) == 0.5
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 1, 64, 64)


# Of dynamic-network-architectures 0.4.4: ResidualEncoderUNet, 4 to 32 features, blocks 1, 3, 4, 6, one convolution a
# stage of the decoder, instance norm, weights and image by `wave`, float64. Mean, first and last logit.
NNU_NET = {
    "full": (-1.6140933350761522, -1.4582185102051817, -1.6498508823181053),
    "half": (-0.38865429586278205, -0.36771656903713956, -0.30702908995008626),
}
NNU_NET_PARAMETERS = 71_816_165  # of six stages of 32 to 512 features, with a head at each of five levels


def wave(shape: tuple[int, ...], phase: int) -> Tensor:
    """Numbers that no generator draws, the same on every machine."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.37 + phase).reshape(shape)


def test_the_residual_encoder_is_nnu_net_s() -> None:
    network = make_model(ModelConfig(name="resenc", features=4, depth=3), seed=1).double().train()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            phase = zlib.crc32(name.encode()) % 100
            tensor.copy_(wave(tuple(tensor.shape), phase) / max(1, tensor[0].numel()) ** 0.5)
        full, half = network(wave((1, 3, 32, 32), 0))[0]
    for logits, theirs in ((full, NNU_NET["full"]), (half, NNU_NET["half"])):
        numbers = (logits.mean(), logits.flatten()[0], logits.flatten()[-1])
        assert [number.item() for number in numbers] == pytest.approx(theirs, abs=1e-9)
    parameters = sum(p.numel() for p in make_model(ModelConfig(name="resenc"), seed=1).parameters())
    assert parameters == NNU_NET_PARAMETERS - 513, "less the head at the coarsest level, which no loss reads"


def test_weights_of_nnu_net_s_residual_encoder_load(tmp_path: Path) -> None:
    """Its files have the weights of a convolution under two names, the encoder's under four, and all heads."""
    ours = make_model(ModelConfig(name="resenc", features=4, depth=3), seed=2)
    theirs = dict(ours.state_dict())
    for name, tensor in ours.state_dict().items():
        again = name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        theirs |= {again: tensor, **{f"decoder.{key}": tensor for key in {name, again} if key.startswith("encoder.")}}
    theirs |= {"decoder.seg_layers.0.weight": torch.ones(1, 16, 1, 1), "decoder.seg_layers.0.bias": torch.ones(1)}
    beside = {"_best_ema": np.float64(0.5), "logging": {"mean_fg_dice": [np.float32(0.5)]}, "init_args": {"fold": 0}}
    torch.save({"network_weights": theirs, **beside}, tmp_path / "checkpoint_final.pth")
    model = ModelConfig(name="resenc", features=4, depth=3, weights=str(tmp_path / "checkpoint_final.pth"))
    loaded = make_model(model, seed=1).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in ours.state_dict().items())


def test_mednext_has_the_paper_s_sizes(tmp_path: Path) -> None:
    """As MONAI makes them by name; its file, with all heads, loads."""
    from monai.networks.nets.mednext import create_mednext

    for size in "SBML":
        theirs = create_mednext(size, spatial_dims=2, in_channels=3, out_channels=1, deep_supervision=True)
        ours = make_model(ModelConfig(name={"part": "mednext", "size": size}), seed=1)
        heads = sum(p.numel() for head in list(theirs.out_blocks)[:2] for p in head.parameters())
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - heads
    small = create_mednext("S", spatial_dims=2, in_channels=3, out_channels=1, deep_supervision=True)
    torch.save(small.state_dict(), tmp_path / "mednext.pt")
    network = make_model(ModelConfig(name="mednext", weights=str(tmp_path / "mednext.pt")), seed=1)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), small.eval()(x))


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("option", "words"), [({"size": "XL"}, "size=XL .* S, B, M or L"), ({"kernel": 4}, "kernel=4 .* 3")]
)
def test_a_mednext_that_there_is_not_is_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.name=mednext: {words}"):
        make_model(ModelConfig(name={"part": "mednext", **option}), seed=1)


SMP = ModelConfig(name="smp:resnet34")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ConfigError, match=r"model\.name=smp:resnet34 .* pip install segmentation-models-pytorch"):
        make_model(SMP, seed=1)


class FakeUnet(nn.Module):
    """What the package promises: the same arguments, sides that are multiples of 32, logits of full size."""

    def __init__(self, encoder_name: str, encoder_weights: None, in_channels: int, classes: int) -> None:
        super().__init__()
        if encoder_name not in ("resnet34", "mit_b0"):
            raise KeyError(f"Wrong encoder name `{encoder_name}`,\nsupported encoders: ...")
        assert encoder_weights is None, "nothing is downloaded"
        self.encoder: Any = nn.Module()
        self.encoder.conv1 = nn.Conv2d(in_channels, 4, 3, padding=1, bias=False)
        self.encoder.bn1 = nn.BatchNorm2d(4)
        self.encoder.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False))
        self.encoder.classifier = nn.Linear(8, 8, bias=False)  # some encoders keep it
        self.segmentation_head = nn.Sequential(nn.Conv2d(4, classes, 1))
        self.drop = nn.Dropout(0.1 if encoder_name == "mit_b0" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        assert all(side % 32 == 0 for side in x.shape[-2:])
        x = self.encoder.layer1(self.encoder.bn1(self.encoder.conv1(self.drop(x) if self.drop.p else x)))
        logits: Tensor = self.segmentation_head(x)
        return logits


def test_an_encoder_of_another_package_is_wired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in: the package itself is not among what the tests install."""
    fake = SimpleNamespace(Unet=FakeUnet)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", fake)
    network = make_model(SMP, seed=1, in_channels=9)
    assert network.training
    assert network.state_dict()["network.encoder.bn1.num_batches_tracked"] == 0, "trying it left no trace"
    logits = network(torch.randn(2, 9, 101, 93))
    assert logits.shape == (2, 1, 101, 93)
    logits.sum().backward()
    asked = {name: p.grad is not None for name, p in network.named_parameters() if p.requires_grad}
    learnt = ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.weight"]
    head = ["network.segmentation_head.0.weight", "network.segmentation_head.0.bias"]
    assert asked == dict.fromkeys([f"network.encoder.{name}" for name in learnt] + head, True)
    assert supervision_ratio(SMP) == 0
    with pytest.raises(ConfigError, match=r"smp:vgg: .* no U-Net on 'vgg'; choose"):
        make_model(ModelConfig(name="smp:vgg"), seed=1)


@pytest.mark.law("L6")
def test_an_encoder_that_draws_in_training_is_taken_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As mit_b0 and efficientnet-b0 of the package do; the step seeds what they draw."""
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", SimpleNamespace(Unet=FakeUnet))
    before = torch.get_rng_state()
    network = make_model(ModelConfig(name="smp:mit_b0"), seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert "smp:mit_b0: logits" in network.description
    assert "draws in training, other numbers at other world sizes" in network.description
    assert "draws nothing" in make_model(SMP, seed=1).description
    x = torch.randn(2, 3, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = network(x)
        torch.manual_seed(1)
        assert torch.equal(first, network(x))
