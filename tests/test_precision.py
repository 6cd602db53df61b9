"""The precision of float32 on CUDA: plain torch's by default, and set so that torch's own getters still answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch

from segtrain.config import Config, ModelConfig, Precision
from segtrain.engines.precision import AUTOCAST, ON_CUDA, described_precision, prefers_channels_last, use_tf32
from segtrain.errors import LaunchError
from segtrain.run.environment import arithmetic_of
from segtrain.runtime.gpu import is_ampere_or_newer
from segtrain.training.build import refuse_for_device

TYPES = [precision for precision in get_args(Precision) if precision != "auto"]  # which stands for one of them
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("before", TYPES)
@pytest.mark.parametrize(
    ("precision", "convolutions", "products"),
    [
        ("fp32", True, False),
        ("tf32", True, True),
        ("ieee", False, False),
        ("bf16", True, False),
        ("fp16", True, False),
    ],
)
def test_a_precision_chooses_what_cuda_computes_in_tf32(
    before: Precision, precision: Precision, convolutions: bool, products: bool
) -> None:
    """Whatever was chosen before; torch's older getters and its newer ones say the same, and none raises."""
    use_tf32(before)
    use_tf32(precision)
    backends = torch.backends
    assert backends.cudnn.allow_tf32 is convolutions
    assert backends.cuda.matmul.allow_tf32 is products
    assert torch.get_float32_matmul_precision() == ("high" if products else "highest")
    assert (backends.cudnn.conv.fp32_precision == "tf32") is convolutions  # type: ignore[attr-defined]
    assert (backends.cuda.matmul.fp32_precision == "tf32") is products


def test_float32_is_by_default_what_plain_torch_makes_of_it() -> None:
    plain = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    use_tf32(Config().precision)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == plain == (True, False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], torch.device]:
    """A GPU of that compute capability."""

    def of(major: int, minor: int) -> torch.device:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Fake GPU")
        return CUDA

    return of


Gpu = Callable[[int, int], torch.device]
OLD, NEW = [(6, 0), (7, 0), (7, 5)], [(8, 0), (8, 9), (9, 0), (12, 0)]  # P100, V100, T4; A100, L4, H100, B200


def test_every_precision_says_what_a_gpu_computes(gpu: Gpu) -> None:
    assert set(AUTOCAST) == set(ON_CUDA) == set(TYPES)
    assert "convolutions in TF32" in (described_precision("fp32", gpu(8, 0)) or "")
    assert described_precision("fp32", CPU) is None


@pytest.mark.law("L15")
@pytest.mark.parametrize("capability", OLD + NEW)
def test_tf32_is_said_and_recorded_of_gpus_that_have_it_alone(capability: tuple[int, int], gpu: Gpu) -> None:
    """Older ones ignore torch's switches: the first lines, environment.json and the layout say what they do."""
    device, has_tf32 = gpu(*capability), capability in NEW
    assert is_ampere_or_newer(device) is has_tf32
    for precision in TYPES:
        line = described_precision(precision, device) or ""
        record = arithmetic_of(precision, str(device), is_ampere_or_newer(device))
        expected = has_tf32 and precision in ("fp32", "tf32")
        assert ("in TF32" in line, "TF32" in record) == (expected, expected), precision
        half = precision in ("bf16", "fp16")
        assert prefers_channels_last(Config(precision=precision), device) is (expected or half), precision
    tf32 = Config(precision="tf32")
    if has_tf32:
        refuse_for_device(tf32, device)
    else:
        with pytest.raises(LaunchError, match=r"precision=tf32: Fake GPU has no TF32.*; use precision=fp16 or fp32"):
            refuse_for_device(tf32, device)
    refuse_for_device(Config(), device)


def test_tensor_cores_get_their_layout(gpu: Gpu) -> None:
    device = gpu(8, 0)
    layouts = {p: prefers_channels_last(replace(Config(), precision=p), device) for p in TYPES}
    assert layouts == {"fp32": True, "tf32": True, "bf16": True, "fp16": True, "ieee": False}
    assert not prefers_channels_last(Config(model=ModelConfig(channels_last=False)), device)
