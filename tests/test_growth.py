"""Starts of many patients and ranks: fast ways give what plain ways give, and one rank a node checks the files."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from benchmarks import folders, long_runs, many_runs, preparing, scale, simulated_ranks, starts
from benchmarks.growth import Growth, Measured, table
from segtrain.config import DataConfig, PhantomConfig
from segtrain.data import folds
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import Split
from segtrain.data.store import open_store
from segtrain.data.store_index import StoredPatient
from segtrain.data.store_note import StoreNote
from segtrain.data.world_sizes import lesion_lanes
from segtrain.errors import DataError
from segtrain.evaluation.evaluate import assign
from segtrain.report.tables import Cell, Table, number, word
from segtrain.runtime.stop import Stop
from segtrain.runtime.world import World
from segtrain.training import start

IDS = st.lists(st.sampled_from([f"P{number}" for number in range(12)]), min_size=1, max_size=12)
SMALL = DataConfig(image_size=32, workers=1, phantom=PhantomConfig(patients=3, size_px=64))


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return replace(SMALL, store=str(tmp_path))


@pytest.mark.law("L1")
@given(train=IDS)
def test_of_patients_that_are_listed_twice_the_first_is_named(train: list[str]) -> None:
    twice = sorted({patient for patient in train if train.count(patient) > 1})
    if not twice:
        assert Split(tuple(train), ("Q",)).train == tuple(train)
        return
    with pytest.raises(DataError, match=rf"^split: patient {twice[0]} is listed twice in train; list each patient"):
        Split(tuple(train), ("Q",))


@given(
    people=st.lists(st.from_regex(r"[AB]-?[0-9]{1,4}[xy]?|[a-c]{1,2}", fullmatch=True), max_size=30),
    count=st.integers(2, 7),
    seed=st.integers(0, 3),
)
def test_the_fold_of_a_person_depends_on_no_other_person(people: list[str], count: int, seed: int) -> None:
    """Blocks that were dealt before are remembered; each is dealt as if it were the first."""
    dealt = [folds.fold_of(person, count, seed) for person in people]
    alone = []
    for person in people:
        family, number = folds._numbered(person)
        block, place = divmod(number, count)
        order = sorted(range(count), key=lambda fold: folds._digest(seed, count, family, block, fold))
        alone.append(order[place])
    assert dealt == alone


@given(patients=st.integers(1, 300), batch=st.integers(1, 64))
def test_lanes_are_looked_for_where_they_can_be(patients: int, batch: int) -> None:
    every = (lanes for lanes in range(patients, 0, -1) if batch % lanes == 0)
    plain = next(lanes for lanes in every if -(-patients // lanes) <= 1.5 * (patients // lanes))
    assert lesion_lanes(patients, batch) == plain


@pytest.mark.law("L3")
@given(slices=st.dictionaries(st.text("abc", max_size=3), st.integers(1, 5), max_size=30), ranks=st.integers(1, 9))
def test_each_patient_is_scored_by_the_first_rank_with_the_least_to_do(slices: dict[str, int], ranks: int) -> None:
    plain: list[list[str]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for patient in sorted(slices, key=lambda patient: (-slices[patient], patient)):
        least = load.index(min(load))
        plain[least].append(patient)
        load[least] += slices[patient]
    assert assign(slices, ranks) == plain


@pytest.mark.parametrize("collects", [True, False])
def test_an_index_is_read_whole_and_the_collector_left_as_it_was(tmp_path: Path, collects: bool) -> None:
    scale.make_store(tmp_path, 7)
    index = json.loads((tmp_path / "index.json").read_text())
    plain = {entry["patient"]: TypeAdapter(StoredPatient).validate_python(entry) for entry in index["patients"]}
    was_enabled = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        assert open_store(tmp_path).patients == plain
        (tmp_path / "index.json").write_text("[")
        with pytest.raises(DataError, match="damaged store"):
            open_store(tmp_path)
        assert gc.isenabled() == collects
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.mark.law("L11")
def test_a_rank_that_was_told_opens_the_same_store(data: DataConfig) -> None:
    store = ensure_store(data)
    note = StoreNote.of(store)
    assert note.open(data) == store
    assert note.open(replace(data, store=f"{data.store}/elsewhere")) is None


@dataclass(frozen=True)
class _Told(World):
    """A rank that rank 0 tells `note`."""

    note: StoreNote | None = None

    def on_main(self, function: Callable[[], Any]) -> Any:
        return self.note


def _refuse(*_: object) -> None:
    raise AssertionError("source and store were looked at")


@pytest.mark.law("L11")
def test_one_rank_a_node_checks_the_files_and_the_others_look_at_none(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ensure_store(data)
    missing = next((store.path / "masks").iterdir())
    missing.rename(missing.with_suffix(".away"))
    with pytest.raises(DataError, match=rf"damaged store .*{missing.name}"):
        start._ensure_store_in_step(data, Stop(), World())
    monkeypatch.setattr(start, "ensure_store", _refuse)
    other = _Told(rank=1, local_rank=1, note=StoreNote.of(store))
    assert start._ensure_store_in_step(data, Stop(), other) == store


@pytest.mark.parametrize(
    ("growth", "piece", "size"),
    [
        *((scale.GROWTH, piece, 30) for piece in scale.PIECES),
        *((folders.GROWTH, piece, 12) for piece in folders.GROWTH.pieces),
        *((preparing.GROWTH, piece, 2) for piece in preparing.GROWTH.pieces),
        *((starts.GROWTH, piece, 30) for piece in starts.GROWTH.pieces),
        *((many_runs.GROWTH, piece, 7) for piece in many_runs.GROWTH.pieces),
        *((long_runs.GROWTH, piece, 100) for piece in long_runs.GROWTH.pieces),
    ],
)
def test_the_benchmark_of_growth_runs(tmp_path: Path, growth: Growth, piece: str, size: int) -> None:
    folder = tmp_path / str(size)
    growth.make(folder, size)
    measured = growth.measure_here(piece, size, folder)
    assert (measured.piece, measured.size) == (piece, size)


@pytest.mark.law("L3")
@pytest.mark.law("L11")
def test_one_rank_among_1024_reads_what_it_needs_and_not_the_whole_index(tmp_path: Path) -> None:
    """The real training as that rank, with a process group that counts."""
    simulated_ranks.make_store(tmp_path)
    (index,), (columns,) = tmp_path.glob("store/*/index.json"), tmp_path.glob("store/*/columns-*.npz")
    counts = simulated_ranks.measure("another rank", 1024, tmp_path)
    kind = "bytes of index and columns"  # a thread reads the first batches while the start is not quite over
    of_patients = counts[f"start: {kind}"] + 4 * counts.get(f"step: {kind}", 0) - columns.stat().st_size
    assert 0 < of_patients < 10_000 < columns.stat().st_size < index.stat().st_size / 3
    assert 0 < counts["start: questions about files"] < 10
    assert counts["start: samples of a batch"] == counts["evaluation: patients"] == 1
    assert 0 < counts["start: broadcast, bytes"] < 20_000
    assert 0 < counts["evaluation: gather, bytes"] < 2_000


def test_what_takes_a_hundred_times_as_long_for_ten_times_as_much_grows_with_the_square() -> None:
    measured = [Measured("any", 10, 0.5, 0.6, 1.0), Measured("any", 100, 50.0, 60.0, 2.0)]
    assert table(measured, [10, 100, 1000]) == [("any", "0.500", "50.000", "-", "2.00", "2.00")]


class _Rows(list[list[Cell]]):
    """Rows that count how often they are gone through."""

    times = 0

    def __iter__(self) -> Iterator[list[Cell]]:
        self.times += 1
        return super().__iter__()


def test_a_table_is_not_gone_through_again_for_each_of_its_cells() -> None:
    rows = _Rows([[word("a"), number(1.0)]] * 50)
    shown = Table("any", ["name", "value"], rows)
    for _ in range(100):
        assert shown.numeric == [False, True]
    assert rows.times <= len(shown.heads)
