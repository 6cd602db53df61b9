"""Networks for any contrasts and regions: a channel of logits for each region, those of the user's own too."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_models import CASES, CHEAP, each_case, fresh, image

from segtrain.config import ModelConfig
from segtrain.errors import ConfigError
from segtrain.models.cost import table
from segtrain.models.make import make_model
from segtrain.models.trial import checks_of

PARTS = Path(__file__).resolve().parent / "parts" / "networks"
SMP = ModelConfig(name="smp:mobilenet_v2")


def config(part: str, **model: object) -> ModelConfig:
    return ModelConfig(name=f"{PARTS}/{part}", **model)  # type: ignore[arg-type]


@each_case
def test_networks_have_a_channel_a_region(case: str) -> None:
    network = make_model(CASES[case], seed=1, in_channels=4, regions=3)
    x = image(2, channels=4)
    with torch.no_grad():
        assert network.eval()(x).shape == (2, 3, 64, 64)
        trained = network.train()(x)
    outputs = (2, trained.shape[1], 3, 64, 64) if network.supervised else (2, 3, 64, 64)
    assert trained.shape == outputs
    assert trained.shape[1] > 1


def test_smp_networks_have_a_channel_a_region() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    network = make_model(SMP, seed=1, in_channels=4, regions=3).eval()
    assert network(image(1, channels=4)).shape == (1, 3, 64, 64)


@each_case
def test_one_region_is_the_network_as_ever(case: str) -> None:
    """The same names and initial weights, bit by bit; with more regions, the heads alone have another shape."""
    ever, one, three = (fresh(case).state_dict(), *(make_model(CASES[case], 1, regions=r).state_dict() for r in (1, 3)))
    assert list(ever) == list(one) == list(three)
    assert all(torch.equal(ever[name], one[name]) for name in ever)
    others = [name for name in ever if ever[name].shape != three[name].shape]
    assert others
    axis = {name: 1 if name.endswith("conv_out.weight") else 0 for name in others}  # mednext's are transposed
    assert all(ever[name].shape[axis[name]] * 3 == three[name].shape[axis[name]] for name in others)


@pytest.mark.law("L12")
@pytest.mark.parametrize(("channels", "regions", "tensor"), [(3, 3, "conv.weight"), (4, 1, "enc1conv1.weight")])
def test_weights_for_other_data_are_refused(channels: int, regions: int, tensor: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(fresh("unet").state_dict(), file)
    cfg = replace(CHEAP["unet"], weights=str(file))
    with pytest.raises(ConfigError, match=rf"{tensor} is .*set model\.\*, data\.contrasts, data\.regions") as caught:
        make_model(cfg, 1, channels, regions=regions)
    assert "\n" not in str(caught.value)


def test_the_table_of_costs_is_for_the_datas_channels() -> None:
    rows = {row[0]: row for row in table(ModelConfig(features=4), 4, 32, regions=3)}
    parameters = sum(p.numel() for p in make_model(ModelConfig(features=4), 0, 4, 32, 3).parameters())
    assert rows["unet"][2] == f"{parameters / 1e6:.2f}"


# ---- of the user's own


def test_an_own_network_is_told_contrasts_and_regions() -> None:
    """What it returns are probabilities of each region, and its logits are those before its last sigmoid."""
    network = make_model(config("unet.py:UNet"), 1, in_channels=4, size_px=64, regions=3).eval()
    assert network.description.startswith(
        "unet.py:UNet(in_channels=4, out_channels=3): probabilities of 3 regions, taken as logits; 1 output"
    )
    x = image(2, 48, 64, channels=4)
    logits = network(x)
    assert logits.shape == (2, 3, 48, 64)
    assert torch.equal(torch.sigmoid(logits), network.inner(x))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["Body", "BestFirst", "BestLast", "Dictionary", "Sigmoid", "Quarter"])
@pytest.mark.parametrize("regions", [2, 3])
def test_outputs_of_several_regions_are_found(name: str, regions: int) -> None:
    network = make_model(config(f"outputs.py:{name}"), 1, 4, 64, regions).eval()
    assert f"of {regions} regions" in network.description
    assert network(image(2, 48, 64, channels=4)).shape == (2, regions, 48, 64)


def test_all_outputs_of_an_own_network_have_all_regions() -> None:
    network = make_model(config("outputs.py:BestFirst", deep_supervision=0.5), 1, 4, 64, 3).train()
    assert network(image(2, 48, 64, channels=4)).shape == (2, 2, 3, 48, 64)


NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F

class Exclusive(nn.Module):
    extra, function = 0, staticmethod(lambda x: F.softmax(x, dim=1))
    def __init__(self, in_channels, classes):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, classes + self.extra, 3, padding=1)
    def forward(self, x):
        return self.function(self.conv(x))

class Logarithm(Exclusive):
    function = staticmethod(lambda x: F.log_softmax(x, dim=1))

class WithBackground(Exclusive):
    extra = 1

class Pair(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 2, 3, padding=1)
    def forward(self, x):
        return F.softmax(self.conv(x), dim=1)
"""
REFUSED = {
    "Exclusive": "a softmax makes 3 regions exclude each other.*return logits, or a sigmoid of each",
    "Logarithm": "a softmax makes 3 regions exclude each other",
    "WithBackground": "gives 2 x 4 x .*and a mask has 3 channels, one a region, and the image's size",
    "Pair": "gives 2 x 2 x .*and a mask has 3 channels, one a region",
}


@pytest.mark.law("L12")
@pytest.mark.law("L13")
@pytest.mark.parametrize("name", REFUSED)
def test_regions_that_exclude_each_other_are_refused(name: str, tmp_path: Path) -> None:
    """By a softmax over them, over them and the background, or over two channels."""
    (tmp_path / "nets.py").write_text(NETWORKS)
    cfg = ModelConfig(name=f"{tmp_path}/nets.py:{name}")
    with pytest.raises(ConfigError, match=REFUSED[name]) as caught:
        make_model(cfg, 1, 4, 64, 3)
    assert "\n" not in str(caught.value)
    _, checks = checks_of(cfg, 4, 64, 3)
    assert checks[-1].verdict == "fails"
