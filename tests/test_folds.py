"""Folds are a function of a person's name, and the ten published patients are said to be there or missing."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import train
from test_splits import COHORT, store_of

from segtrain.config import Config, DataConfig
from segtrain.data.folds import empty_fold, fold_of
from segtrain.data.published import LGG, VALIDATION, published_remark
from segtrain.data.splits import Split, make_split
from segtrain.data.store import Store
from segtrain.errors import DataError, RunError
from segtrain.run import Run
from segtrain.training.split_version import split_version

FOLDS = 5
FOLDERS = [f"{person.replace('-', '_')}_19990101" for person in LGG]
Lesions = list[tuple[str, str, int]]


def sizes_of(people: list[str] | tuple[str, ...], folds: int, seed: int) -> list[int]:
    """The number of people in each fold."""
    dealt = [fold_of(person, folds, seed) for person in people]
    return [dealt.count(fold) for fold in range(folds)]


def lgg(patients: list[str]) -> Store:
    return store_of([(patient, patient[5:7], 20 * n % 999 + 1) for n, patient in enumerate(patients)])


def folds_of(store: Store, cfg: DataConfig | None = None) -> dict[str, int]:
    """The fold of each patient."""
    cfg = cfg or DataConfig(split="kfold", folds=FOLDS)
    splits = {fold: make_split(replace(cfg, fold=fold), store) for fold in range(cfg.folds)}
    return {patient: fold for fold, split in splits.items() for patient in split.validation}


@pytest.mark.law("L1")
@pytest.mark.parametrize("patients", [FOLDERS, [patient for patient, *_ in COHORT]])
def test_nobody_changes_fold_when_another_leaves(patients: list[str]) -> None:
    everybody = folds_of(lgg(patients))
    assert everybody.keys() == set(patients)
    for patient in patients:
        others = folds_of(lgg([other for other in patients if other != patient]))
        assert others == {other: fold for other, fold in everybody.items() if other != patient}


@pytest.mark.law("L1")
@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_folds_are_of_the_person_alone(data: st.DataObject, seed: int) -> None:
    """Whoever else is there, in whatever order, however large the lesions are and wherever they were scanned."""
    cfg = DataConfig(split="kfold", folds=2, split_seed=seed)
    some = data.draw(st.lists(st.sampled_from(FOLDERS), unique=True, min_size=8))
    volumes = data.draw(st.lists(st.integers(1, 10**5), min_size=len(some), max_size=len(some)))
    store = store_of([(patient, "elsewhere", volume) for patient, volume in zip(some, volumes, strict=True)])
    expected = {folder: fold_of(person, 2, seed) for folder, person in zip(FOLDERS, LGG, strict=True)}
    if len({expected[patient] for patient in some}) == 2:
        assert folds_of(store, cfg) == {patient: expected[patient] for patient in some}


@pytest.mark.law("L1")
def test_folds_do_not_depend_on_the_size_of_the_images(tmp_path: Path) -> None:
    """Of prepared stores, whose lesions have other numbers of voxels: in version 1 patients changed their folds."""
    from segtrain.data.prepare import ensure_store

    cfg = DataConfig(split="kfold", folds=2, store=str(tmp_path), workers=1)
    cfg = replace(cfg, phantom=replace(cfg.phantom, patients=12, size_px=96))
    stores = {size: ensure_store(replace(cfg, image_size=size)) for size in (64, 96)}
    voxels = [[one.lesion_voxels for one in store.patients.values()] for store in stores.values()]
    assert voxels[0] != voxels[1]
    assert folds_of(stores[64], cfg) == folds_of(stores[96], cfg)


def test_the_definition_is_fixed() -> None:
    """These values stay: another one would move patients from training to validation under the same config."""
    people = ["TCGA-CS-4941", "TCGA-HT-A61B", "P007", "P008", "sub-01", "BraTS-GLI-00005", "anna", "case_12_left"]
    assert [fold_of(person, FOLDS, 42) for person in people] == [0, 3, 3, 4, 1, 4, 1, 1]


def test_neighbours_are_in_different_folds() -> None:
    """So numbers without gaps make even folds; a written zero more or less is no other number."""
    for first in range(0, 100, FOLDS):
        assert {fold_of(f"P{first + n}", FOLDS, 7) for n in range(FOLDS)} == set(range(FOLDS))
    assert fold_of("P7", FOLDS, 7) == fold_of("P007", FOLDS, 7)
    assert {fold_of(letter, FOLDS, 7) for letter in "ABCDE"} == set(range(FOLDS))
    for seed in range(50):
        assert max(sizes_of(LGG, FOLDS, seed)) == min(sizes_of(LGG, FOLDS, seed)) == 22
        sizes = sizes_of([f"P{n}" for n in range(3, 40)], FOLDS, seed)
        assert max(sizes) - min(sizes) <= 2


def test_without_numbers_folds_are_even_as_far_as_chance_makes_them() -> None:
    """Of names like hashes, sizes vary as of draws: 400 people in five folds are 80 a fold, with a spread of 8."""
    names = [random.Random(n).randbytes(8).hex() + "x" for n in range(400)]
    for seed in range(30):
        assert all(45 < size < 115 for size in sizes_of(names, FOLDS, seed))


@pytest.mark.law("L12")
def test_an_empty_fold_is_refused_with_a_seed_that_leaves_none() -> None:
    names = ["anna", "bert", "carl", "dora", "emil", "fritz"]
    seeds = [seed for seed in range(50) if not all(sizes_of(names, FOLDS, seed))]
    assert seeds, "six people seldom fill five folds by chance"
    for seed in range(50):
        sizes = sizes_of(names, FOLDS, seed)
        assert empty_fold(names, FOLDS, seed) == (sizes.index(0) if 0 in sizes else None)
    store = store_of([(name, "A", 5) for name in names])
    with pytest.raises(DataError, match=r"data.split_seed=\d+ leaves fold \d of data.folds=5 empty") as caught:
        folds_of(store, DataConfig(split="kfold", folds=FOLDS, split_seed=seeds[0]))
    remedy = int(str(caught.value).partition("set data.split_seed=")[2].partition(",")[0])
    assert set(folds_of(store, DataConfig(split="kfold", folds=FOLDS, split_seed=remedy)).values()) == set(range(FOLDS))


def test_the_collection_and_its_ten() -> None:
    assert len(LGG) == 110
    assert list(LGG) == sorted(LGG)
    assert len(VALIDATION) == 10
    split = make_split(DataConfig(source="lgg", root="/no"), lgg(FOLDERS))
    assert set(split.validation) == set(random.Random(42).sample(sorted(FOLDERS), 10))


@pytest.mark.parametrize("missing", [0, 1, 4, 10])
@pytest.mark.law("L12")
def test_the_published_ten_are_not_replaced_in_silence(missing: int) -> None:
    ten = sorted(folder for folder, person in zip(FOLDERS, LGG, strict=True) if person in VALIDATION)
    absent, there = ten[:missing], ten[missing:]
    cfg = DataConfig(source="lgg", root="/no")
    store = lgg([folder for folder in FOLDERS if folder not in absent])
    if not missing:
        without_others = lgg([*ten, *FOLDERS[:3]])
        assert list(make_split(cfg, store).validation) == list(make_split(cfg, without_others).validation) == ten
        return
    with pytest.raises(DataError, match=f"{missing} of the ten published validation patients of LGG are") as caught:
        make_split(cfg, store)
    for patient in absent:
        assert patient[:12].replace("_", "-") in str(caught.value)
    drawn = make_split(replace(cfg, published="redrawn"), store).validation
    assert set(drawn) == set(random.Random(42).sample(sorted(store.patients), 10))
    assert drawn == make_split(replace(cfg, split_version=1), store).validation
    if there:
        assert f"set data.published=present to validate on the other {len(there)}" in str(caught.value)
        assert list(make_split(replace(cfg, published="present"), store).validation) == there
    else:
        with pytest.raises(DataError, match="10 of the ten"):
            make_split(replace(cfg, published="present"), store)


def test_other_data_and_another_draw_keep_the_draw() -> None:
    own = store_of([(f"P{n}", "A", 5) for n in range(30)])
    for cfg, store in (
        (DataConfig(source="lgg", root="/no"), own),
        (DataConfig(), lgg(FOLDERS[:40])),
        (DataConfig(source="lgg", root="/no", validation_patients=3), lgg(FOLDERS[:40])),
        (DataConfig(source="lgg", root="/no", split_seed=1), lgg(FOLDERS[:40])),
    ):
        expected = random.Random(cfg.split_seed).sample(sorted(store.patients), cfg.validation_patients)
        assert set(make_split(cfg, store).validation) == set(expected)


def test_the_log_says_which_of_the_ten_validate() -> None:
    cfg = DataConfig(source="lgg", root="/no")
    assert published_remark(cfg, LGG, VALIDATION) == "validation: the ten published patients"
    nine = sorted(VALIDATION)[1:]
    remark = published_remark(cfg, LGG, nine)
    assert remark is not None
    assert remark.startswith("validation: 9 of the ten published patients; not among them: TCGA-CS-4944")
    assert published_remark(cfg, ["P1"], ["P1"]) is None


def old_run(root: Path, store: Store, data: dict[str, Any], split: Split) -> Run:
    """A run of the time before splits had versions."""
    run = train(root, patients=split.validation)
    config = run.config_tree()
    config["data"] |= data
    run.config_file.write_text(json.dumps(config))
    run.split_file.write_text(json.dumps({key: value for key, value in split.to_json().items() if key != "version"}))
    return run


@pytest.mark.law("L6")
def test_a_run_and_the_runs_beside_it_keep_their_definition(tmp_path: Path) -> None:
    store = store_of(COHORT)
    cfg = DataConfig(split="kfold")
    split = make_split(replace(cfg, split_version=1), store)
    run = old_run(tmp_path / "dice-fold0-seed42", store, {"split": "kfold"}, split)
    new = Run(tmp_path / "dice-fold1-seed42")
    assert split_version(cfg, store, run) == split_version(replace(cfg, fold=1), store, new) == 1
    assert split_version(replace(cfg, split_version=2), store, new) == 2
    for other in (replace(cfg, folds=4), replace(cfg, split_seed=1), DataConfig()):
        assert split_version(other, store, new) == 2
    assert split_version(cfg, store_of(COHORT[1:]), new) == 2, "its folds would be others in any case"
    assert split_version(DataConfig(split="file", split_file="any"), store, new) is None
    assert split_version(cfg, store, run, fresh=True) == 2
    shutil.move(run.root, tmp_path / "dice-fold1-seed42.1")
    new.root.mkdir()
    assert split_version(cfg, store, new, fresh=True) == 2, "--fresh has set that one aside"


def test_a_split_says_its_version(tmp_path: Path) -> None:
    store = store_of(COHORT)
    versions: tuple[Literal[1, 2] | None, ...] = (None, 1, 2)
    splits = [make_split(DataConfig(split="kfold", split_version=version), store) for version in versions]
    assert [split.to_json()["version"] for split in splits] == [2, 1, 2]
    file = tmp_path / "split.json"
    file.write_text(json.dumps(splits[1].to_json()))
    from_file = make_split(DataConfig(split="file", split_file=str(file)), store)
    assert from_file == splits[1]
    assert "version" not in from_file.to_json()


@pytest.mark.law("L12")
def test_another_definition_than_the_run_s_is_refused(tmp_path: Path) -> None:
    store = store_of(COHORT)
    split = make_split(DataConfig(split="kfold", split_version=1), store)
    run = old_run(tmp_path / "run", store, {"split": "kfold"}, split)
    new = make_split(DataConfig(split="kfold"), store)
    with pytest.raises(RunError, match=r"set data.split_version=1, or --fresh starts over"):
        Run(shutil.copytree(run.root, tmp_path / "copy")).open(Config(), new.to_json(), [], run.starts()[0])
