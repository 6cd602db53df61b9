"""Parameters that take the same lines of code: `make test` tries some of them, `make chaos` all."""

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
LONG = "CHAOS_KILLS" in os.environ  # as `make chaos` sets it


def all_of(parameters: Iterable[T], short: Sequence[T]) -> list[T]:
    """The parameters, those of the `short` form alone where this is not the long one."""
    everything = list(parameters)
    assert all(one in everything for one in short), "the short form is part of the long one"
    return everything if LONG else [one for one in everything if one in short]
