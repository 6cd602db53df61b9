"""L12 for source folders: every way in which one can be broken is named before anything is built."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import FIRST, P, config, rename, replace, write_16_bits, write_patient
from PIL import Image

from segtrain.data import prepare
from segtrain.data.prepare import ensure_store
from segtrain.data.sources.lgg import LggSource
from segtrain.data.splits import make_split
from segtrain.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        write_patient(tmp_path / "kaggle_3m" / f"TCGA_XX_{number}", number)
    return tmp_path / "kaggle_3m"


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
    "one slice of 16 bits": (
        lambda r: write_16_bits(r / P / f"{P}_2.tif"),
        [f"{P}_2.tif", "pixels are uint16", "uint8"],
    ),
    "16-bit mask": (
        lambda r: replace(r / P / f"{P}_1_mask.tif", np.full((32, 32), 256, np.uint16)),
        [f"{P}_1_mask.tif", "values 256", "only 0 and 255"],
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
@pytest.mark.parametrize("workers", [1, 2])
def test_all_that_is_broken_is_told_at_once(root: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    for name in (P, "TCGA_XX_2"):
        (root / name / f"{name}_1.tif").write_bytes(b"GIF89a, or so it says")
    message = rf"{P}_1.tif: not a readable TIFF.* \(and 1 more broken patient, named above\)"
    with pytest.raises(DataError, match=message):
        ensure_store(config(root, f"data.workers={workers}").data)
    warnings = sorted(record.message for record in caplog.records if record.levelname == "WARNING")
    assert [Path(warning.partition(":")[0]).name for warning in warnings] == [f"{P}_1.tif", "TCGA_XX_2_1.tif"]


@pytest.mark.law("L12")
def test_others_are_looked_for_as_long_as_that_is_no_waste(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is prepared beside a broken patient is kept."""
    for name in ("TCGA_XX_0", "TCGA_XX_2"):
        (root / name / f"{name}_1.tif").write_bytes(b"GIF89a, or so it says")
    monkeypatch.setattr(prepare, "OTHERS_S", -1.0)
    with pytest.raises(DataError, match=r"TCGA_XX_0_1.tif: not a readable TIFF") as caught:
        ensure_store(config(root, "data.workers=1").data)
    assert "more broken" not in str(caught.value)


@pytest.mark.law("L12")
def test_where_all_is_broken_alike_the_first_few_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(9):
        (root / f"TCGA_YY_{number}").mkdir()
    message = r"TCGA_YY_0: 0 slices.*\(and 5 more broken patients, named above; those after them were not looked at\)"
    with pytest.raises(DataError, match=message):
        ensure_store(config(root, "data.workers=1").data)
    assert sum("0 slices" in record.message for record in caplog.records) == 6


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
