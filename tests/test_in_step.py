"""Ranks that prepare or load for different times: one failure or request to stop is raised once by each of them."""

from typing import cast

import pytest

from segtrain.errors import DataError, Stopped, StopReason
from segtrain.runtime.stop import Stop
from segtrain.runtime.world import World
from segtrain.training.in_step import InStep

pytestmark = pytest.mark.quick


class Others:
    """A world in which another rank answers so."""

    def __init__(self, *answers: list[int]) -> None:
        self.answers = list(answers)

    def largest(self, *values: int) -> list[int]:
        return self.answers.pop(0)

    def first(self, item: str | None) -> str:
        return item or "patient a: damaged"


def in_step(*answers: list[int]) -> InStep:
    return InStep(Stop(), cast(World, Others(*answers)), "while slices were loaded")


@pytest.mark.law("L8")
def test_a_failure_of_another_rank_is_raised_once() -> None:
    """What `check` raised fails the work; the other has left by then, and must not be waited for."""
    work = in_step([0, 1, 1])
    with pytest.raises(DataError, match="patient a: damaged"):
        work.check()
    with pytest.raises(DataError, match="patient a: damaged"):
        work.finish(DataError("what the work made of it"))


@pytest.mark.law("L8")
def test_a_request_to_stop_is_heard_while_others_work() -> None:
    with pytest.raises(Stopped, match="by SIGTERM while slices were loaded; the same command") as stopped:
        in_step([0, 0, 1], [0, 0, 1], [StopReason.SIGTERM, 0, 1]).finish()
    assert stopped.value.reason is StopReason.SIGTERM


def test_it_ends_when_no_rank_works() -> None:
    in_step([0, 0, 1], [0, 0, 0]).finish()
