"""Patients, contrasts and truths of NIfTI volumes by the names that public sets use (see the sets' own pages)."""

from pathlib import Path

import pytest
from volumes import save, save_set, source, taken

from segtrain.data.people import people_of
from segtrain.data.sources.naming import Role, read_name
from segtrain.errors import DataError

T1, T1CE, T2, FLAIR, TRUTH = "t1", "t1ce", "t2", "flair", "truth"


@pytest.mark.parametrize(
    ("stem", "patient", "role", "what"),
    [
        ("BraTS20_Training_001_flair", "BraTS20_Training_001", Role.CONTRAST, FLAIR),
        ("BraTS-GLI-00005-100-t1c", "BraTS-GLI-00005-100", Role.CONTRAST, T1CE),
        ("BraTS-GLI-00005-100-t2f", "BraTS-GLI-00005-100", Role.CONTRAST, FLAIR),
        ("BraTS-GLI-00005-100-t1n-voided", "", Role.NEVER, ""),
        ("BraTS-GLI-00005-100-mask", "", Role.NEVER, ""),
        ("BraTS-MEN-RT-0402-1_gtv", "BraTS-MEN-RT-0402-1", Role.TRUTH, "gtv"),
        ("TCGA-CS-4942_1997.02.22_t1Gd", "TCGA-CS-4942_1997.02.22", Role.CONTRAST, T1CE),
        ("TCGA-CS-4942_1997.02.22_GlistrBoost", "TCGA-CS-4942_1997.02.22", Role.AUTOMATIC, "GlistrBoost"),
        ("TCGA-CS-4942_1997.02.22_GlistrBoost_ManuallyCorrected", "TCGA-CS-4942_1997.02.22", Role.TRUTH, None),
        ("UPENN-GBM-00011_11_T1GD", "UPENN-GBM-00011_11", Role.CONTRAST, T1CE),
        ("UPENN-GBM-00011_11_automated_approx_segm", "UPENN-GBM-00011_11", Role.AUTOMATIC, None),
        ("UCSF-PDGM-0004_T1c", "UCSF-PDGM-0004", Role.CONTRAST, T1CE),
        ("UCSF-PDGM-0004_T1_bias", "", Role.NEVER, ""),
        ("UCSF-PDGM-0004_DTI_eddy_FA", "UCSF-PDGM-0004", Role.OTHER, "dti_eddy_fa"),
        ("UCSF-PDGM-0004_brain_segmentation", "", Role.NEVER, ""),
        ("UCSF-PDGM-0004_brain_parenchyma_segmentation", "", Role.NEVER, ""),
        ("UCSF-PDGM-0004_tumor_segmentation", "UCSF-PDGM-0004", Role.TRUTH, "tumor_segmentation"),
        ("P1_T1_T1", "P1_T1", Role.CONTRAST, T1),
        ("P1_T1_T2", "P1_T1", Role.CONTRAST, T2),
        ("P1_T1_MASK", "P1_T1", Role.TRUTH, "MASK"),
        ("3DT1", "", Role.CONTRAST, T1),
        ("FLAIR_mask", "", Role.NEVER, ""),
        ("3DT1_mask", "", Role.NEVER, ""),
        ("3DT1GADO", "", Role.CONTRAST, T1CE),
        ("lesion_rater1", "", Role.RATER, "lesion_rater1"),
        ("20230412_reader_B", "20230412", Role.RATER, "reader_B"),
        ("FLAIR_preprocessed", "", Role.CONTRAST, FLAIR),
        ("GADO_preprocessed", "", Role.CONTRAST, T1CE),
        ("ManualSegmentation_3", "", Role.RATER, "ManualSegmentation_3"),
        ("ground_truth_expert2", "", Role.RATER, "ground_truth_expert2"),
        ("training01_01_mprage_pp", "training01_01", Role.CONTRAST, T1),
        ("training01_01_mask2", "training01_01", Role.RATER, "mask2"),
        ("patient1_study1_FLAIRreg", "patient1_study1", Role.CONTRAST, FLAIR),
        ("patient01_T1WKS", "patient01", Role.CONTRAST, T1CE),
        ("patient01_brainmask", "", Role.NEVER, ""),
        ("VSD.Brain.XX.O.MR_Flair.54512", "", Role.CONTRAST, FLAIR),
        ("VSD.Brain_3more.XX.XX.OT.54516", "", Role.TRUTH, "OT"),
        ("SMIR.Brain.XX.O.CT_Tmax.345", "", Role.OTHER, "ct_tmax"),
        ("sub-strokecase0001_ses-0001_FLAIR", "sub-strokecase0001_ses-0001", Role.CONTRAST, FLAIR),
        ("sub-strokecase0001_ses-0001_msk", "sub-strokecase0001_ses-0001", Role.TRUTH, "msk"),
        ("sub-stroke0001_ses-01_space-ncct_lesion-msk", "sub-stroke0001_ses-01", Role.TRUTH, "lesion-msk"),
        ("sub-stroke0001_ses-01_space-ncct_lvo-msk", "sub-stroke0001_ses-01", Role.NEVER, ""),
        ("sub-1_ce-gadolinium_T1w", "sub-1", Role.CONTRAST, T1CE),
        ("sub-1_desc-brain_mask", "sub-1", Role.NEVER, ""),
        ("sub-r001s001_ses-1_space-MNI_label-L_desc-T1lesion_mask", "sub-r001s001_ses-1", Role.TRUTH, "T1lesion_mask"),
        ("flair_time01_on_middle_space", "", Role.UNKNOWN, ""),
    ],
)
def test_a_name_says_patient_and_contrast(stem: str, patient: str, role: Role, what: str | None) -> None:
    name = read_name(stem, ())
    assert name.role is role
    assert name.patient == patient
    if what and role is not Role.NEVER:
        assert name.what == what


SETS: dict[str, tuple[list[str], dict[str, dict[str, str]]]] = {
    "UPENN: truths in a twin folder, images twice": (
        [
            *(
                f"images_{kind}/U-00011_11/U-00011_11_{c}"
                for c in ("T1", "FLAIR")
                for kind in ("structural", "segm")[:1]
            ),
            "images_structural_unstripped/U-00011_11/U-00011_11_T1_unstripped",
            "images_structural/U-00011_11/old/U-00011_11_T1",
            "images_segm/U-00011_11_segm",
            "automated_segm/U-00011_11_automated_approx_segm",
        ],
        {
            "U-00011_11": {
                T1: "images_structural/U-00011_11/U-00011_11_T1",
                FLAIR: "images_structural/U-00011_11/U-00011_11_FLAIR",
                TRUTH: "images_segm/U-00011_11_segm",
            }
        },
    ),
    "BIDS": (
        [
            "sub-1/ses-1/anat/sub-1_ses-1_FLAIR",
            "sub-1/ses-1/dwi/sub-1_ses-1_dwi",
            "sub-1/ses-2/anat/sub-1_ses-2_FLAIR",
            "derivatives/sub-1/ses-1/sub-1_ses-1_msk",
            "derivatives/sub-1/ses-2/sub-1_ses-2_msk",
        ],
        {
            f"sub-1_ses-{n}": {
                FLAIR: f"sub-1/ses-{n}/anat/sub-1_ses-{n}_FLAIR",
                TRUTH: f"derivatives/sub-1/ses-{n}/sub-1_ses-{n}_msk",
            }
            for n in (1, 2)
        },
    ),
    "ISLES 2015: a folder a file": (
        [
            "1/VSD.Brain.XX.O.MR_Flair.54512/VSD.Brain.XX.O.MR_Flair.54512",
            "1/VSD.Brain.XX.O.MR_DWI.54513/VSD.Brain.XX.O.MR_DWI.54513",
            "1/VSD.Brain_3more.XX.XX.OT.54516/VSD.Brain_3more.XX.XX.OT.54516",
        ],
        {
            "1": {
                FLAIR: "1/VSD.Brain.XX.O.MR_Flair.54512/VSD.Brain.XX.O.MR_Flair.54512",
                TRUTH: "1/VSD.Brain_3more.XX.XX.OT.54516/VSD.Brain_3more.XX.XX.OT.54516",
            }
        },
    ),
    "a folder named as a file": (
        ["B_01/B_01-t2f.nii/00000116_brain_flair", "B_01/B_01-t1n", "B_01/B_01-seg"],
        {"B_01": {T1: "B_01/B_01-t1n", FLAIR: "B_01/B_01-t2f.nii/00000116_brain_flair", TRUTH: "B_01/B_01-seg"}},
    ),
    "numbers that recur": (
        [f"{site}/7/{name}" for site in ("Utrecht", "Amsterdam/GE3T") for name in ("pre/FLAIR", "wmh")],
        {
            f"{site.replace('/', '_')}_7": {FLAIR: f"{site}/7/pre/FLAIR", TRUTH: f"{site}/7/wmh"}
            for site in ("Amsterdam/GE3T", "Utrecht")
        },
    ),
    "a folder a contrast": (
        ["FLAIR/a_FLAIR", "T1/a_T1", "masks/a_mask", "FLAIR/b_FLAIR", "T1/b_T1", "masks/b_mask"],
        {p: {T1: f"T1/{p}_T1", FLAIR: f"FLAIR/{p}_FLAIR", TRUTH: f"masks/{p}_mask"} for p in "ab"},
    ),
    "a folder for tests beside": (
        ["train/p1/p1_flair", "train/p1/p1_seg", "test/p2/p2_flair", "test/p2/p2_seg"],
        {"p1": {FLAIR: "train/p1/p1_flair", TRUTH: "train/p1/p1_seg"}},
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_public_sets_are_taken_as_they_are(tmp_path: Path, kind: str) -> None:
    names, expected = SETS[kind]
    assert taken(save_set(tmp_path / "in", *names)) == expected


def test_exams_of_one_person_stay_together(tmp_path: Path) -> None:
    """Case 6: five cases of three people."""
    ids = [f"BraTS-GLI-{exam}" for exam in ("00001-000", "00001-001", "00002-100", "00002-101", "00003-000")]
    save_set(tmp_path / "in", *(f"{case}/{case}-{name}" for case in ids for name in ("t1n", "t2f", "seg")))
    there = source(tmp_path / "in")
    assert there.patients() == ids
    people = people_of(there.patients(), None)
    assert list(people.values()) == [f"BraTS-GLI-{number}" for number in ("00001", "00001", "00002", "00002", "00003")]


def test_a_time_point_is_in_the_middle_and_a_contrast_at_the_end(tmp_path: Path) -> None:
    """Case 7: MSLesSeg."""
    names = [f"P1/{t}/P1_{t}_{what}" for t in ("T1", "T2") for what in ("T1", "T2", "FLAIR", "MASK")]
    patients = taken(save_set(tmp_path / "in", *names))
    assert patients == {
        f"P1_{t}": {
            **{c.lower(): f"P1/{t}/P1_{t}_{c}" for c in ("T1", "T2", "FLAIR")}, TRUTH: f"P1/{t}/P1_{t}_MASK"
        }
        for t in ("T1", "T2")
    }  # fmt: skip
    assert set(people_of(patients, None).values()) == {"P1"}


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    save_set(tmp_path / "in", "p/p_flair", "p/p_seg")
    for name in ("p/._p_flair.nii.gz", "__MACOSX/p/p_flair.nii.gz", "p/.x_t1.nii.gz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"\0\5\x16\7")
    assert taken(tmp_path / "in") == {"p": {FLAIR: "p/p_flair", TRUTH: "p/p_seg"}}


WMH = ["orig/FLAIR", "orig/3DT1", "orig/T1", "orig/FLAIR_mask", "pre/FLAIR", "pre/3DT1", "pre/T1", "wmh"]


@pytest.mark.law("L12")
def test_two_versions_of_a_contrast_are_asked_for(tmp_path: Path) -> None:
    """Case 10: WMH; data.files answers."""
    root = save_set(tmp_path / "in", *(f"Utrecht/{n}/{name}" for n in (0, 2) for name in WMH))
    with pytest.raises(DataError) as caught:
        source(root).read("0")
    assert str(caught.value) == (
        f"{root}/Utrecht/0/pre/T1.nii.gz: a second t1 of patient 0, beside {root}/Utrecht/0/orig/T1.nii.gz; keep one "
        "of them here, or say which in data.files, as in data.files='{t1: \"Utrecht/{patient}/pre/T1.nii.gz\"}'"
    )
    files = {"t1": "*/{patient}/pre/T1.nii.gz", "flair": "*/{patient}/pre/FLAIR.nii.gz", "truth": "**/{patient}/wmh.*"}
    assert taken(root, files=files)["2"] == {
        T1: "Utrecht/2/pre/T1", FLAIR: "Utrecht/2/pre/FLAIR", TRUTH: "Utrecht/2/wmh"
    }  # fmt: skip


def test_a_plain_contrast_is_taken_before_a_3d_one(tmp_path: Path) -> None:
    root = save_set(tmp_path / "in", *(f"0/{name}" for name in WMH if not name.startswith("orig/")))
    assert taken(root) == {"0": {T1: "0/pre/T1", FLAIR: "0/pre/FLAIR", TRUTH: "0/wmh"}}
    assert source(root).passed_over() == {"t1": ["0/pre/3DT1.nii.gz"]}


def test_files_that_are_not_read_are_listed_by_reason(tmp_path: Path) -> None:
    names = ["p/p_flair", "p/p_seg", "p/p_adc", "p/p_brainmask", "p/p_flair_time01_on_middle_space"]
    root = save_set(tmp_path / "in", *names)
    (root / "about.txt").touch()
    assert source(root).passed_over() == {
        "adc": ["p/p_adc.nii.gz"],
        "never image or truth": ["p/p_brainmask.nii.gz"],
        "no NIfTI volumes": ["about.txt"],
        "unknown": ["p/p_flair_time01_on_middle_space.nii.gz"],
    }
    assert taken(root, contrasts=("adc", "flair"))["p"] == {"adc": "p/p_adc", FLAIR: "p/p_flair", TRUTH: "p/p_seg"}


@pytest.mark.law("L12")
def test_a_folder_for_one_file_that_holds_two_is_named(tmp_path: Path) -> None:
    root = save_set(tmp_path / "in", "p/p_t2f.nii/a", "p/p_t2f.nii/b", "p/p_seg")
    with pytest.raises(DataError, match=r"p/p_t2f.nii: a folder for one file holds 2, a.nii.gz and b.nii.gz; keep one"):
        source(root).patients()


FILES = {"flair": "{patient}/x/*_F.nii.gz", "truth": "derivatives/{patient}/*.nii.gz"}


def test_files_are_where_the_config_says(tmp_path: Path) -> None:
    root = save_set(tmp_path / "in", "a/x/1_F", "a/x/1_t1", "b/x/2_F", "derivatives/a/lesion_mask")
    assert taken(root, files=FILES) == {"a": {FLAIR: "a/x/1_F", TRUTH: "derivatives/a/lesion_mask"}}
    assert list(source(root, files=FILES).left_out()) == ["b"]
    assert source(root, files=FILES).contrasts == ("flair",)
    assert source(root, files=FILES, contrasts=("FLAIR",)).files_of("a").keys() == {"FLAIR", TRUTH}


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"flair": "*/x/*_F.nii.gz"}, r"data.files: flair is '\*/x/\*_F.nii.gz', without {patient}; say where"),
        (
            {"flair": "{patient}/y/*.nii.gz"},
            r"in: no file matches data.files' flair, '{patient}/y/\*.nii.gz'; write it",
        ),
        ({"flair": "{patient}/x/*.nii.gz"}, r"a/x/1_t1.nii.gz: a second flair of patient a, beside .*1_F.nii.gz; make"),
        ({"t1": "{patient}/x/*_F.nii.gz"}, r"data.files has t1, but data.contrasts is flair; name it there, or leave"),
    ],
)
def test_files_that_do_not_fit_the_config_are_named(tmp_path: Path, files: dict[str, str], words: str) -> None:
    root = save_set(tmp_path / "in", "a/x/1_F", "a/x/1_t1", "derivatives/a/lesion_mask")
    with pytest.raises(DataError, match=words):
        source(root, files=files, contrasts=("flair",)).patients()


def test_a_patient_of_the_same_name_in_two_folders_is_two(tmp_path: Path) -> None:
    root = save_set(tmp_path / "in", *(f"{site}/1/{name}" for site in ("A", "B") for name in ("fl", "seg")))
    files = {"flair": "*/{patient}/fl.nii.gz", "truth": "*/{patient}/seg.nii.gz"}
    assert taken(root, files=files)["B_1"] == {FLAIR: "B/1/fl", TRUTH: "B/1/seg"}


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path: Path) -> None:
    root = save_set(tmp_path / "in", "p/p_flair", "p/p_seg")
    (root / "p/loop").symlink_to(root)
    assert list(taken(root)) == ["p"]
    save(root / "q/q_flair.nii.gz", source(root).read("p").image_shwc[..., 0])


def test_scans_on_several_days_are_of_one_person(tmp_path: Path) -> None:
    names = [f"pat{n}/2010-0{month}-01/{name}" for n in (1, 2) for month in (1, 2) for name in ("flair", "mask")]
    people = people_of(source(save_set(tmp_path / "in", *names)).patients(), None)
    assert people["pat1_2010-01-01"] == people["pat1_2010-02-01"] == "pat1"
    assert len(set(people.values())) == 2


@pytest.mark.law("L12")
def test_slabs_of_one_person_need_a_file_that_says_whose_they_are(tmp_path: Path) -> None:
    root = save_set(
        tmp_path / "in", *(f"case_1/SMIR.Brain.XX.O.{name}/SMIR.Brain.XX.O.{name}" for name in ("CT_CBF.1", "OT.2"))
    )
    with pytest.raises(DataError, match=r"in: 0 patients with t1, t1ce, t2, flair \(ct_cbf: 1, unknown: 1\); name the"):
        source(root).patients()
    with pytest.raises(DataError, match=r"CT_CBF.1.nii.gz: of ISLES 2018, .*; say who is who .* data.groups=FILE"):
        source(root, contrasts=("ct_cbf",)).patients()
    assert source(root, contrasts=("ct_cbf",), groups="people.csv").patients() == ["case_1"]
