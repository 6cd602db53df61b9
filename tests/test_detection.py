"""The layout of a folder, found by names: the table of public sets, and what is refused with the way to convert it."""

import json
from pathlib import Path

import pytest
from folders import write_patient
from slice_sets import config, numbered, write_twins

from segtrain.config import first_difference, load_config
from segtrain.data.prepare import ensure_store
from segtrain.data.sources import LggSource, make_source
from segtrain.data.sources.detection import detect
from segtrain.errors import DataError

V2 = json.dumps({"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"})
V1 = json.dumps({"modality": {"0": "FLAIR"}, "labels": {"0": "background", "1": "lesion"}})
MSD = json.dumps({"modality": {"0": "FLAIR"}, "tensorImageSize": "4D", "labels": {"0": "background", "1": "lesion"}})
# Files by path (a text is its content), the layout, a part of the reason.
SEEN = {
    "nnU-Net v2": ({"dataset.json": V2, "imagesTr/a_0000.nii.gz": "", "labelsTr/a.nii.gz": ""}, "nnunet", "v2"),
    "nnU-Net v2 of PNGs": ({"dataset.json": V2, "imagesTr/a_0000.png": "", "labelsTr/a.png": ""}, "nnunet", "v2"),
    "nnU-Net v1": ({"dataset.json": V1, "imagesTr/a_0000.nii.gz": ""}, "nnunet", "v1"),
    "MSD": ({"dataset.json": MSD, "imagesTr/a_0001.nii.gz": ""}, "nnunet", "MSD"),
    "MSD by names": ({"dataset.json": V1, "imagesTr/BRATS_001.nii.gz": ""}, "nnunet", "MSD"),
    "BIDS": ({"sub-01/ses-1/anat/sub-01_FLAIR.nii.gz": "", "sub-02/a.txt": ""}, "nifti", "BIDS"),
    "BraTS 2023": ({"BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz": ""}, "nifti", "BraTS 2023"),
    "BraTS 2021": ({"BraTS2021_00000/BraTS2021_00000_flair.nii.gz": ""}, "nifti", "BraTS 2017"),
    "UPENN": ({"x/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1.nii.gz": ""}, "nifti", "UPENN"),
    "TCGA": ({"TCGA-CS-4942/TCGA-CS-4942_1997.02.22_flair.nii.gz": ""}, "nifti", "TCGA"),
    "WMH": ({"Amsterdam/GE3T/100/pre/FLAIR.nii.gz": ""}, "nifti", "NIfTI"),
    "ISLES 2015": ({"1/VSD.Brain.XX.O.MR_Flair.1/VSD.Brain.XX.O.MR_Flair.1.nii": ""}, "nifti", "ISLES"),
    "LGG": ({"TCGA_CS_1/TCGA_CS_1_1.tif": "", "TCGA_CS_1/TCGA_CS_1_1_mask.tif": ""}, "lgg", "TCGA_CS_1"),
    "twins": ({"images/1.png": "", "masks/1.png": ""}, "slices", "twin folders images and masks"),
    "twins with patients": ({"Original/A/1.tif": "", "Ground Truth/A/1.tif": ""}, "slices", "Ground Truth"),
    "folders": ({"A/1.png": "", "A/1_mask.png": ""}, "slices", "a folder of slices a patient"),
    "folders of contrasts": ({"A/flair/1.png": "", "A/t1/1.png": ""}, "slices", "with folders of slices in it"),
    "loose": ({"1.png": "", "1_mask.png": ""}, "slices", "no patient's folder"),
}


def make(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize("kind", SEEN)
def test_a_layout_is_told_by_names(tmp_path: Path, kind: str) -> None:
    files, layout, why = SEEN[kind]
    detected = detect(make(tmp_path, {"._a.nii.gz": "", **files}), "data.root")
    assert detected.layout == layout
    assert why in detected.why


REFUSED = {
    "several sets": (
        {"D1/dataset.json": V2, "D2/dataset.json": V2},
        r"2 data set\(s\) .*\(D1, D2\); .*data.root=.*/D1$",
    ),
    "bad json": ({"dataset.json": "{"}, r"dataset.json: cannot be read as JSON"),
    "DICOM": ({"a/1.dcm": "", "a/2.dcm": ""}, r"2 files .dcm in it: DICOM; .*dcm2niix"),
    "h5": ({"a/1.h5": ""}, r"order of contrasts no file says; .*data.source=FILE.py:NAME"),
    "mat": ({"1.mat": "", "2.mat": ""}, r"2 files .mat in it: MATLAB"),
    "mha": ({"1.mha": ""}, r"MetaImage volumes; convert them into .nii.gz"),
    "nrrd": ({"1.nhdr": ""}, r"NRRD volumes"),
    "npy": ({"1.npy": ""}, r"NumPy arrays"),
    "jpg": ({"images/1.jpg": "", "masks/1.jpg": ""}, r"2 files .jpg in it: JPEG, which changes grey levels"),
    "deeper": ({"a/b/c/1.png": ""}, r"0 patient folders, slices .*; set data.root=.*/a/b$"),
    "nothing": ({"readme.txt": ""}, r"0 patient folders, slices .*; set data.root=the folder that holds them"),
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_named_with_the_way_to_convert_it(tmp_path: Path, kind: str) -> None:
    files, words = REFUSED[kind]
    with pytest.raises(DataError, match=words) as caught:
        detect(make(tmp_path, files), "data.root")
    assert "\n" not in str(caught.value)


def test_auto_prepares_the_store_of_the_layout_and_the_run_says_which(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_twins(root, numbered(["P01", "P02"]))
    auto, named = config(root, "data.source=auto"), config(root)
    store = ensure_store(auto.data)
    assert store.path == ensure_store(named.data).path
    assert store.resolved(auto.data).source == "slices"
    resolved = load_config(None, [f"data.root={root}", "data.source=slices", "data.contrasts=[a, b, c]"])
    again = load_config(None, [f"data.root={root}", "data.source=auto"])
    assert first_difference(again, resolved) is None
    other = first_difference(load_config(None, [f"data.root={root}", "data.source=lgg"]), resolved)
    assert other is not None
    assert other[0] == "data.source"


def test_auto_takes_the_published_layout_as_before(tmp_path: Path) -> None:
    write_patient(tmp_path / "in" / "TCGA_XX_1", 0)
    assert isinstance(make_source(config(tmp_path / "in", "data.source=auto").data), LggSource)
