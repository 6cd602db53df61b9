"""L1 for visits: whose scan a folder or file is that is named by a date, by `baseline` or by a time point."""

import pickle
from pathlib import Path

import pytest
from volumes import save_set, source

from segtrain.data.people import people_of
from segtrain.data.sources.nifti import NiftiSource
from segtrain.data.sources.volumes import VolumeSource


def people_in(there: NiftiSource) -> dict[str, str]:
    patients = there.patients()
    return people_of(patients, None, {patient: person for patient in patients if (person := there.person(patient))})


@pytest.mark.law("L1")
@pytest.mark.parametrize(
    ("folders", "people"),
    [
        (["pat1/2010-01-01", "pat1/2010-06-01", "pat2/2011-03-05"], ["pat1", "pat1", "pat2"]),
        (["anna/2010-01-01", "anna/2010-06-01", "bert/2011-03-05"], ["anna", "anna", "bert"]),
        (["anna/baseline", "anna/followup", "bert"], ["anna", "anna", "bert"]),
        (["baseline/anna", "baseline/bert", "followup/anna"], ["anna", "bert", "anna"]),
        (["in/LGG/TCGA_CS_4941/1996.09.09", "in/LGG/TCGA_CS_4942/1997.02.22"], ["TCGA-CS-4941", "TCGA-CS-4942"]),
        (["all/2010-01-01", "all/2010-06-01"], ["2010-01-01", "2010-06-01"]),
        (["2010-01-01", "2010-06-01"], ["2010-01-01", "2010-06-01"]),
    ],
)
def test_a_folder_of_a_visit_is_of_the_person_above_or_below_it(
    tmp_path: Path, folders: list[str], people: list[str]
) -> None:
    """The names of visits occur once each, so that nothing but the word says that they are no patients."""
    root = save_set(tmp_path / "in", *(f"{folder}/{name}" for folder in folders for name in ("flair", "seg")))
    assert list(people_in(source(root)).values()) == people


@pytest.mark.law("L1")
def test_a_visit_in_the_file_s_name_is_of_the_folder_s_person(tmp_path: Path) -> None:
    names = [f"{scan}_{name}" for scan in ("anna/2010-01-01", "anna/baseline", "bert/T1") for name in ("flair", "seg")]
    assert set(people_in(source(save_set(tmp_path / "in", *names))).values()) == {"anna", "bert"}


def test_people_whom_folders_name_are_part_of_what_a_store_is_known_by(tmp_path: Path) -> None:
    """Stores from before have dates alone as ids."""
    dated = save_set(tmp_path / "in", *(f"pat{n}/2010-0{n}-01/{name}" for n in (1, 2) for name in ("flair", "seg")))
    there = source(dated)
    files = VolumeSource.fingerprint(there)
    assert there.fingerprint() != files
    assert pickle.loads(pickle.dumps(there)).person("pat1_2010-01-01") == "pat1"
    plain = source(save_set(tmp_path / "plain", "P1/T1/flair", "P1/T1/seg", "P2/T1/flair", "P2/T1/seg"))
    assert plain.fingerprint() == VolumeSource.fingerprint(plain), "and of ids that say it themselves it is as before"
