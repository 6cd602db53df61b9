"""L1 for people: the scans of one person stay on one side, whatever ids a public set gives them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_splits import COHORT, store_of

from segtrain.config import DataConfig
from segtrain.data.people import may_be_same, people_of, person_of
from segtrain.data.splits import make_split
from segtrain.errors import DataError


@pytest.mark.law("L1")
@pytest.mark.parametrize(
    ("ids", "people"),
    [
        (["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-100", "BraTS-GLI-00002-101",
          "BraTS-GLI-00003-000"], 3),
        (["BraTS-MEN-RT-0402-1", "BraTS-MEN-RT-0403-1"], 2),
        (["TCGA_CS_4941_19960909", "TCGA-CS-4941", "tcga-cs-4941_1997.02.22", "TCGA_CS_4942_19970222"], 2),
        (["UPENN-GBM-00011_11", "UPENN-GBM-00011_21", "UPENN-GBM-00012_11"], 2),
        (["UCSF-PDGM-0004_nifti", "UCSF-PDGM-004", "UCSF-PDGM-0433_FU007d", "UCSF-PDGM-0433"], 2),
        (["RHUH-0001_0", "RHUH-0001_1", "RHUH-0001_2", "RHUH-0002_0"], 2),
        (["training01_01", "training01_02", "training02_01"], 2),
        (["sub-01_ses-1", "sub-01_ses-2", "sub-02"], 2),
        (["P1_T1", "P1_T2", "P2_T1"], 2),
        (["ses-1_P001", "ses-2_P001", "P002_baseline", "P002_followup", "baseline_P003", "follow-up_P003"], 3),
        (["in_BraTS-GLI-00001-000", "out_BraTS-GLI-00001-001", "HGG_TCGA_CS_4941", "LGG_TCGA_CS_4941"], 2),
        (["anna_visit1", "anna_visit-2", "bert_fu12", "bert"], 2),
        (["pat_03_20230412", "pat_03_20240101", "pat_04_baseline", "pat_04_followup", "pat_05_preop"], 3),
        (["pat_03_2023-04-12", "scan_20230412", "scan_20240101"], 3),
        (["P_001", "P_002", "BraTS20_Training_001", "BraTS20_Training_002", "BraTS2021_00000", "013", "patient01"], 7),
    ],
)  # fmt: skip
def test_people_are_recognised_by_the_ids_of_public_sets(ids: list[str], people: int) -> None:
    assert len({person_of(patient) for patient in ids}) == people


@pytest.mark.law("L1")
def test_a_name_before_a_date_is_a_person_where_the_set_has_several() -> None:
    ids = ["AB_20230412", "AB_20240101", "anna_2010-01-01", "anna_2011.02.03", "P7", "P8_2010-01-01"]
    assert list(people_of(ids, None).values()) == ["AB", "AB", "anna", "anna", "P7", "P8"]
    assert people_of(ids[:2], None) == {patient: patient for patient in ids[:2]}, "scan_20230412: a word, no person"
    assert people_of(ids[:4], None, {"AB_20230412": "x"})["AB_20240101"] == "AB"
    store = store_of([(patient, "ABC", 10 + n) for n, patient in enumerate(ids)])
    folds = [make_split(DataConfig(split="kfold", folds=2, fold=fold, split_version=1), store) for fold in range(2)]
    assert all(len({"anna_2010-01-01", "anna_2011.02.03"} & set(split.validation)) in (0, 2) for split in folds)


@pytest.mark.law("L1")
@settings(max_examples=50, deadline=None)
@given(
    scans=st.lists(st.integers(1, 3), min_size=10, max_size=40),
    folds=st.integers(2, 10),
    seed=st.integers(0, 1000),
    validation=st.integers(1, 5),
)
def test_no_split_parts_a_person(scans: list[int], folds: int, seed: int, validation: int) -> None:
    ids = [f"BraTS-GLI-{n:05}-{k:03}" for n, times in enumerate(scans) for k in range(times)]
    store = store_of([(patient, "ABC"[n % 3], 10 + 37 * n % 1000) for n, patient in enumerate(ids)])
    cfgs = [DataConfig(split="kfold", folds=folds, fold=fold, split_seed=seed) for fold in range(folds)]
    splits = [make_split(cfg, store) for cfg in cfgs]
    for split in (*splits, make_split(DataConfig(split_seed=seed, validation_patients=validation), store)):
        assert not {p[:15] for p in split.train} & {p[:15] for p in split.validation}
        assert set(split.people) == {p for p in ids if scans[int(p[10:15])] > 1}
    assert len({p[:15] for p in split.validation}) == validation
    assert sorted(p for one in splits for p in one.validation) == ids
    sizes = [len({p[:15] for p in one.validation}) for one in splits]
    assert max(sizes) - min(sizes) <= 1, "folds are even in people"


@pytest.mark.law("L1")
def test_a_file_says_who_is_who_and_a_split_file_that_parts_a_person_is_refused(tmp_path: Path) -> None:
    store = store_of(COHORT)
    groups, split_file = tmp_path / "groups.csv", tmp_path / "split.json"
    groups.write_text("patient,person\nP000,anna\nP001,anna\n")
    split_file.write_text(json.dumps({"train": ["P000", "P002"], "validation": ["P001"]}))
    cfg = DataConfig(split="file", split_file=str(split_file))
    assert make_split(cfg, store).validation == ("P001",)
    with pytest.raises(DataError, match=r"split\.json: P000 in train and P001 in validation are .* one person, anna; "):
        make_split(replace(cfg, groups=str(groups)), store)
    folds = [make_split(DataConfig(split="kfold", fold=fold, groups=str(groups)), store) for fold in range(5)]
    assert all(len({"P000", "P001"} & set(split.validation)) in (0, 2) for split in folds)
    assert folds[0].to_json()["people"] == {"P000": "anna", "P001": "anna"}


def test_where_nobody_has_two_scans_the_split_is_what_it_was() -> None:
    split = make_split(DataConfig(), store_of(COHORT))
    assert split.people == {}
    assert "people" not in split.to_json()


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P000\n", r"line 1: 'P000' is not patient,person"),
        ("P000,anna\nP000,bert\n", r"line 2: P000 is anna above; give it one person"),
        ("P000,anna,x\n", r"line 1: 'P000,anna,x' is not patient,person"),
        ("P000,\n", r"line 1: 'P000,' is not patient,person"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        people_of(["P000"], tmp_path / "groups.csv")
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read .*; set data\.groups"):
        people_of(["P000"], tmp_path / "nowhere.csv")


@pytest.mark.law("L1")
@pytest.mark.parametrize("name", ["P1_1.nii.gz", "p1_1"])
def test_a_file_none_of_whose_lines_names_a_patient_is_refused(tmp_path: Path, name: str) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text(f"patient,person\n{name},anna\n")
    with pytest.raises(
        DataError, match=rf"groups\.csv: none of its 1 lines names .* first names {name}, a patient is P1_1\)"
    ):
        people_of(["P1_2", "P1_1"], groups)
    groups.write_text(f"{name},anna\nP1_1,anna\n")
    assert people_of(["P1_2", "P1_1"], groups) == {"P1_1": "anna", "P1_2": "P1_2"}, "of more patients than there are"
    groups.write_text("patient,person\n")
    assert people_of(["P1_1"], groups) == {"P1_1": "P1_1"}
    groups.write_text(f"{name},anna\nslice_2,bert\n")
    assert people_of(["anna", "bert"], groups) == {"anna": "anna", "bert": "bert"}, "of loose slices, by person"


def test_the_public_lgg_patients_are_known_to_be_in_brats_2021() -> None:
    lgg, others = ["TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405"], ["BraTS2021_00002", "P7"]
    brats = ["BraTS2021_01476", "BraTS-GLI-01776-000"]
    assert may_be_same([*brats, *others], lgg) == sorted(brats)
    assert may_be_same([*lgg, *others], brats) == lgg
    assert may_be_same(lgg, lgg) == may_be_same(brats, brats) == may_be_same(others, [*lgg, *brats]) == []
    assert sum(bool(may_be_same([f"BraTS2021_{number:05d}"], lgg)) for number in range(2040)) == 108
