"""Truths, contrasts and values of NIfTI volumes: taken by rule, told, or refused with thing, value and remedy."""

import logging
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from volumes import AFFINE, MASK, as_slices, config, image, masked, save, save_set, source, taken

from segtrain.config import IGNORED, LGG_CONTRASTS, DataConfig, load_config
from segtrain.data.prepare import ensure_store
from segtrain.data.sources import Volume, fill_missing, find_source
from segtrain.data.sources.levels import one_range
from segtrain.errors import ConfigError, DataError

RATERS = ["Masks/Consensus", *(f"Masks/ManualSegmentation_{n}" for n in range(1, 8))]


@pytest.mark.parametrize("rater", [None, "3", "ManualSegmentation_3", "consensus"])
def test_the_consensus_is_taken_and_a_rater_on_demand(tmp_path: Path, rater: str | None) -> None:
    """Case 11: MSSEG."""
    root = save_set(
        tmp_path / "in",
        *(
            f"Center_01/Patient_0{n}/{name}"
            for n in (1, 2)
            for name in ("Preprocessed_Data/FLAIR_preprocessed", *RATERS)
        ),
    )
    name = "ManualSegmentation_3" if rater and "3" in rater else "Consensus"
    assert {files["truth"] for files in taken(root, rater=rater).values()} == {
        f"Center_01/Patient_0{n}/Masks/{name}" for n in (1, 2)
    }
    if rater == "3":
        assert load_config(None, ["data.rater=3"]).data.rater == rater
    told = [remark for remark in source(root, rater=rater).remarks() if "consensus" in remark]
    assert told == ([] if rater else ["of several masks the consensus is taken: 2 patients (Patient_01, Patient_02)"])


TRUTHS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "odd": (["W39_1998.09.19_Segm"], {}, r"W39_1998.09.19_Segm.nii.gz: may be the truth of patient B_2, .*to B_2_seg"),
    "two": (["B_2_seg", "B_2_mask"], {}, r"B_2_seg.nii.gz: a second truth of patient B_2, beside .*B_2_mask"),
    "raters": (["B_2_mask1", "B_2_mask2"], {}, r"B_2 has masks of raters alone \(mask1, mask2\); .*data.rater=mask1"),
    "no such": (["B_2_mask1"], {"rater": "5"}, r"B_2 has 0 masks of data.rater=5 among mask1; name one of these"),
}  # fmt: skip


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", TRUTHS)
def test_a_truth_that_is_not_clear_is_asked_for_in_training_alone(tmp_path: Path, kind: str) -> None:
    """Case 12: BraTS20_Training_355, and the like."""
    names, data, words = TRUTHS[kind]
    root = save_set(tmp_path / "in", "B_2/B_2_flair", *(f"B_2/{name}" for name in names))
    with pytest.raises(DataError, match=words):
        source(root, **data).read("B_2")
    predicted = find_source(root, "nifti", DataConfig(contrasts=("flair",), **data)).read("B_2")
    assert predicted.mask_shw is None
    assert any(remark.startswith("without truth: ") for remark in predicted.remarks)


def test_patients_without_truth_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Case 12; an automatic mask is no truth unless it is named, and a mask of zeros is one."""
    root = save_set(tmp_path / "in", *(f"P{n}/P{n}_{name}" for n in range(4) for name in ("flair", "t1", "seg")))
    (root / "P1/P1_seg.nii.gz").unlink()
    (root / "P2/P2_seg.nii.gz").rename(root / "P2/P2_automated_approx_segm.nii.gz")
    save(root / "P3/P3_seg.nii.gz", MASK * 0)
    assert source(root).patients() == ["P0", "P3"]
    assert list(source(root).left_out()) == ["P1", "P2"]
    assert not masked(source(root).read("P3")).any()
    assert source(root, rater="automated").files_of("P2")["truth"][0].name == "P2_automated_approx_segm.nii.gz"
    save(root / "P3/P3_seg.nii.gz", MASK)
    caplog.set_level(logging.INFO, "segtrain")
    store = ensure_store(config(root))
    assert "automatic masks alone are no truth: 1 patients (P2); data.rater takes them by name" in caplog.messages
    assert list(store.patients) == ["P0", "P3"]
    assert list(store.skipped) == ["P1", "P2"]
    assert store.contrasts == ("t1", "flair")
    assert "contrasts: t1, flair" in caplog.messages
    assert store.patients["P0"].spacing_mm == (3.0, 1.0, 1.0)
    assert store.patients["P0"].lesion_voxels == MASK[..., 1:-1].sum()
    assert source(root, contrasts=("adc",), missing="zeros").left_out()["P0"] == (
        "patient P0: none of the contrasts adc among its files"
    )
    with pytest.raises(DataError, match=r"new: 0 of 1 patients have a truth \(unknown files: Q_gt.nii.gz\); add"):
        source(save_set(tmp_path / "new", "P1_flair", "Q_gt")).patients()


def test_voxels_that_nobody_knows_are_ignored(tmp_path: Path) -> None:
    """Case 10: WMH, whose 2 is other pathology, in floats."""
    save_set(tmp_path / "in", "0/pre/FLAIR")
    labels = MASK.astype(np.float32)
    labels[5:7] *= 2
    save(tmp_path / "in/0/wmh.nii.gz", labels)
    mask_shw = masked(source(tmp_path / "in", regions={"wmh": (1,)}, ignore=(2,)).read("0"))
    np.testing.assert_array_equal(mask_shw, as_slices(np.select([labels == 2, labels == 1], [IGNORED, 1])))


@pytest.mark.law("L12")
def test_several_labels_are_named_for_training(tmp_path: Path) -> None:
    root = save_set(tmp_path / "in", "P_flair", "P_seg")
    labels = MASK * np.uint8(2)
    labels[5, 6, 2] = 4
    save(root / "P_seg.nii.gz", labels)
    with pytest.raises(DataError, match=r"labels 2, 4; .*data.regions='{lesion: \[2, 4\]}'"):
        source(root).read("P")
    volume = source(root, regions={"core": (4,), "whole": (2, 4)}).read("P")
    assert np.bincount(masked(volume).ravel(), minlength=4)[1:].tolist() == [0, int(MASK.sum()) - 1, 1]
    assert volume.label_voxels == {0: int((MASK == 0).sum()), 2: int(MASK.sum()) - 1, 4: 1}
    assert find_source(root, "nifti").read("P").label_voxels == volume.label_voxels


def test_values_stay_as_they_are(tmp_path: Path) -> None:
    """Case 13: a minimum below the background, a slope, whole numbers."""
    low = image(0).astype(np.float32)
    low[5, 5, 3] = -290
    save(tmp_path / "in/P_flair.nii.gz", low)
    save(tmp_path / "in/P_seg.nii.gz", MASK)
    scaled = nibabel.Nifti1Image(image(1), AFFINE)
    scaled.header.set_slope_inter(0.5, 0)
    nibabel.save(scaled, tmp_path / "in/P_t1.nii.gz")
    stored = np.asanyarray(nibabel.load(tmp_path / "in/P_t1.nii.gz").dataobj)  # type: ignore[attr-defined]
    volume = source(tmp_path / "in").read("P")
    assert not volume.has_one_range
    assert volume.image_shwc.dtype == np.float32
    np.testing.assert_array_equal(volume.image_shwc[..., 0], as_slices(stored))
    np.testing.assert_array_equal(volume.image_shwc[..., 1], as_slices(low))
    levels = one_range(volume).image_shwc
    background = as_slices(image(0) == 0)
    assert len(np.unique(levels[background][:, 1])) == 1
    save(tmp_path / "in/P_flair.nii.gz", image(0))
    save(tmp_path / "in/P_t1.nii.gz", image(1))
    assert source(tmp_path / "in").read("P").image_shwc.dtype == np.int16
    save(tmp_path / "in/P_flair.nii.gz", (image(0) // 16).astype(np.uint8))
    save(tmp_path / "in/P_t1.nii.gz", (image(1) // 16).astype(np.uint8))
    volume = source(tmp_path / "in").read("P")
    assert volume.has_one_range
    assert volume.image_shwc.dtype == np.uint8


def some(root: Path) -> Path:
    """Three patients, of whom one lacks T1."""
    return save_set(
        root, *(f"P{n}_{name}" for n in range(3) for name in ("flair", "t1", "seg") if (n, name) != (1, "t1"))
    )


@pytest.mark.law("L12")
def test_a_missing_contrast_is_filled_as_the_config_says_or_named(tmp_path: Path) -> None:
    root = some(tmp_path / "in")
    assert source(root).contrasts == ("flair",)
    assert source(root).remarks() == (
        "contrasts: flair",
        "t1 is passed over, 2 of 3 patients have it, not P1; data.contrasts takes it, with data.missing for the others",
    )
    contrasts = ("T1w", "FLAIR")
    volume = source(root, contrasts=contrasts).read("P1")
    assert volume.absent == ("T1w",)
    assert not volume.image_shwc[..., 0].any()
    with pytest.raises(DataError, match=r"patient P1: has no T1w; add the file, .* data.missing=zeros"):
        ensure_store(config(root, contrasts=contrasts))
    store = ensure_store(config(root, contrasts=contrasts, missing="flair"))
    assert store.contrasts == contrasts
    assert {patient: entry.missing_channels for patient, entry in store.patients.items()} == {
        "P0": (), "P1": ("T1w",), "P2": ()
    }  # fmt: skip
    image_shwc, _ = store.volume("P1")
    np.testing.assert_array_equal(image_shwc[..., 0], image_shwc[..., 1])


@pytest.mark.parametrize("stand_in", ["zeros", "flair", "T1"])
def test_what_stands_in_for_a_missing_contrast(stand_in: str) -> None:
    """A constant one counts as missing; others stay as they are."""
    names = ("t1", "FLAIR", "adc")
    image_shwc = np.stack([as_slices(image(seed)) for seed in range(3)], axis=-1)
    image_shwc[..., 2] = 7
    volume = Volume(image_shwc, None, (), (), ("a remark",))
    filled = fill_missing(volume, names, stand_in, "P")
    expected = {"zeros": np.zeros_like(image_shwc[..., 0]), "flair": image_shwc[..., 1], "T1": image_shwc[..., 0]}
    np.testing.assert_array_equal(filled.image_shwc[..., 2], expected[stand_in])
    np.testing.assert_array_equal(filled.image_shwc[..., :2], image_shwc[..., :2])
    assert filled.absent == ("adc",)
    word = {"zeros": "zeros stand", "flair": "FLAIR stands", "T1": "t1 stands"}[stand_in]
    assert filled.remarks == ("a remark", f"adc is missing, {word} in for it")
    assert (image_shwc[..., 2] == 7).all(), "the source's volume stays as it is"
    assert fill_missing(volume, names, None, "P") is volume
    with pytest.raises(
        DataError, match=r"data.missing=t2 is none of the contrasts t1, FLAIR, adc; name one of them, or"
    ):
        fill_missing(volume, names, "t2", "P")


@pytest.mark.law("L12")
def test_a_volume_of_several_contrasts_is_read_in_the_order_that_is_named(tmp_path: Path) -> None:
    several = np.stack([image(seed) for seed in range(4)], axis=-1)
    save(tmp_path / "in/P.nii.gz", several)
    save(tmp_path / "in/P_seg.nii.gz", MASK)
    with pytest.raises(DataError, match=r"P.nii.gz: a file without a contrast in its name; .* data.contrasts='\[flair"):
        source(tmp_path / "in").patients()
    names: Any = ("FLAIR", "T1w", "t1gd", "T2w")
    volume = source(tmp_path / "in", contrasts=names).read("P")
    for c in range(4):
        np.testing.assert_array_equal(volume.image_shwc[..., c], as_slices(image(c)))
    with pytest.raises(
        DataError, match=r"P.nii.gz: 16x16x6x4 voxels, but a volume \[x, y, z, 3\] of a, b, c is needed"
    ):
        source(tmp_path / "in", contrasts=("a", "b", "c")).read("P")
    with pytest.raises(DataError, match=r"16x16x6x4 voxels, but a volume .* of pre-contrast, FLAIR, post-contrast"):
        find_source(tmp_path / "in", "nifti").read("P")
    save(tmp_path / "in/P.nii.gz", np.stack([image(0)] * 9, axis=-1))
    with pytest.raises(DataError, match=r"16x16x6x9 voxels, a time series of 9 volumes; export one volume of it"):
        source(tmp_path / "in", contrasts=names).read("P")


def test_predictions_with_a_network_of_the_lgg_contrasts(tmp_path: Path) -> None:
    root = save_set(tmp_path / "in", "P-t1n", "P-t2f", "P-t2w")
    there = find_source(root, "nifti")
    assert there.contrasts == LGG_CONTRASTS
    volume = there.read("P")
    assert volume.absent == ("post-contrast",)
    np.testing.assert_array_equal(volume.image_shwc[..., 1], as_slices(image(1)))


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.contrasts=[t1, flair, T1w]"], "data.contrasts has T1w twice, maybe in another spelling; list it once"),
        (
            ["data.contrasts=[t1, flair]", "data.missing=t2"],
            "data.missing=t2 is none of data.contrasts, t1, flair; name",
        ),
        (["data.source=lgg", "data.files={t1: '{patient}.nii'}"], "data.source=lgg finds its files itself; set"),
    ],
)
def test_contrasts_that_contradict_each_other_are_named(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_config(None, ["data.root=/x", "data.source=nifti", *overrides])
