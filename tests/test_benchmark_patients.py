"""The patients that the benchmarks measure with: as many as asked for, of the folder that is named."""

from pathlib import Path

import pytest

from benchmarks import data, harness


def test_a_folder_that_was_not_filled_is_made_again(tmp_path: Path) -> None:
    options = harness.Options(1, tmp_path / "nowhere", tmp_path, tiny=True)
    with pytest.raises(FileNotFoundError):
        data.folder_of_patients(options, 2)
    real = tmp_path / "nowhere"
    for name in ("P1", "P2"):
        (real / name).mkdir(parents=True)
    assert sorted(path.name for path in data.folder_of_patients(options, 2).iterdir()) == ["P1", "P2"]


@pytest.mark.parametrize("count", [1, 4, 7, 40])
def test_real_patients_are_as_many_as_asked_for_spread_and_of_the_folder_that_is_named(
    tmp_path: Path, count: int
) -> None:
    for place in ("one", "other"):
        for number in range(10):
            (tmp_path / place / f"{place}{number}").mkdir(parents=True)
    linked = {}
    for place in ("one", "other"):
        options = harness.Options(1, tmp_path / place, tmp_path / "bench", tiny=True)
        linked[place] = sorted(path.name for path in data.folder_of_patients(options, count).iterdir())
    assert [len(names) for names in linked.values()] == [min(count, 10)] * 2
    assert all(name.startswith(place) for place, names in linked.items() for name in names)
    numbers = [int(name[-1]) for name in linked["one"]]
    assert abs(sum(numbers) / len(numbers) - 4.5) <= 0.5, "as many of the first half as of the second"
