"""Batch norm over all ranks: what one process computes from the whole batch, and what torch's SyncBatchNorm is."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import sync_batch_norm_kernels
from ranks import run_ranks
from torch import Tensor, nn

from benchmarks.gpu_counts import Operators
from segtrain.engines import batch_norm
from segtrain.engines.batch_norm import GlobalBatchNorm, over_all_ranks
from segtrain.runtime.world import World

SHAPES = {"1d": (8, 3), "1d positions": (8, 3, 5), "2d": (8, 3, 6, 4), "3d": (8, 3, 2, 4, 3)}
KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
Case = dict[str, Any]
CASES: dict[str, Case] = {
    **{name: {"shape": shape} for name, shape in SHAPES.items()},
    "channels last": {"shape": SHAPES["2d"], "layout": torch.channels_last},
    "float64": {"shape": SHAPES["2d"], "dtype": torch.float64},
    "bfloat16": {"shape": SHAPES["2d"], "dtype": torch.bfloat16},
    "float16": {"shape": SHAPES["2d"], "dtype": torch.float16, "layout": torch.channels_last},
    "without weights": {"shape": SHAPES["2d"], "options": {"affine": False}},
    "without running statistics": {"shape": SHAPES["2d"], "options": {"track_running_stats": False}},
    "mean of all batches": {"shape": SHAPES["2d"], "options": {"momentum": None}},
    "far from zero": {"shape": SHAPES["2d"], "dtype": torch.float64, "offset": 1e3},
}
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}


Answer = list[tuple[str, np.ndarray]]  # of each tensor its type and its values in float64, which processes can pass on


def plain(tensors: Iterable[Tensor]) -> Answer:
    return [(str(tensor.dtype), tensor.double().numpy()) for tensor in tensors]


def steps(case: Case, world: World) -> Answer:
    """Of two steps of a norm on this rank's share: outputs and gradients of the input; then what the norm holds."""
    shape, dtype = case["shape"], case.get("dtype", torch.float32)
    norm = KINDS[len(shape)](3, **case.get("options", {}))
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -0.5, 2.0]))
            norm.bias.copy_(torch.tensor([0.1, 0.0, -3.0]))
    if dtype == torch.float64:
        norm.double()
    layer = over_all_ranks(norm, world, compiled=False)
    assert isinstance(layer, GlobalBatchNorm) is (world.size > 1)
    share = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    answer: list[Tensor] = []
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        whole = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1 + case.get("offset", 0.0)
        image = whole[share].to(dtype).contiguous(memory_format=case.get("layout", torch.contiguous_format))
        output = layer(image.requires_grad_())
        output.backward(torch.randn(shape, generator=generator, dtype=torch.float64)[share].to(dtype))
        assert output.is_contiguous(memory_format=case.get("layout", torch.contiguous_format))
        assert image.grad is not None
        answer += [output.detach(), image.grad]
    held = [world.sum(parameter.grad) for parameter in layer.parameters() if parameter.grad is not None]
    layer.eval()
    # Without running statistics an evaluation normalises over the batch of its rank, as torch does.
    scored = [layer(image.detach()).detach()] if norm.track_running_stats else []
    return plain([*answer, *held, *layer.buffers(), *scored])


def cases(world: World) -> dict[str, Answer]:
    return {name: steps(case, world) for name, case in CASES.items()}


def compare(answers: list[dict[str, Answer]]) -> None:
    """Samples of all ranks together with those of one process; what the norm holds is equal on all."""
    alone = cases(World())
    for name, case in CASES.items():
        bound = BOUNDS[case.get("dtype", torch.float32)]
        together = zip(*(answer[name] for answer in answers), strict=True)
        for parts, (kind, expected) in zip(together, alone[name], strict=True):
            values = [value for _, value in parts]
            if expected.shape == case["shape"]:
                values = [np.concatenate(values)]
            assert {kind for kind, _ in parts} == {kind}
            assert all(np.array_equal(values[0], other) for other in values)
            np.testing.assert_allclose(values[0], expected, rtol=bound, atol=bound * 5, err_msg=name)


@pytest.mark.law("L5")
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_normalise_as_one_process_with_the_whole_batch(ranks: int) -> None:
    """Outputs, gradients of input, weight and bias, running statistics, evaluation."""
    compare(run_ranks(ranks, cases))


def cases_by_kernels_of_cuda(world: World) -> dict[str, Answer]:
    """As `cases`, through the operations that a GPU gets, in torch's own definition of SyncBatchNorm."""
    batch_norm._fused = lambda input_nc: True
    with sync_batch_norm_kernels():
        return cases(world)


@pytest.mark.law("L5")
def test_the_operations_of_a_gpu_are_the_same_batch_norm() -> None:
    compare(run_ranks(2, cases_by_kernels_of_cuda))


def sync_batch_norm(world: World) -> list[tuple[Answer, Operators]]:
    """This rank's output, gradients and running statistics by torch's SyncBatchNorm, and by ours; the work of each."""
    batch_norm._fused = lambda input_nc: True
    private = torch._C._get_privateuse1_backend_name
    norm = nn.BatchNorm2d(3)
    answers = []
    with sync_batch_norm_kernels():
        for layer in (
            nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(norm)),
            over_all_ranks(deepcopy(norm), world, compiled=False),
        ):
            image = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(world.rank)).requires_grad_()
            torch._C._get_privateuse1_backend_name = lambda: "cpu"  # else SyncBatchNorm refuses a CPU
            with Operators() as counted:
                output = layer(image)
                (output**3).sum().backward()
            torch._C._get_privateuse1_backend_name = private
            gradients = [tensor.grad for tensor in (image, *layer.parameters()) if tensor.grad is not None]
            answers.append((plain([output.detach(), *gradients, *layer.buffers()]), counted))
    return answers


def test_it_is_torch_s_synchronised_batch_norm_without_its_waits() -> None:
    """In as many collectives and in fewer operators: with a GPU for each few samples, the host is what a step takes."""
    for (theirs, their_work), (ours, our_work) in run_ranks(2, sync_batch_norm):
        for (_, one), (_, other) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        assert (len(their_work.waits), len(our_work.waits)) == (3, 0)
        assert len(our_work.collectives) == len(their_work.collectives) == 2
        assert len(our_work.calls) < len(their_work.calls)


def network() -> nn.Module:
    shared = nn.BatchNorm2d(3)
    return nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.Sequential(nn.ReLU(), shared), nn.BatchNorm2d(3).eval())


def test_every_batch_norm_of_a_network_is_replaced_and_its_state_stays() -> None:
    plain = network()
    converted = over_all_ranks(deepcopy(plain), World(0, 2), compiled=False)
    norms = [module for module in converted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert [type(norm) for norm in norms] == [GlobalBatchNorm] * 2, "one that is there twice stays one"
    assert [norm.training for norm in norms] == [True, False]
    ours, theirs = converted.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    converted.load_state_dict(theirs)
    deepcopy(converted)
    assert over_all_ranks(plain, World(), compiled=False) is plain
    assert not any(isinstance(module, GlobalBatchNorm) for module in plain.modules())


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the activation is a part of the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, input_nc: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input_nc)))
        return output


class Doubled(nn.BatchNorm2d):
    """A norm that nobody knows."""

    def forward(self, input_nc: Tensor) -> Tensor:
        return 2 * super().forward(input_nc)


def test_an_activation_of_a_norm_stays_and_a_norm_of_another_kind_is_left_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = nn.Sequential(Activated(3), Doubled(3)).eval()
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    converted = over_all_ranks(deepcopy(plain), World(0, 2), compiled=False)
    activated, doubled = converted.children()
    assert (type(activated), type(doubled)) == (GlobalBatchNorm, Doubled)
    assert list(converted.state_dict()) == list(plain.state_dict())
    assert torch.equal(converted(image), plain(image))
    assert (activated(image) >= 0).all()
    assert "Doubled is a batch norm with a forward of its own" in caplog.text


def test_a_single_value_is_refused_as_torch_refuses_it() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_norm.normalise(torch.zeros(1, 3, 1, 1), None, None, 1e-5, World())


@pytest.fixture(autouse=True)
def kernels_as_before() -> Iterator[None]:
    before = batch_norm._fused
    yield
    batch_norm._fused = before
