"""Whole data sets as labs and public sites have them: what is told when they are prepared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from volumes import config, image, save, save_set, source, taken

from segtrain.config import PhantomConfig
from segtrain.data.layouts import Settings, write_phantoms
from segtrain.data.people import people_of
from segtrain.data.prepare import ensure_store
from segtrain.errors import DataError

REGIONS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
SCANS = "*/{patient}-"


@pytest.fixture(scope="module")
def brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms under the names of BraTS 2023."""
    root = tmp_path_factory.mktemp("brats") / "in"
    phantom = PhantomConfig(patients=6, size_px=64, regions=3, contrasts=("t1", "t1ce", "t2", "flair"))
    write_phantoms("brats", root, Settings(phantom, bits=16))
    return root


def warnings(root: Path, store: Path, **data: Any) -> list[str]:
    """Those of the store."""
    settings = {"regions": REGIONS, "image_size": 64, "protocol": "zscore", **data}
    return list(ensure_store(replace(config(root), store=str(store), **settings)).warnings)


def test_made_up_patients_raise_no_warning(brats: Path, tmp_path: Path) -> None:
    assert not warnings(brats, tmp_path)


def test_a_core_that_is_edema_is_told(brats: Path, tmp_path: Path) -> None:
    """Trap 1: the regions of another set's numbers."""
    told = warnings(brats, tmp_path, regions={"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)})
    assert any(warning.startswith("label 2 in region core has the highest z(FLAIR)") for warning in told), told


def test_contrasts_under_each_other_s_names_are_told(brats: Path, tmp_path: Path) -> None:
    """Trap 7: T2 called FLAIR."""
    names = {"t1": "t1n", "t1ce": "t1c", "t2": "t2f", "flair": "t2w", "truth": "seg"}
    files = {role: f"{SCANS}{name}.nii.gz" for role, name in names.items()}
    told = warnings(brats, tmp_path, files=files)
    assert any("is dark on FLAIR in" in warning for warning in told), told


@pytest.mark.law("L12")
def test_a_mask_of_the_head_is_no_lesion(brats: Path, tmp_path: Path) -> None:
    """Trap 5."""
    for path in brats.rglob("*-t2f.nii.gz"):
        flair: Any = nibabel.load(path)
        save(tmp_path / "in" / path.parent.name / path.name, np.asanyarray(flair.dataobj), flair.affine)
        head = (np.asanyarray(flair.dataobj) > 0).astype(np.uint8)
        save(tmp_path / "in" / path.parent.name / path.name.replace("t2f", "seg"), head, flair.affine)
    with pytest.raises(DataError, match=r"lesion is \d+% of the head in the median of \d+ patients; check that masks"):
        warnings(tmp_path / "in", tmp_path / "prepared", regions=None)


@pytest.mark.law("L12")
def test_a_constant_contrast_counts_as_missing(tmp_path: Path) -> None:
    """Case 13."""
    root = save_set(tmp_path / "in", *(f"P{n}_{name}" for n in range(3) for name in ("flair", "t1", "seg")))
    save(root / "P1_t1.nii.gz", np.full_like(image(0), 7))
    with pytest.raises(DataError, match=r"patient P1: channel 0 is constant; .* data.missing=zeros"):
        ensure_store(config(root))
    store = ensure_store(config(root, missing="zeros"))
    assert store.patients["P1"].missing_channels == ("t1",)


@pytest.mark.law("L12")
@pytest.mark.parametrize("copies", [("raw", "coregistered"), ("raw", "preprocessed")])
def test_two_copies_of_one_patient_are_asked_for(tmp_path: Path, copies: tuple[str, str]) -> None:
    """OpenMS has each patient before and after registration."""
    names = (f"{copy}/patient01/{what}" for copy in copies for what in ("FLAIR", "consensus_gt"))
    root = save_set(tmp_path / "in", *names)
    there = source(root)
    assert there.patients() == ["patient01"]
    with pytest.raises(DataError, match=r"FLAIR.nii.gz: a second flair of patient patient01, beside .* data.files"):
        there.read("patient01")


@pytest.mark.law("L1")
def test_a_person_of_two_public_sets_is_one(tmp_path: Path) -> None:
    """As the published LGG slices write the id, and as BraTS-TCGA does."""
    names = ["TCGA_CS_4942_19970222", "TCGA-CS-4942_1997.02.22", "TCGA-CS-4943_2000.09.02"]
    root = save_set(tmp_path / "in", *(f"{name}/{name}_{what}" for name in names for what in ("flair", "seg")))
    people = people_of(source(root).patients(), None)
    assert len(people) == 3
    assert sorted(set(people.values())) == ["TCGA-CS-4942", "TCGA-CS-4943"]


@pytest.mark.law("L1")
@pytest.mark.parametrize("dates", [("20230412", "20240101"), ("baseline", "followup"), ("visit1", "visit2")])
def test_scans_in_one_folder_are_of_one_person(tmp_path: Path, dates: tuple[str, str]) -> None:
    """Also where nobody else was scanned on that day."""
    names = ["pat_1/20230412", f"pat_2/{dates[0]}", f"pat_2/{dates[1]}"]
    root = save_set(tmp_path / "in", *(f"{name}_{what}" for name in names for what in ("FLAIR", "seg")))
    files = {"flair": "*/{patient}_FLAIR.nii.gz", "truth": "*/{patient}_seg.nii.gz"}
    for ids in (source(root).patients(), source(root, files=files).patients()):
        people = people_of(ids, None)
        assert people.pop(f"pat_2_{dates[0]}") == people.pop(f"pat_2_{dates[1]}") == "pat_2"
        assert list(people.values()) == ["pat_1"]


T1, T1CE, T2, FLAIR, TRUTH = "t1", "t1ce", "t2", "flair", "truth"
OF_LABS: dict[str, tuple[list[str], dict[str, dict[str, str]]]] = {
    "files named by the date of the scan": (
        [
            *(f"pat_{n}/{date}_{c}" for n, date in ((1, "20230412"), (2, "2023-05-03")) for c in ("FLAIR", "seg")),
            *(f"pat_3/{date}_{c}" for date in ("20230412", "20240101") for c in ("FLAIR", "seg")),
        ],
        {
            "pat_1": {FLAIR: "pat_1/20230412_FLAIR", TRUTH: "pat_1/20230412_seg"},
            "pat_2": {FLAIR: "pat_2/2023-05-03_FLAIR", TRUTH: "pat_2/2023-05-03_seg"},
            **{
                f"pat_3_{date}": {FLAIR: f"pat_3/{date}_FLAIR", TRUTH: f"pat_3/{date}_seg"}
                for date in ("20230412", "20240101")
            },
        },
    ),
    "contrasts of two words": (
        [
            *(f"a/a_{name}" for name in ("T1", "T1_gado", "T2", "T2_FLAIR", "seg")),
            *(f"b/{name}" for name in ("T1_pre", "T1_post", "T2", "T2-FLAIR", "seg")),
        ],
        {
            "a": {T1: "a/a_T1", T1CE: "a/a_T1_gado", T2: "a/a_T2", FLAIR: "a/a_T2_FLAIR", TRUTH: "a/a_seg"},
            "b": {T1: "b/T1_pre", T1CE: "b/T1_post", T2: "b/T2", FLAIR: "b/T2-FLAIR", TRUTH: "b/seg"},
        },
    ),
    "time points in front of one contrast": (
        ["P1_T1_FLAIR", "P1_T1_MASK", "P1_T2_FLAIR", "P1_T2_MASK"],
        {f"P1_{t}": {FLAIR: f"P1_{t}_FLAIR", TRUTH: f"P1_{t}_MASK"} for t in ("T1", "T2")},
    ),
}


@pytest.mark.parametrize("kind", OF_LABS)
def test_sets_of_labs_are_taken_as_they_are(tmp_path: Path, kind: str) -> None:
    names, expected = OF_LABS[kind]
    assert taken(save_set(tmp_path / "in", *names)) == expected
