"""Every network of the dict: any size, any seed, every way of training. The U-Net is the reference's."""

import copy
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from ranks import run_ranks
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from segtrain.config import TAKES, Config, ModelConfig, ModelName, NormName, OptimConfig, TrainConfig
from segtrain.dist import World
from segtrain.engines import Engine, make_engine
from segtrain.errors import ConfigError
from segtrain.losses import DeepSupervision, make_loss
from segtrain.models import MODELS, Network, load_weights, make_model, supervision_ratio
from segtrain.networks import settings

# As cheap as each network can be, and once more the other way round where it can be deep supervised.
CHEAP: dict[str, ModelConfig] = {name: settings(ModelConfig(features=4), name) for name in MODELS}
TURNED = {
    f"{name}-turned": replace(CHEAP[name], deep_supervision=0.0 if supervision_ratio(CHEAP[name]) else 0.5)
    for name in MODELS
    if "deep_supervision" in TAKES[name]
}
CASES: dict[str, ModelConfig] = {**CHEAP, **TURNED}
each_case = pytest.mark.parametrize("case", sorted(CASES))
each_network = pytest.mark.parametrize("name", MODELS)


def image(batch: int = 1, height: int = 64, width: int = 64, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


@cache
def fresh(case: str) -> Network:
    """Shared by tests that change nothing of it; the others copy it."""
    return make_model(CASES[case], seed=1)


def engine_of(model: ModelConfig, world: World, **cfg: Any) -> Engine:
    whole = Config(model=model, **cfg)
    loss = DeepSupervision(make_loss(whole.loss), supervision_ratio(model))
    return make_engine(whole, make_model(model, seed=1), loss, world)


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
    x = image(2)
    assert torch.allclose(ours.train()(x), theirs.train()(x), atol=1e-5)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)


def test_the_residual_u_net_is_as_wide_and_deep_as_nnu_net_s() -> None:
    network = make_model(ModelConfig(name="resunet"), seed=0)
    widths = [module.out_channels for name, module in network.named_modules() if name.endswith("conv1")]
    assert widths == [32, 64, 128, 256, 512, 512, 512, 256, 128, 64, 32]
    assert network.norm == "instance"
    assert supervision_ratio(ModelConfig(name="resunet")) == 0.5
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 1, 64, 64)


@each_case
@pytest.mark.parametrize("size", [(256, 256), (101, 93)])
def test_any_size_passes_and_every_parameter_learns(case: str, size: tuple[int, int]) -> None:
    """DDP waits for the gradient of every parameter."""
    network, x = copy.deepcopy(fresh(case)), image(1, *size)
    logits = network.train()(x)
    outputs = logits.unbind(1) if network.supervised else [logits]
    assert network.supervised == (supervision_ratio(CASES[case]) > 0)
    assert (len(outputs) > 1) == network.supervised
    assert all(output.shape == (1, 1, *size) for output in outputs)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    logits = network.eval()(x)
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all()


@each_case
def test_the_smallest_image_passes(case: str) -> None:
    assert copy.deepcopy(fresh(case)).train()(image(2, 16, 17)).isfinite().all()


@each_network
def test_an_odd_size_is_the_next_one_with_its_edge_repeated_and_cut_off_again(name: str) -> None:
    network = copy.deepcopy(fresh(name)).eval()
    right = -90 % network.multiple
    x = image(1, 128, 90)
    with torch.no_grad():
        assert torch.equal(network(x), network(F.pad(x, (0, right, 0, 0), mode="replicate"))[..., :90])


@pytest.mark.parametrize("case", [case for case in CASES if supervision_ratio(CASES[case]) and case != "unet-turned"])
def test_the_first_output_of_training_is_that_of_evaluation(case: str) -> None:
    """Finest first; seen where the norm does not tell training from evaluation."""
    network, x = copy.deepcopy(fresh(case)), image(2, 96, 80)
    with torch.no_grad():
        assert torch.equal(network.train()(x)[:, 0], network.eval()(x))


@each_network
def test_the_seed_alone_decides_the_initial_weights(name: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = make_model(CHEAP[name], seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = make_model(CHEAP[name], seed=5).state_dict()
    other = make_model(CHEAP[name], seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_heads_of_deep_supervision_leave_the_other_weights_alone() -> None:
    plain, deep = fresh("unet").state_dict(), fresh("unet-turned").state_dict()
    assert [key for key in deep if key not in plain] == ["conv2.weight", "conv2.bias", "conv3.weight", "conv3.bias"]
    assert all(torch.equal(plain[key], deep[key]) for key in plain)


@each_network
def test_neighbouring_slices_are_channels(name: str) -> None:
    network = make_model(CHEAP[name], seed=1, in_channels=9).eval()
    with torch.no_grad():
        assert network(image(channels=9)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name, takes in TAKES.items() if "norm" in takes for norm in get_args(NormName)],
)
def test_every_norm_that_a_network_takes_is_the_one_it_has(name: ModelName, norm: NormName) -> None:
    network = make_model(replace(CHEAP[name], norm=norm), seed=1)
    kinds = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "group": nn.GroupNorm}
    used = {kind for kind, layer in kinds.items() if any(isinstance(module, layer) for module in network.modules())}
    assert used == {norm}
    assert network(image(2)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "depth"), [(name, depth) for name, takes in TAKES.items() if "depth" in takes for depth in (1, 2, 6)]
)
def test_every_depth_that_a_network_takes_is_the_one_it_has(name: ModelName, depth: int) -> None:
    ratio = 0.5 if "deep_supervision" in TAKES[name] else None
    network = make_model(replace(CHEAP[name], features=2 if depth == 6 else 4, depth=depth, deep_supervision=ratio), 1)
    assert network.multiple == 2**depth
    logits = network.train()(image(2, 40, 40))
    assert logits.shape == ((2, max(depth - 1, min(depth, 2)), 1, 40, 40) if ratio else (2, 1, 40, 40))
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@each_case
def test_bf16_gives_nearly_the_same(case: str) -> None:
    network, x = copy.deepcopy(fresh(case)).train(), image(2)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(x)
    low.float().square().sum().backward()
    assert low.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    high = network(x)
    assert (low - high).abs().mean() < 0.05 * high.std()


@each_network
def test_a_compiled_network_gives_the_same(name: str) -> None:
    """In one piece, by the backend that generates no C++: what is traced is ours, code generation is torch's."""
    torch.compiler.reset()
    network, x = copy.deepcopy(fresh(name)).train(), image(2)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    logits = compiled(x)
    assert torch.allclose(logits, copy.deepcopy(fresh(name)).train()(x), atol=1e-5)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@each_case
def test_a_network_is_copied_after_training_and_holds_nothing_of_it(case: str) -> None:
    network, x = copy.deepcopy(fresh(case)), image(2)
    network.train()(x).sum().backward()
    again = copy.deepcopy(network)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), again.eval()(x))
    network.train()(x).sum().backward()


@each_case
def test_weights_go_through_a_file(case: str, tmp_path: Path) -> None:
    network = make_model(CASES[case], seed=7)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "model.pt")
    torch.save(network.state_dict(), tmp_path / "model.pth")
    for file in tmp_path.iterdir():
        loaded = make_model(replace(CASES[case], weights=str(file)), seed=1).state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in network.state_dict().items())


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network, file = make_model(ModelConfig(features=4), seed=1), tmp_path / "model.safetensors"
    state = network.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}

    def message(path: Path) -> str:
        with pytest.raises(ConfigError) as error:
            load_weights(network, path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        return str(error.value)

    save_file(make_model(ModelConfig(features=8), seed=1).state_dict(), file)
    assert "encoder1.enc1conv1.weight is [8, 3, 3, 3], the network's is [4, 3, 3, 3]; set model" in message(file)
    save_file({key: tensor for key, tensor in state.items() if key != "conv.bias"}, file)
    assert "has no conv.bias" in message(file)
    save_file({**state, "conv9.bias": torch.zeros(1)}, file)
    assert "has conv9.bias" in message(file)
    file.write_bytes(file.read_bytes()[:100])
    assert "not a file of weights" in message(file)
    assert "No such file" in message(tmp_path / "none.pt")
    assert "convert" in message(tmp_path / "model.h5")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "no state dict" in message(tmp_path / "list.pt")
    torch.save(network, tmp_path / "whole.pt")
    assert "not a file of weights" in message(tmp_path / "whole.pt")
    (tmp_path / "text.pth").write_text("weights")
    assert "not a file of weights" in message(tmp_path / "text.pth")
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items()), "nothing was taken"


def batch() -> tuple[Tensor, Tensor]:
    x = image(4, seed=3)
    return x, (x.mean(1, keepdim=True) > 0.3).float()


def train_each(world: World) -> dict[str, list[float]]:
    """Losses of two steps of each network, on this rank. The second shows that the first moved all ranks alike."""
    x, mask = batch()
    share = len(x) // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    losses = {}
    for case, model in CASES.items():
        engine = engine_of(model, world, optim=OptimConfig(name="sgd"), train=TrainConfig(global_batch=4))
        losses[case] = [engine.step(x[mine], mask[mine], lr=0.05).item() for _ in range(2)]
    return losses


@pytest.fixture(scope="module")
def losses() -> list[dict[str, list[float]]]:
    """On one rank, then on each of two; all networks in one job, since starting it is what takes time."""
    return [train_each(World()), *run_ranks(2, train_each)]


@pytest.mark.law("L5")
@each_case
def test_two_ranks_train_as_one(case: str, losses: list[dict[str, list[float]]]) -> None:
    alone, first, second = (each[case] for each in losses)
    assert first == second
    assert alone[0] != alone[1]
    if fresh(case).norm != "batch":  # which sees its rank's share, except on CUDA
        assert first == pytest.approx(alone, abs=1e-5)


@pytest.mark.law("L6")
@each_case
def test_another_engine_goes_on_bit_for_bit(case: str) -> None:
    alone, again = (engine_of(CASES[case], World(), optim=OptimConfig(lr=1e-2)) for _ in range(2))
    alone.step(*batch(), 1e-2)
    model, moments, extra = alone.snapshot()
    assert len(moments) == 3 * len(list(alone.network.parameters())), "Adam's, of every parameter once"
    again.restore(model, moments, extra)
    assert alone.step(*batch(), 1e-2).item() == again.step(*batch(), 1e-2).item()
    after, ours = again.network.state_dict(), alone.network.state_dict()
    assert all(torch.equal(ours[key], after[key]) for key in ours)
    assert torch.equal(alone.logits(batch()[0]), again.logits(batch()[0]))


def test_a_gate_needs_two_features() -> None:
    with pytest.raises(ConfigError, match=r"model\.features=1: .* set model\.features=2"):
        make_model(ModelConfig(name="attention_unet", features=1), seed=1)


SMP = ModelConfig(name="smp:resnet34")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ConfigError, match=r"model\.name=smp:resnet34 .* pip install 'segtrain\[smp\]'"):
        make_model(SMP, seed=1)


class FakeUnet(nn.Module):
    """What the package promises: the same arguments, sides that are multiples of 32, logits of full size."""

    def __init__(self, encoder_name: str, encoder_weights: None, in_channels: int, classes: int) -> None:
        super().__init__()
        if encoder_name != "resnet34":
            raise KeyError(f"Wrong encoder name `{encoder_name}`,\nsupported encoders: ...")
        assert encoder_weights is None, "nothing is downloaded"
        self.conv = nn.Conv2d(in_channels, classes, 1)
        self.norm = nn.BatchNorm2d(classes)
        self.classifier = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        assert all(side % 32 == 0 for side in x.shape[-2:])
        logits: Tensor = self.norm(self.conv(x))
        return logits


def test_an_encoder_of_another_package_is_wired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in: the package itself is not among what the tests install."""
    fake = SimpleNamespace(Unet=FakeUnet)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", fake)
    network = make_model(SMP, seed=1, in_channels=9)
    assert network.training
    assert network.state_dict()["network.norm.num_batches_tracked"] == 0, "trying it left no trace"
    logits = network(image(2, 101, 93, channels=9))
    assert logits.shape == (2, 1, 101, 93)
    logits.sum().backward()
    asked = {name: p.grad is not None for name, p in network.named_parameters() if p.requires_grad}
    assert asked == {f"network.{name}": True for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")}
    assert supervision_ratio(SMP) == 0
    with pytest.raises(ConfigError, match=r"smp:vgg: .* no U-Net on 'vgg'; choose"):
        make_model(ModelConfig(name="smp:vgg"), seed=1)
