"""Out of memory: the micro-batch is halved, nothing else about the run changes, and no rank is left waiting."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from short_memory import BATCH, SHORTAGES, batch, make, same
from torch import Tensor

from segtrain.config import Config, ModelConfig, TrainConfig
from segtrain.data.store import Store
from segtrain.engines.ddp import DdpEngine
from segtrain.errors import RunError
from segtrain.evaluation.evaluate import score_patient
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.run import Run
from segtrain.runtime.out_of_memory import is_out_of_memory
from segtrain.runtime.world import CPU, World
from segtrain.training.micro_batch import guard, what_changes

OTHERS = (
    RuntimeError("shapes do not fit"),
    RuntimeError("could not create a primitive descriptor for a convolution"),
    RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),  # Triton's
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ValueError("can't allocate memory"),
)


@pytest.mark.parametrize("when", ["forward", "backward", "second backward"])
@pytest.mark.parametrize("kind", ["cuda", "python", "cuDNN 9"])
def test_a_step_that_was_short_is_taken_again_as_if_it_had_been_smaller_from_the_start(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, when: str
) -> None:
    """Bitwise, running statistics of batch norm, moments and averages included."""
    size = {"forward": 8, "backward": 8, "second backward": 4}[when]  # of what does not fit
    cfg = replace(BATCH, train=TrainConfig(global_batch=8, micro_batch=None if size == 8 else 4))
    reference = make(cfg, World())
    expected = []
    for step in range(4):
        if step == 2:
            reference.micro_batch = size // 2
        expected.append(reference.step(*batch(step), 1e-2, 0.0).item())

    engine, at, backwards = make(cfg, World()), 0, [0]
    forward, backward = DdpEngine._forward, DdpEngine._backward

    def short_forward(self: DdpEngine, image: Tensor) -> Tensor:
        if when == "forward" and at >= 2 and len(image) >= size:
            forward(self, image)
            raise SHORTAGES[kind]
        return forward(self, image)

    def short_backward(self: DdpEngine, loss: Tensor) -> None:
        backward(self, loss)
        backwards[0] += 1
        if when != "forward" and at >= 2 and self.micro_batch >= size and (size == 8 or backwards[0] % 2 == 0):
            raise SHORTAGES[kind]

    monkeypatch.setattr(DdpEngine, "_forward", short_forward)
    monkeypatch.setattr(DdpEngine, "_backward", short_backward)
    memory = guard(cfg.train, run, engine, World(), None)
    losses = []
    for at in range(4):
        losses.append(memory.step(at, *batch(at), 1e-2, 0.0).item())  # noqa: PERF401
    assert losses == expected
    same(engine, reference)
    assert memory.state == {"micro_batch": size // 2, "asked": cfg.train.micro_batch, "device": "cpu"}
    again = guard(cfg.train, run, make(cfg, World()), World(), None)
    assert again.state is None, "that it went on by itself is in its checkpoints alone"
    again.recall(memory.state)
    assert again.engine.micro_batch == size // 2
    again.engine.micro_batch = 8
    again.recall({**memory.state, "device": "NVIDIA H100"})
    assert again.engine.micro_batch == 8


def test_only_what_means_too_little_memory_is_taken_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(is_out_of_memory(error) for error in SHORTAGES.values())
    assert not any(is_out_of_memory(error) for error in OTHERS)

    def wrong(self: DdpEngine, image: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(DdpEngine, "_forward", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        guard(BATCH.train, run, make(BATCH, World()), World(), None).step(0, *batch(0), 1e-2, 0.0)


@pytest.mark.law("L12")
def test_where_nothing_can_be_halved_the_remedy_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(self: DdpEngine, image: Tensor) -> Tensor:
        raise SHORTAGES["cuda"]

    monkeypatch.setattr(DdpEngine, "_forward", short)
    with pytest.raises(RunError, match=r"with 1 samples .*2\.00 GiB.*model\.checkpoint_activations=true"):
        guard(BATCH.train, run, make(BATCH, World()), World(), None).step(0, *batch(0), 1e-2, 0.0)
    told_not_to = replace(BATCH, train=TrainConfig(global_batch=8, on_oom="fail"))
    with pytest.raises(RunError, match=r"with 8 samples .*set train\.micro_batch below 8"):
        guard(told_not_to.train, run, make(told_not_to, World()), World(), None).step(0, *batch(0), 1e-2, 0.0)


def test_slices_that_do_not_fit_are_scored_in_smaller_batches(tiny: Config, tiny_store: Store) -> None:
    network, loss, sizes = make_model(tiny.model, seed=3).eval(), make_loss("dice"), []

    def short(image: Tensor) -> Tensor:
        sizes.append(len(image))
        if len(image) > 5:
            raise SHORTAGES["cuda"]
        return torch.as_tensor(network(image.contiguous()))

    def wrong(image: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit")

    patient = sorted(tiny_store.patients)[0]
    scored = [
        score_patient(Predictor(logits, tiny.evaluate, CPU), loss, tiny_store, patient, draw=False)[0]
        for logits in (lambda image: network(image.contiguous()), short)
    ]
    assert scored[1].regions == scored[0].regions
    assert scored[1].loss_sums == pytest.approx(scored[0].loss_sums, rel=1e-5)
    assert sizes[:3] == [16, 8, 4]
    assert sum(size for size in sizes if size <= 5) == tiny_store.patients[patient].slices
    short_loss, sums = make_loss("dice"), loss.sums

    def short_sums(logits: Tensor, mask: Tensor) -> Tensor:
        if len(logits) > 5:
            raise SHORTAGES["cuda"]
        return sums(logits, mask)

    short_loss.sums = short_sums  # type: ignore[method-assign]
    predictor = Predictor(lambda image: network(image.contiguous()), tiny.evaluate, CPU)
    again = score_patient(predictor, short_loss, tiny_store, patient, draw=False)[0]
    assert (again.regions, again.loss_sums) == (scored[1].regions, scored[1].loss_sums)
    with pytest.raises(RuntimeError, match="shapes"):
        score_patient(Predictor(wrong, tiny.evaluate, CPU), loss, tiny_store, patient, draw=False)


def test_what_changes_depends_on_the_norm() -> None:
    assert "batch norm" in what_changes(make_model(ModelConfig(features=4, norm="batch"), seed=0))
    assert "stay the same" in what_changes(make_model(ModelConfig(features=4, norm="group"), seed=0))


def train_under_a_limit(world: World, headroom_mib: int | None) -> tuple[list[Any], Any]:
    """Losses, and the micro-batch that was found, where the process may grow by so much once it is warm."""
    cfg = replace(BATCH, data=replace(BATCH.data, image_size=128), model=ModelConfig(features=16, norm="group"))
    engine = make(cfg, world)
    run = Run(Path("/nonexistent"))
    memory = guard(cfg.train, run, engine, world, None)
    losses = [memory.step(0, *batch(0, 2, 128), 1e-2, 0.0).item()]
    if headroom_mib is not None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (headroom_mib << 20), resource.RLIM_INFINITY))
    losses.append(memory.step(1, *batch(1, 8, 128), 1e-2, 0.0).item())
    return losses, memory.state and memory.state["micro_batch"]


def test_a_real_allocation_that_the_system_refuses_is_lived_through() -> None:
    """How much is too little depends on what the allocator holds already."""
    [(free, none)] = run_ranks(1, train_under_a_limit, None)
    assert none is None
    for headroom_mib in (320, 160, 80):
        [(limited, found)] = run_ranks(1, train_under_a_limit, headroom_mib)
        if found:
            break
    else:
        pytest.skip("the step fits into 80 MiB more than the process holds here")
    assert found in (1, 2, 4)
    assert limited == pytest.approx(free, abs=1e-5)
