"""The nearest global batches, ranks and patients that fit together, for the error of those that do not."""

from collections.abc import Callable, Iterable, Mapping

MOST_TIMES = 4  # the global batch that was asked for, of one that is named


def lesion_lanes(patients: int, global_batch: int) -> int:
    """As many lanes as divide the batch while none has more than one and a half times the patients of another."""
    fitting = (lanes for lanes in range(min(patients, global_batch), 0, -1) if global_batch % lanes == 0)
    return next(lanes for lanes in fitting if -(-patients // lanes) <= 1.5 * (patients // lanes))


def fitting_batches(batch: int, ranks: int, fits: Callable[[int], bool]) -> list[int]:
    """Those that the ranks can share; `fits` asks for the rest."""
    lower = range((batch - 1) // ranks * ranks, 0, -ranks)
    higher = range(batch // ranks * ranks + ranks, MOST_TIMES * batch + 1, ranks)
    return _nearest(fits, lower, higher)


def fitting_ranks(ranks: int, lanes: int) -> list[int]:
    """Those that divide the lanes."""
    return _nearest(lambda other: lanes % other == 0, range(ranks - 1, 0, -1), range(ranks + 1, lanes + 1))


def fitting_patients(patients: int, batch: int, ranks: int) -> list[int]:
    """Of lesion sampling, which goes by nothing but their number. Twice the batch fits if any number does."""
    lower, higher = range(patients - 1, 0, -1), range(patients + 1, 2 * batch + 1)
    return _nearest(lambda other: lesion_lanes(other, batch) % ranks == 0, lower, higher)


def _nearest(fits: Callable[[int], bool], lower: Iterable[int], higher: Iterable[int]) -> list[int]:
    """The first number on either side that fits, where there is one."""
    first = (next(filter(fits, numbers), None) for numbers in (lower, higher))
    return [number for number in first if number is not None]


def remedy(ways: Mapping[str, list[int]]) -> str:
    """What to change, by sentences such as `use {} ranks`, where any number fits."""
    return ", or ".join(way.format(" or ".join(map(str, numbers))) for way, numbers in ways.items() if numbers)
