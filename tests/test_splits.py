"""L1: no patient on both sides."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import DataConfig
from segtrain.data.geometry import Geometry
from segtrain.data.splits import Split, make_split
from segtrain.data.store import Store
from segtrain.data.store_index import StoredPatient
from segtrain.errors import DataError

GEOMETRY = Geometry((4, 16, 16), ((1, 3), (0, 16), (0, 16)), ((0, 0), (0, 0)), 16)


def store_of(patients: list[tuple[str, str, int]]) -> Store:
    """A store of (patient, institution, lesion voxels) without pixels."""
    stored = {p: StoredPatient(p, where, (voxels, 0), (2, 3), GEOMETRY, ()) for p, where, voxels in patients}
    return Store(Path("/nowhere"), "made up", 32, stored, {})


COHORT = [(f"P{n:03}", "ABC"[n % 7 % 3], 10 + 37 * n % 1000) for n in range(110)]


@pytest.mark.law("L1")
def test_the_reference_split_is_the_published_draw() -> None:
    split = make_split(DataConfig(), store_of(COHORT))
    expected = random.Random(42).sample(sorted(p for p, *_ in COHORT), 10)
    assert set(split.validation) == set(expected)
    assert len(split.train) == 100


@pytest.mark.law("L1")
@settings(max_examples=50, deadline=None)
@given(
    volumes=st.lists(st.integers(1, 10**5), min_size=10, max_size=60),
    institutions=st.integers(1, 4),
    folds=st.integers(2, 10),
    seed=st.integers(0, 1000),
    version=st.sampled_from((None, 1)),
)
def test_folds_part_the_patients(
    volumes: list[int], institutions: int, folds: int, seed: int, version: Literal[1] | None
) -> None:
    store = store_of([(f"P{n:03}", f"I{n % institutions}", v) for n, v in enumerate(volumes)])
    cfg = DataConfig(split="kfold", folds=folds, split_seed=seed, split_version=version)
    splits = [make_split(replace(cfg, fold=fold), store) for fold in range(folds)]
    validated = [p for split in splits for p in split.validation]
    assert sorted(validated) == sorted(store.patients)
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert set(split.train) == store.patients.keys() - set(split.validation)


def test_folds_of_version_1_are_alike_in_institution_and_lesion_volume() -> None:
    store = store_of(COHORT)
    for fold in range(5):
        split = make_split(DataConfig(split="kfold", fold=fold, split_version=1), store)
        for institution in "ABC":
            whole = [p for p in store.patients.values() if p.institution == institution]
            share = sum(p.patient in split.validation for p in whole) / len(whole)
            assert 0.1 < share < 0.3
        mean = sum(store.patients[p].lesion_voxels for p in split.validation) / len(split.validation)
        everyone = sum(p.lesion_voxels for p in store.patients.values()) / len(store.patients)
        assert abs(mean / everyone - 1) < 0.15


def test_the_seed_changes_the_folds() -> None:
    folds = [make_split(DataConfig(split="kfold", split_seed=seed), store_of(COHORT)).validation for seed in (1, 2)]
    assert folds[0] != folds[1]


@pytest.mark.law("L1")
@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        (["P1", "P2"], ["P2"], "P2 is on both sides"),
        (["P1", "P1"], ["P2"], "P1 is listed twice in train"),
        (["P1"], ["P2", "P2"], "P2 is listed twice in validation"),
        ([], ["P2"], "0 patients in train"),
        (["P1"], [], "0 patients in validation"),
        (["P1", "P9"], ["P2"], "P9 is not in"),
    ],
)
def test_a_file_that_breaks_the_law_is_refused(
    tmp_path: Path, train: list[str], validation: list[str], words: str
) -> None:
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": train, "validation": validation}))
    store = store_of([(p, "A", 5) for p in ("P1", "P2", "P3")])
    with pytest.raises(DataError, match=words):
        make_split(DataConfig(split="file", split_file=str(file)), store)


@pytest.mark.law("L12")
@pytest.mark.parametrize("content", [None, "{", "[1]", '{"train": ["P1"]}', '{"train": 1, "validation": 2}'])
def test_a_file_that_is_no_split_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "split.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=r"split\.json"):
        make_split(DataConfig(split="file", split_file=str(file)), store_of(COHORT))


def test_a_split_that_was_written_loads_to_itself(tmp_path: Path) -> None:
    store = store_of(COHORT)
    split = make_split(DataConfig(split="kfold", fold=2), store)
    file = tmp_path / "split.json"
    file.write_text(json.dumps(split.to_json()))
    again = make_split(replace(DataConfig(), split="file", split_file=str(file)), store)
    assert again == split
    assert again.hash == split.hash
    assert Split(split.validation, split.train).hash != split.hash


def test_folds_of_nnunet_are_taken_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in its splits_final.json, which may lie in the home folder."""
    patients = sorted(patient for patient, *_ in COHORT)
    folds = [{"train": patients[2:], "val": patients[:2]}, {"train": patients[:2], "val": patients[2:]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    cfg = DataConfig(split="file", split_file=str(tmp_path / "splits_final.json"), fold=1)
    assert make_split(cfg, store_of(COHORT)).validation == tuple(patients[2:])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_split(replace(cfg, split_file="~/splits_final.json"), store_of(COHORT)).validation == tuple(
        patients[2:]
    )
    with pytest.raises(DataError, match=r"has 2 folds, but data\.fold=2"):
        make_split(replace(cfg, fold=2), store_of(COHORT))
