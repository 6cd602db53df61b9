"""Every network of the table: any size, any seed, every way of training."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from segtrain.config import NETWORKS, Config, ModelConfig, NormName, OptimConfig, TrainConfig
from segtrain.engines.engine import Engine, make_engine
from segtrain.errors import ConfigError
from segtrain.losses.loss import DeepSupervision, make_loss
from segtrain.models.base import Network, supervision_ratio
from segtrain.models.cost import settings
from segtrain.models.make import make_model
from segtrain.runtime.world import World

# As cheap as each network can be, and once more the other way round where it can be deep supervised.
CHEAP: dict[str, ModelConfig] = {name: settings(ModelConfig(features=4), name) for name in NETWORKS}
TURNED = {
    f"{name}-turned": replace(CHEAP[name], deep_supervision=0.0 if supervision_ratio(CHEAP[name]) else 0.5)
    for name in NETWORKS
    if "deep_supervision" in NETWORKS[name].keys
}
CASES: dict[str, ModelConfig] = {**CHEAP, **TURNED}
each_case = pytest.mark.parametrize("case", sorted(CASES))
each_network = pytest.mark.parametrize("name", NETWORKS)


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
    [(name, norm) for name, part in NETWORKS.items() if "norm" in part.keys for norm in get_args(NormName)],
)
def test_every_norm_that_a_network_takes_is_the_one_it_has(name: str, norm: NormName) -> None:
    network = make_model(replace(CHEAP[name], norm=norm), seed=1)
    kinds = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "group": nn.GroupNorm}
    used = {kind for kind, layer in kinds.items() if any(isinstance(module, layer) for module in network.modules())}
    assert used == {norm}
    assert network(image(2)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "depth"), [(name, depth) for name, part in NETWORKS.items() if "depth" in part.keys for depth in (1, 2, 6)]
)
def test_every_depth_that_a_network_takes_is_the_one_it_has(name: str, depth: int) -> None:
    ratio = 0.5 if "deep_supervision" in NETWORKS[name].keys else None
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
    """In one piece, by the backend that generates no C++: what is traced is ours, code generation is torch's.

    With two levels, if their number can be chosen: each is the code of the one above.
    """
    torch.compiler.reset()
    model = replace(CHEAP[name], depth=2) if "depth" in NETWORKS[name].keys else CHEAP[name]
    network, x = make_model(model, seed=1).train(), image(2)
    plain = copy.deepcopy(network)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    logits = compiled(x)
    assert torch.allclose(logits, plain(x), atol=1e-5)
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


@pytest.mark.law("L12")
def test_dropout_is_an_option_of_resunet() -> None:
    model = replace(CHEAP["resunet"], name={"part": "resunet", "dropout": 0.5})
    network, plain = make_model(model, seed=1), copy.deepcopy(fresh("resunet"))
    assert network.state_dict().keys() == plain.state_dict().keys()
    x = image()
    assert torch.equal(network.eval()(x), plain.eval()(x))
    assert not torch.equal(network.train()(x), network.train()(x))
    with pytest.raises(ConfigError, match=r"dropout=1\.5 is no chance"):
        make_model(replace(model, name={"part": "resunet", "dropout": 1.5}), seed=1)
