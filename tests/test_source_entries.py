"""What lies in a source's folder: system files, links without content, what is no file, what is not taken."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from folders import FIRST, P, config, replace, write_patient
from PIL import Image
from test_image_kinds import write_tiff

from segtrain.data.prepare import ensure_store, log_left_out
from segtrain.data.sources import LggSource, find_source, not_taken
from segtrain.errors import DataError

Break = Callable[[Path], object]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        write_patient(tmp_path / "kaggle_3m" / f"TCGA_XX_{number}", number)
    return tmp_path / "kaggle_3m"


SYSTEM_FILES = ("._{name}", ".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir/{name}", "__MACOSX/{name}")


@pytest.mark.parametrize("place", ["", P])
def test_files_of_operating_systems_are_passed_over(root: Path, place: str) -> None:
    """They change neither what is read nor the store that it is in."""
    before = ensure_store(config(root).data)
    for name in SYSTEM_FILES:
        file = root / place / name.format(name=f"{P}_3.tif")
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"\0\5\x16\7")
    after = ensure_store(config(root).data)
    assert after.path == before.path
    assert list(LggSource(root).files(P).numbers) == [1, 2, 3, 4, 5, 6]


@pytest.mark.law("L12")
@pytest.mark.parametrize("above", ["", "archive/"])
def test_patients_in_a_deeper_folder_are_named_as_the_root(root: Path, above: str) -> None:
    top = root.parent / "download"
    (top / above).mkdir(parents=True)
    root.rename(top / above / "kaggle_3m")
    (top / "other").mkdir()
    with pytest.raises(DataError, match=f"set data.root={top}/{above}kaggle_3m$"):
        ensure_store(config(top).data)


ABSENT: dict[str, Break] = {
    "link": lambda file: file.symlink_to("../.git/annex/objects/x/MD5E-s1--0.tif"),
    "git-annex": lambda file: file.write_text("/annex/objects/MD5E-s1--0.tif\n"),
    "Git LFS": lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", ABSENT)
def test_content_that_was_not_fetched_is_named_and_skip_bad_leaves_the_patient_out(root: Path, kind: str) -> None:
    (root / FIRST).unlink()
    ABSENT[kind](root / FIRST)
    with pytest.raises(DataError, match="fetch its content") as caught:
        ensure_store(config(root).data)
    assert str(root / FIRST) in str(caught.value)
    store = ensure_store(config(root, "data.skip_bad=true").data)
    assert list(store.skipped) == [P]


@pytest.mark.law("L12")
@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_a_link_without_content_is_a_slice_or_volume_that_is_missing(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / f"A_flair{suffix}").symlink_to("nowhere")
    with pytest.raises(DataError, match=f"A_flair{suffix}: a link to nowhere, which is not there"):
        find_source(tmp_path, "auto").read("A")


@pytest.mark.law("L12")
@pytest.mark.parametrize("layout", ["lgg", "slices", "nifti"])
def test_a_patient_s_folder_that_is_not_there_breaks_no_other_patient(tmp_path: Path, layout: str) -> None:
    (tmp_path / "lost").symlink_to("/nowhere/else")
    if layout == "nifti":
        nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 6), np.uint8), np.eye(4)), tmp_path / "P_flair.nii")
    else:
        write_patient(tmp_path / "P", 0)
    if layout == "slices":
        for file in (tmp_path / "P").iterdir():
            file.rename(file.with_name(file.name.removeprefix("P_")))
    source = find_source(tmp_path, "auto")
    assert type(source).__name__ == {"lgg": "LggSource", "slices": "FolderSource", "nifti": "NiftiSource"}[layout]
    source.fingerprint()
    assert source.patients() == ["P", "lost"]
    assert source.slices("P") == 6
    assert not not_taken(tmp_path, source)
    with pytest.raises(DataError, match="lost: a link to /nowhere/else, which is not there; fetch"):
        source.slices("lost")


@pytest.mark.law("L12")
def test_a_link_to_a_patient_s_folder_that_is_not_there_is_named(root: Path) -> None:
    shutil.rmtree(root / P)
    (root / P).symlink_to("/nowhere/else")
    (root / "README").symlink_to("../.git/annex/objects/x/MD5E-s1--0")
    with pytest.raises(DataError, match=f"{P}: a link to /nowhere/else, which is not there"):
        ensure_store(config(root).data)
    assert list(ensure_store(config(root, "data.skip_bad=true").data).skipped) == [P]


def test_what_a_source_does_not_take_is_listed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In its folder, and in those that it reads; short, whatever there is of it."""
    for name in ("a.nrrd", "b.tif", ".hidden", f"{P}/notes.txt"):
        (root / name).touch()
    (root / "deep" / "er").mkdir(parents=True)
    (root / P / "more").mkdir()
    names = [f"{P}/more", f"{P}/notes.txt", "a.nrrd", "b.tif", "deep"]
    assert not_taken(root, LggSource(root)) == names
    for number in range(100):
        (root / f"{number:03d}.csv").touch()
    caplog.set_level("INFO", "segtrain")
    cfg = config(root, "data.skip_bad=true").data
    log_left_out(cfg, ensure_store(cfg))
    (line,) = [line for line in caplog.messages if line.startswith("not read, no part of LGG patients in ")]
    assert line.endswith("000.csv, 001.csv, 002.csv, 003.csv, 004.csv, 005.csv and 99 more")
    assert "patients left out: 1 (deep)" in caplog.text


def test_lines_of_groups_that_name_no_patient_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    groups = root.parent / "people.csv"
    groups.write_text(f"{P},anna\n{P.lower()},anna\nelsewhere,bert\n")
    cfg = config(root, f"data.groups={groups}").data
    log_left_out(cfg, ensure_store(cfg))
    (line,) = [message for message in caplog.messages if "name no patient" in message]
    assert line.startswith(f"{groups}: 2 of 3 lines name no patient of the data ({P.lower()}, elsewhere); correct")


def test_labels_of_the_lesion_are_part_of_the_store_s_key(root: Path) -> None:
    """A mask of several labels becomes another store when its regions are named otherwise."""
    for file in root.glob("*/*_mask.tif"):
        replace(file, np.asarray(Image.open(file)) // 255 * np.uint8(2))
    with pytest.raises(DataError, match=r"mask has values 0, 2, but only 0 and 255"):
        ensure_store(config(root).data)
    two = ensure_store(config(root, "data.regions={lesion: [2]}").data)
    more = ensure_store(config(root, "data.regions={lesion: [1, 2]}").data)
    again = ensure_store(config(root, "data.regions={tumour: [2, 1]}").data)
    assert more.path == again.path != two.path
    assert two.patients[P].lesion_voxels == 3 * 12 * 12


@pytest.mark.law("L12")
def test_remarks_of_pillow_name_the_file_and_are_made_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (2, 3):
        path = root / P / f"{P}_{number}.tif"
        write_tiff(path, np.asarray(Image.open(path)), {282: (1, 1)})  # a resolution of two numbers
    caplog.set_level("INFO", "segtrain")
    ensure_store(config(root).data)
    lines = [line for line in caplog.messages if "Metadata Warning" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"patient {P}: {P}_2.tif and 1 more: Metadata Warning, tag 282")


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", ["link to itself", "pipe", "folder"])
def test_what_is_no_file_is_named(root: Path, kind: str) -> None:
    (root / FIRST).unlink()
    match kind:
        case "link to itself":
            (root / FIRST).symlink_to(root / FIRST)
        case "pipe":
            os.mkfifo(root / FIRST)
        case "folder":
            (root / FIRST).mkdir()
    (root / "loop").symlink_to("loop")
    with pytest.raises(DataError) as caught:
        ensure_store(config(root).data)
    assert str(root / "loop" if "loop" in str(caught.value) else root / FIRST) in str(caught.value)
    assert list(ensure_store(config(root, "data.skip_bad=true").data).skipped) == [P, "loop"]
