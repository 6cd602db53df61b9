"""L12 for source folders: every way in which one can be broken is named before anything is built."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.config import Config, load_config
from segtrain.data.prepare import ensure_store
from segtrain.data.sources.lgg import LggSource
from segtrain.data.sources.open import find_source, not_taken
from segtrain.data.splits import make_split
from segtrain.errors import DataError


def write_patient(folder: Path, seed: int, slices: int = 6) -> None:
    """A small patient in the published layout."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(1, slices + 1):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 8:20] = 255 if 2 <= number <= 4 else 0
        Image.fromarray(rng.integers(30, 256, (32, 32, 3), np.uint8)).save(folder / f"{folder.name}_{number}.tif")
        Image.fromarray(mask).save(folder / f"{folder.name}_{number}_mask.tif")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        write_patient(tmp_path / "kaggle_3m" / f"TCGA_XX_{number}", number)
    return tmp_path / "kaggle_3m"


def config(root: Path, *overrides: str) -> Config:
    store = root.parent / "prepared"
    return load_config(
        None,
        [
            "data.source=lgg",
            f"data.root={root}",
            f"data.store={store}",
            "data.image_size=32",
            "data.workers=1",
            *overrides,
        ],
    )


def replace(path: Path, array: np.ndarray) -> None:
    path.unlink()
    Image.fromarray(array).save(path)


def rename(old: Path, new: str) -> None:
    old.rename(old.with_name(new))


P, FIRST = "TCGA_XX_1", "TCGA_XX_1/TCGA_XX_1_1.tif"
Break = Callable[[Path], object]
BROKEN: dict[str, tuple[Break, list[str]]] = {
    "missing folder": (lambda r: shutil.rmtree(r), ["kaggle_3m", "no such folder", "data.root"]),
    "no patients": (lambda r: [shutil.rmtree(p) for p in r.iterdir()], ["kaggle_3m", "0 patient folders"]),
    "no slices": (lambda r: [p.unlink() for p in (r / P).iterdir()], [P, "0 slices"]),
    "slice without mask": (lambda r: (r / P / f"{P}_3_mask.tif").unlink(), [f"{P}_3.tif", "has no mask"]),
    "mask without slice": (lambda r: (r / P / f"{P}_3.tif").unlink(), [f"{P}_3_mask.tif", "has no slice"]),
    "gap": (lambda r: [(r / P / f"{P}_3{m}.tif").unlink() for m in ("", "_mask")], [P, "slice 3 is missing"]),
    "numbered from 0": (
        lambda r: [rename(r / P / f"{P}_6{m}.tif", f"{P}_0{m}.tif") for m in ("", "_mask")],
        [P, "slice 0", "from 1"],
    ),
    "strange name": (lambda r: rename(r / FIRST, "scan.tif"), ["scan.tif", "rename"]),
    "another patient's slice": (
        lambda r: rename(r / P / f"{P}_6.tif", "TCGA_XX_9_6.tif"),
        [f"{P}/TCGA_XX_9_6.tif", "patient TCGA_XX_9"],
    ),
    "one number twice": (
        lambda r: shutil.copy(r / P / f"{P}_2.tif", r / P / f"{P}_02.tif"),
        [P, "a second file for slice 2"],
    ),
    "wrong size": (
        lambda r: replace(r / P / f"{P}_2.tif", np.zeros((32, 40, 3), np.uint8)),
        [f"{P}_2.tif", "32x40", "32x32"],
    ),
    "mask of wrong size": (
        lambda r: replace(r / P / f"{P}_2_mask.tif", np.zeros((16, 16), np.uint8)),
        [f"{P}_2_mask.tif", "16x16"],
    ),
    "one channel": (lambda r: replace(r / FIRST, np.zeros((32, 32), np.uint8)), [FIRST, "1 channel(s)", "3"]),
    "four channels": (lambda r: replace(r / FIRST, np.zeros((32, 32, 4), np.uint8)), [FIRST, "4 channel(s)"]),
    "colour mask": (
        lambda r: replace(r / P / f"{P}_1_mask.tif", np.zeros((32, 32, 3), np.uint8)),
        [f"{P}_1_mask.tif", "3 channel(s)"],
    ),
    "16-bit mask": (
        lambda r: replace(r / P / f"{P}_1_mask.tif", np.zeros((32, 32), np.uint16)),
        [f"{P}_1_mask.tif", "uint16", "8-bit"],
    ),
    "grey mask": (
        lambda r: replace(r / P / f"{P}_2_mask.tif", np.full((32, 32), 128, np.uint8)),
        [f"{P}_2_mask.tif", "128", "255"],
    ),
    "truncated": (lambda r: os.truncate(r / FIRST, 700), [FIRST, "not a readable TIFF"]),
    "empty file": (lambda r: os.truncate(r / FIRST, 0), [FIRST, "not a readable TIFF"]),
    "not a TIFF": (lambda r: (r / FIRST).write_bytes(b"GIF89a, or so it says"), [FIRST, "not a readable TIFF"]),
    "constant volume": (
        lambda r: [replace(r / P / f"{P}_{k}.tif", np.full((32, 32, 3), 9, np.uint8)) for k in range(1, 7)],
        [P, "constant volume"],
    ),
    "empty masks": (
        lambda r: [replace(r / P / f"{P}_{k}_mask.tif", np.zeros((32, 32), np.uint8)) for k in range(1, 7)],
        [P, "no lesion voxel"],
    ),
    "two slices": (
        lambda r: [(r / P / f"{P}_{k}{m}.tif").unlink() for k in range(3, 7) for m in ("", "_mask")],
        [P, "2 slice(s)", "3 are needed"],
    ),
}
OF_ONE_PATIENT = sorted(BROKEN.keys() - {"missing folder", "no patients"})


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_source_is_named_and_nothing_is_built(root: Path, kind: str) -> None:
    break_it, words = BROKEN[kind]
    break_it(root)
    with pytest.raises(DataError) as caught:
        ensure_store(config(root).data)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not [p for p in (root.parent / "prepared").glob("**/*") if not p.name.endswith(".lock")]


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", OF_ONE_PATIENT)
def test_skip_bad_leaves_the_broken_patient_out_and_lists_it(root: Path, kind: str) -> None:
    BROKEN[kind][0](root)
    store = ensure_store(config(root, "data.skip_bad=true").data)
    assert set(store.patients) == {"TCGA_XX_0", "TCGA_XX_2"}
    assert list(store.skipped) == [P]
    assert BROKEN[kind][1][-1] in store.skipped[P]


@pytest.mark.law("L12")
@pytest.mark.parametrize("target", ["folder", "patient", "file"])
def test_what_may_not_be_read_is_named(root: Path, target: str, request: pytest.FixtureRequest) -> None:
    path = {"folder": root, "patient": root / P, "file": root / FIRST}[target]
    (root.parent / "prepared").mkdir(mode=0o777)
    (root.parent / "prepared").chmod(0o777)
    path.chmod(0)
    request.getfixturevalue("as_nobody")
    try:
        source = LggSource(root)
        with pytest.raises(DataError, match="Permission denied") as caught:
            (source.fingerprint(), source.read(P))
        assert str(path) in str(caught.value)
    finally:
        if os.geteuid() != 0 and os.getuid() == 0:
            os.seteuid(0)
        path.chmod(0o755)


@pytest.mark.law("L1")
@pytest.mark.parametrize("copied", ["whole", "one slice"])
def test_the_same_pixels_under_two_patients_are_refused(root: Path, copied: str) -> None:
    if copied == "whole":
        for file in (root / "TCGA_XX_0").iterdir():
            shutil.copy(file, root / P / file.name.replace("XX_0", "XX_1"))
    else:
        shutil.copy(root / "TCGA_XX_0" / "TCGA_XX_0_4.tif", root / P / f"{P}_2.tif")
    with pytest.raises(DataError, match=r"TCGA_XX_0 and TCGA_XX_1 share the same pixels"):
        ensure_store(config(root).data)


@pytest.mark.law("L12")
def test_too_few_patients_for_the_split_are_named(root: Path) -> None:
    cfg = config(root).data
    store = ensure_store(cfg)
    with pytest.raises(DataError, match=r"3 patients .* data.validation_patients=10"):
        make_split(config(root, "data.validation_patients=10").data, store)
    with pytest.raises(DataError, match=r"3 patients .* data.folds=5"):
        make_split(config(root, "data.split=kfold").data, store)


def test_masks_of_0_and_1_mean_the_same_as_0_and_255(root: Path) -> None:
    before = ensure_store(config(root).data)
    for file in (root / P).glob("*_mask.tif"):
        replace(file, np.asarray(Image.open(file)) // 255)
    after = ensure_store(config(root).data)
    assert after.path != before.path
    assert after.patients[P].areas == before.patients[P].areas
    assert sum(after.patients[P].areas) > 0


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
def test_a_link_to_a_patient_s_folder_that_is_not_there_is_named(root: Path) -> None:
    shutil.rmtree(root / P)
    (root / P).symlink_to("/nowhere/else")
    (root / "README").symlink_to("../.git/annex/objects/x/MD5E-s1--0")
    with pytest.raises(DataError, match=f"{P}: a link to /nowhere/else, which is not there"):
        ensure_store(config(root).data)
    assert list(ensure_store(config(root, "data.skip_bad=true").data).skipped) == [P]


def test_what_a_source_does_not_take_is_listed(root: Path) -> None:
    for name in ("a.nrrd", "b.tif", ".hidden"):
        (root / name).touch()
    (root / "deep" / "er").mkdir(parents=True)
    assert not_taken(root, LggSource(root)) == ["a.nrrd", "b.tif", "deep"]
