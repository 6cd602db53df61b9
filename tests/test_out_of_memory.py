"""Where memory ends besides forward and backward: moments, an update, slices on the device, pinned memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from short_memory import BATCH, SHORTAGES, batch, make, same
from torch import Tensor

from segtrain.data.augment import draws
from segtrain.engines.ddp import DdpEngine
from segtrain.errors import Stopped, StopReason
from segtrain.run import Run
from segtrain.runtime.world import World
from segtrain.training.micro_batch import guard

pytestmark = pytest.mark.quick


def broken(error: BaseException) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_moments_that_do_not_fit_beside_a_step_are_found_out_before_the_first_update(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise the run that was smaller from the start."""
    reference = make(BATCH, World())
    reference.micro_batch = 4
    expected = [reference.step(*batch(step), 1e-2, 0.0).item() for step in range(2)]

    moments = DdpEngine._moments

    def short(self: DdpEngine) -> list[Tensor]:
        if self.micro_batch > 4:
            raise SHORTAGES["cuda"]
        return moments(self)

    monkeypatch.setattr(DdpEngine, "_moments", short)
    engine = make(BATCH, World())
    memory = guard(BATCH.train, run, engine, World(), None)
    assert [memory.step(step, *batch(step), 1e-2, 0.0).item() for step in range(2)] == expected
    same(engine, reference)


def test_an_update_that_was_short_halfway_is_left_to_the_next_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some weights may have moved, so the step cannot be repeated; the run goes on from its checkpoint."""
    engine = make(BATCH, World())
    assert isinstance(engine, DdpEngine)
    monkeypatch.setattr(engine.optimizer, "step", broken(SHORTAGES["cuda"]))
    run.root.mkdir(parents=True, exist_ok=True)
    with pytest.raises(Stopped, match=r"out of memory at step 3 .*goes on from the last checkpoint") as stopped:
        guard(BATCH.train, run, engine, World(), None).step(3, *batch(0), 1e-2, 0.0)
    assert stopped.value.reason is StopReason.OUT_OF_MEMORY
    again = guard(BATCH.train, run, make(BATCH, World()), World(), None)
    assert again.engine.micro_batch == 4


def test_slices_on_the_device_make_room_before_a_micro_batch_is_halved(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reference, engine = make(BATCH, World()), make(BATCH, World())
    expected = [reference.step(*batch(step), 1e-2, 0.0).item() for step in range(2)]
    slices, backward = [True], DdpEngine._backward

    def short(self: DdpEngine, loss: Tensor) -> None:
        backward(self, loss)
        if self is engine and slices:
            raise SHORTAGES["cuda"]

    monkeypatch.setattr(DdpEngine, "_backward", short)
    memory = guard(BATCH.train, run, engine, World(), None)
    memory.release = lambda: bool(slices and slices.pop())
    assert [memory.step(step, *batch(step), 1e-2, 0.0).item() for step in range(2)] == expected
    same(engine, reference)
    assert memory.state == {"micro_batch": 8, "asked": None, "device": "cpu", "resident": False}
    assert "the training slices leave the cpu to the network" in caplog.text
    again = guard(BATCH.train, run, make(BATCH, World()), World(), memory.state)
    assert not again.holds_slices
    again.recall({**memory.state, "resident": True})
    assert not again.holds_slices, "an older checkpoint does not know"


def test_without_pinned_memory_batches_are_fed_from_plain_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tensor, allocate = torch.ones(3), torch.empty

    def no_pinned(*shape: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        if pin_memory:
            raise SHORTAGES["pinned"]
        return allocate(*shape, **options)

    monkeypatch.setattr(Tensor, "pin_memory", broken(SHORTAGES["pinned"]))
    monkeypatch.setattr(torch, "empty", no_pinned)
    draws._warn_of_plain_memory.cache_clear()
    assert draws.pinned(tensor) is tensor
    assert draws.empty((2, 3), torch.uint8, pin=True).shape == (2, 3)
    assert caplog.text.count("no pinned memory is left (CUDA error: out of memory") == 1
    monkeypatch.setattr(Tensor, "pin_memory", broken(RuntimeError("CUDA error: invalid argument")))
    with pytest.raises(RuntimeError, match="invalid argument"):
        draws.pinned(tensor)
