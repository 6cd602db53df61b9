"""A rank reads columns and not the whole index: the same data, split and order, and no damage gets by."""

import hashlib
import json
import pickle
import random
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scale
from segtrain.config import Config, DataConfig, PhantomConfig, TrainConfig
from segtrain.data.content import content_of
from segtrain.data.order import Order, make_order, plan_order
from segtrain.data.prepare import ensure_store
from segtrain.data.ragged import Ragged
from segtrain.data.splits import Split, make_split
from segtrain.data.store import Store, open_store
from segtrain.data.store_columns import Columns, label_of, write_index
from segtrain.data.store_note import StoreNote
from segtrain.errors import DataError, SegtrainError

SIZE_PX = 8
LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8)
NAMES = st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=5).filter(
    lambda n: n not in (".", "..")
)
COUNTS = st.integers(0, 2**53)


@st.composite
def indices(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An index without its patients, and entries as `prepare` makes them."""
    regions = draw(st.sampled_from([None, {"whole": (1, 2), "core": (2,)}]))
    head = {"label": "made up", "size_px": SIZE_PX, "skipped": {"X": "broken"}, "regions": regions, "warnings": ["odd"]}
    names = draw(st.lists(NAMES, min_size=2, max_size=8, unique=True))
    return head, [_entry(draw, name, 2 if regions else 1) for name in names]


def _entry(draw: st.DrawFn, name: str, regions: int) -> dict[str, Any]:
    areas = draw(st.lists(COUNTS, min_size=1, max_size=4))
    slices, digest = len(areas), draw(st.sampled_from(["", "5b" * 16]))
    source = {"source_shape": [slices, 9, 9], "box": [[0, slices], [0, 9], [0, 9]], "pad": [[0, 0]] * 2}
    spacing = st.floats(0.1, 9)
    return {
        "patient": name,
        "institution": "any",
        "areas": areas,
        "slice_numbers": list(range(slices)),
        "geometry": source | {"size_px": SIZE_PX, "resampled_px": None},
        "missing_channels": [],
        "unlabelled": draw(st.lists(st.integers(0, slices - 1), unique=True)),
        "spacing_mm": draw(st.none() | st.tuples(spacing, spacing, spacing)),
        "label_voxels": {0: 5, 255: 2},
        "region_voxels": draw(st.sampled_from([[], [7] * regions])),
        "person": draw(st.none() | st.sampled_from(["", "A", "B"])),
        "pixels": digest,
        "mask": digest,
        "bytes": {"images": 6 * slices * SIZE_PX**2, "masks": slices * SIZE_PX**2},
        "sha256": {"images": "5b" * 32, "masks": "5c" * 32},
    }


def both(folder: Path, head: Mapping[str, Any], entries: list[dict[str, Any]]) -> tuple[Store, Store]:
    """A store opened by its columns, and by its whole index, as one of an earlier version is."""
    for name in ("new", "old"):
        (folder / name).mkdir()
        write_index(folder / name, head, entries)
    next((folder / "old").glob("columns-*.npz")).unlink()
    stores = [open_store(folder / name, check_files=False) for name in ("new", "old")]
    assert isinstance(stores[1].patients, dict)
    return stores[0], replace(stores[1], path=stores[0].path)


def outcome(work: Callable[[], object]) -> object:
    """What comes back, or the words of the refusal."""
    try:
        return work()
    except SegtrainError as error:
        return str(error)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    data = DataConfig(folds=2, validation_patients=1, neighbours_mm=2.0)
    keys: dict[str, list[Any]] = {
        "split": ["kfold", "reference"],
        "split_version": [1, 2],
        "sampling": ["lesion", "uniform"],
        "neighbours": [0, 1],
    }
    chosen = {key: draw(st.sampled_from(values)) for key, values in keys.items()}
    return Config(data=replace(data, **chosen), train=TrainConfig(global_batch=2))


@pytest.mark.law("L1")
@pytest.mark.law("L2")
@pytest.mark.law("L11")
@settings(max_examples=60, deadline=None)
@given(index=indices(), cfg=configs())
def test_columns_give_what_the_whole_index_gives(
    index: tuple[dict[str, Any], list[dict[str, Any]]], cfg: Config
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        new, old = both(Path(folder), *index)
        assert new == old
        assert list(new.patients) == list(old.patients)
        assert (new.columns.slices_of(new.patients), new.columns.people) == (
            {name: one.slices for name, one in old.patients.items()},
            {name: one.person for name, one in old.patients.items() if one.person},
        )
        assert new.columns.spacings_of(new.patients) == {name: one.spacing_mm for name, one in old.patients.items()}
        assert new.columns.region_voxels_of(new.patients) == [list(one.region_voxels) for one in old.patients.values()]
        assert new.pixels(new.patients) == {name: one.pixels for name, one in old.patients.items() if one.pixels}
        assert {name: asdict(one) for name, one in content_of(new, new.patients).items()} == {
            name: {"pixels": one.pixels, "mask": one.mask} for name, one in old.patients.items() if one.pixels
        }
        split = outcome(lambda: make_split(cfg.data, new))
        assert split == outcome(lambda: make_split(cfg.data, old))
        assert outcome(lambda: plan_order(cfg, new, 1)) == outcome(lambda: plan_order(cfg, old, 1))
        if isinstance(split, Split):
            same_samples(cfg, new, split)


def same_samples(cfg: Config, store: Store, split: Split) -> None:
    """The order by columns is the order by lists, made patient by patient."""
    with suppress(SegtrainError):  # that both refuse alike is tested above
        order = make_order(cfg, store, split)
        patients = [store.patients[patient] for patient in split.train]
        known = [[n for n in range(one.slices) if n not in one.unlabelled] for one in patients]
        areas = [[one.areas[n] for n in numbers] for one, numbers in zip(patients, known, strict=True)]
        some = known if any(one.unlabelled for one in patients) else None
        plain = Order(areas, cfg.data.sampling, 2, cfg.seed, some, cfg.data.lesion_free)
        assert json.dumps([list(order.areas), list(order.known or [])]) == json.dumps([areas, some or []])
        for epoch in range(2):
            for ours, theirs in zip(vars(order.plan(epoch)).values(), vars(plain.plan(epoch)).values(), strict=True):
                assert np.array_equal(ours, theirs)


@given(lists=LISTS, which=st.lists(st.integers(0, 7)), limit=st.integers(0, 9))
def test_ragged_lists_are_lists(lists: list[list[int]], which: list[int], limit: int) -> None:
    ragged, which = Ragged.of(lists), [number for number in which if number < len(lists)]
    assert ragged == lists
    assert [ragged[number] for number in range(len(ragged))] == ragged[:] == lists
    assert ragged.taken(np.array(which, np.int64)) == [lists[number] for number in which]
    assert ragged.without(ragged.flat > limit) == [[n for n in one if n <= limit] for one in lists]
    assert Ragged(ragged.place, ragged.counts) == [list(range(len(one))) for one in lists]
    assert ragged.owner.tolist() == [number for number, one in enumerate(lists) for _ in one]
    assert ragged != [*lists, [1]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    phantom = PhantomConfig(patients=4, size_px=64)
    return ensure_store(DataConfig(image_size=32, workers=1, phantom=phantom, store=str(tmp_path)))


@pytest.mark.law("L11")
def test_a_rank_that_was_told_reads_nothing_of_the_index(store: Store) -> None:
    """Until it asks for a patient's entry."""
    cfg = Config(data=DataConfig(image_size=32, store=str(store.path.parent), validation_patients=1))
    whole = StoreNote.of(store).open(cfg.data)
    assert whole is not None
    split, order = plan_order(cfg, whole, 1)
    index = store.path / "index.json"
    index.rename(index.with_suffix(".away"))
    other = StoreNote.of(store).open(cfg.data)
    assert other is not None
    assert plan_order(cfg, other, 1) == (split, order)
    index.with_suffix(".away").rename(index)
    assert dict(other.patients) == dict(whole.patients)
    assert isinstance(whole.patients["PHANTOM_0001"].geometry.box, tuple)


@pytest.mark.law("L11")
@pytest.mark.law("L12")
def test_a_changed_entry_is_noticed_by_the_first_rank_at_once_and_by_others_when_they_read_it(store: Store) -> None:
    index = store.path / "index.json"
    text = index.read_text()
    lines = text.splitlines()
    (number,) = (number for number, line in enumerate(lines) if '"PHANTOM_0002"' in line)
    areas = json.loads(lines[number].rstrip(","))["areas"]
    changed = lines[number].replace(json.dumps(areas), json.dumps(areas[::-1]))
    assert changed != lines[number]
    index.write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]) + "\n")
    with pytest.raises(DataError, match=r"damaged store \(index.json is not what was written\); rename"):
        open_store(store.path)
    other = open_store(store.path, check_files=False)
    assert sum(other.patients["PHANTOM_0001"].areas) > 0
    for read in (lambda: other.patients["PHANTOM_0002"], lambda: other.volume("PHANTOM_0002")):
        with pytest.raises(DataError, match=r"the entry of patient PHANTOM_0002 is not what was written\); rename"):
            read()


@pytest.mark.law("L11")
@pytest.mark.law("L12")
@pytest.mark.parametrize("check_files", [True, False])
def test_any_change_of_the_columns_is_noticed(store: Store, check_files: bool) -> None:
    (file,) = store.path.glob("columns-*.npz")
    content = file.read_bytes()
    places = random.Random(0).sample(range(len(content)), 200)
    for damaged in (content[:-1], b"", *(content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in places)):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"damaged store \({file.name} is not what was written\); rename"):
            open_store(store.path, check_files)
    file.write_bytes(content)
    assert open_store(store.path, check_files) == store


@pytest.mark.law("L11")
def test_a_store_of_an_earlier_version_is_opened_and_stays_as_it_is(store: Store) -> None:
    next(store.path.glob("columns-*.npz")).unlink()
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    old = open_store(store.path)
    assert isinstance(old.patients, dict)
    assert label_of(store.path) == store.label
    assert np.array_equal(old.columns.areas.flat, store.columns.areas.flat)
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


@pytest.mark.law("L11")
@pytest.mark.parametrize("member", ["text", "areas", "digest"])
def test_columns_of_another_version_are_left_alone_and_the_index_is_read(
    store: Store, member: str, caplog: pytest.LogCaptureFixture
) -> None:
    [file] = store.path.glob("columns-*.npz")
    with np.load(file) as arrays:
        others = {name: arrays[name] for name in arrays if name != member}
    file.unlink()
    np.savez(file, **others)
    file.rename(file.with_name(f"columns-{hashlib.sha256(file.read_bytes()).hexdigest()}.npz"))
    with caplog.at_level("INFO", logger="segtrain"):
        opened = open_store(store.path)
    assert "its columns are of another version" in caplog.text
    assert isinstance(opened.patients, dict)
    assert np.array_equal(opened.columns.areas.flat, store.columns.areas.flat)


def test_a_store_is_sent_to_a_process_of_its_own(store: Store) -> None:
    assert pickle.loads(pickle.dumps(store)) == store


def test_nobody_who_is_not_there_is_in_a_store(store: Store) -> None:
    assert "P" not in store.patients
    with pytest.raises(KeyError):
        store.patients["P"]
    with pytest.raises(DataError, match="patient P is not in"):
        store.require(["P"])


def test_an_entry_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    head, entries = {"label": "made up", "size_px": 256, "skipped": {}}, [scale._entry(0), scale._entry(1)]
    entries[1]["areas"] = [1]
    with pytest.raises(ValueError, match=r"^patients\.1\."):
        write_index(tmp_path, head, entries)
    assert not list(tmp_path.iterdir())


def test_columns_of_nobody_are_empty() -> None:
    assert Columns.of([]).slices_of([]) == {}
