"""Lists of whole numbers of different lengths as one array: millions of numbers without an object each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray


def starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several parts begins, when they lie one after the other."""
    return np.cumsum(sizes) - sizes


@dataclass(frozen=True, eq=False)
class Ragged(Sequence[list[int]]):
    """`flat`: the numbers, int64, one list after the other; `counts`: int64, how many each list has."""

    flat: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> "Ragged":
        """The same lists; what is one already stays as it is."""
        if isinstance(lists, Ragged):
            return lists
        counts = np.array([len(one) for one in lists], np.int64)
        return cls(np.fromiter(chain.from_iterable(lists), np.int64, int(counts.sum())), counts)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Where each list begins in `flat`."""
        return starts(self.counts)

    @property
    def owner(self) -> NDArray[np.int64]:
        """The list of each number in `flat`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def place(self) -> NDArray[np.int64]:
        """Where each number of `flat` stands in its list."""
        return np.arange(len(self.flat)) - np.repeat(self.first, self.counts)

    def taken(self, which: NDArray[np.int64]) -> "Ragged":
        """The lists of these numbers, in their order."""
        counts = self.counts[which]
        places = np.arange(int(counts.sum())) + np.repeat(self.first[which] - starts(counts), counts)
        return Ragged(self.flat[places], counts)

    def without(self, flags: NDArray[np.bool_]) -> "Ragged":
        """The lists without the flagged numbers of `flat`."""
        return Ragged(self.flat[~flags], np.bincount(self.owner[~flags], minlength=len(self.counts)))

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[list[int]]:
        for first, count in zip(self.first.tolist(), self.counts.tolist(), strict=True):
            yield self.flat[first : first + count].tolist()

    @overload
    def __getitem__(self, number: SupportsIndex) -> list[int]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...
    def __getitem__(self, number: SupportsIndex | slice) -> list[int] | list[list[int]]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        first, count = self.first[number], self.counts[number]
        values: list[int] = self.flat[first : first + count].tolist()
        return values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iterable) and list(self) == [list(one) for one in other]

    __hash__ = None  # type: ignore[assignment]
