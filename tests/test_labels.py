"""Labels by name: every value of a mask is in a region, background, ignored, or refused with the file and a remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import MadeSource, head, labelled, store_of

from segtrain.config import IGNORED, load_config
from segtrain.data.label_table import label_rows, region_rows
from segtrain.data.masks import in_region
from segtrain.data.sources import LabelRules
from segtrain.errors import ConfigError, DataError

FILE = Path("BraTS2021_00001_seg.nii.gz")
BRATS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
SHAPE = (6, 32, 32)


def labels(*values: int) -> np.ndarray:
    """A slice of labels in the head, each in a column of its own."""
    labels_shw = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        labels_shw[2:4, 8:20, 8 + 3 * place : 10 + 3 * place] = value
    return labels_shw


@pytest.mark.law("L12")
def test_a_label_of_no_region_is_refused_with_both_remedies() -> None:
    """BraTS 2021 numbers enhancing tumour 4, and a config for 2023 names 3."""
    with pytest.raises(DataError) as caught:
        LabelRules(BRATS).read(FILE, labels(1, 2, 4))
    message = str(caught.value)
    assert message.startswith(
        f"{FILE}: mask has values 0, 1, 2, 4, but data.regions names 1, 2, 3, and 4 belongs to no"
    )
    assert "{enhancing: [4]}" in message
    assert "data.remap='{4: 3}'" in message
    assert "\n" not in message


def test_a_remapped_label_is_its_target_and_counted_as_the_file_has_it() -> None:
    rules = LabelRules(BRATS, remap={4: 3})
    mask = rules.read(FILE, labels(1, 2, 4))
    expected = LabelRules(BRATS).read(FILE, labels(1, 2, 3))
    np.testing.assert_array_equal(mask.bits, expected.bits)
    assert mask.voxels == {0: 6 * 32 * 32 - 3 * 48, 1: 48, 2: 48, 4: 48}
    assert rules.meaning(4) == "whole, core, enhancing (read as 3)"


@pytest.mark.law("L12")
def test_a_remap_onto_a_label_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one file, and where one patient has the one and another the other."""
    rules = LabelRules({**BRATS, "cavity": (5,)}, remap={4: 3})
    with pytest.raises(DataError, match=r"would mix label 4 with label 3, which is in use"):
        rules.read(FILE, labels(1, 2, 3, 4))
    volumes = {"A": labelled(labels(1, 2, 4), rules), "B": labelled(labels(1, 2, 3), rules)}
    with pytest.raises(DataError, match=r"label 4 \(in patient A\) with label 3, which is in use \(in patient B\)"):
        store_of(MadeSource(volumes, rules), tmp_path, monkeypatch)
    swapped = LabelRules({"one": (3,), "other": (4,)}, remap={3: 4, 4: 3})
    np.testing.assert_array_equal(swapped.bits(FILE, labels(3, 4)), labels(2, 1))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    regions=st.lists(st.sets(st.integers(1, 6), min_size=1), min_size=1, max_size=7),
    ignore=st.sets(st.integers(7, 8)),
    dtype=st.sampled_from([np.uint8, np.int16, np.int64, np.float32, np.float64]),
)
def test_overlapping_regions_are_unions_of_bits(
    seed: int, regions: list[set[int]], ignore: set[int], dtype: Any
) -> None:
    rules = LabelRules({f"r{number}": tuple(of) for number, of in enumerate(regions)}, tuple(ignore))
    named = sorted({0, *ignore, *(label for of in regions for label in of)})
    values = np.random.default_rng(seed).choice(named, (3, 5, 7))
    mask = rules.read(FILE, values.astype(dtype))
    for number, of in enumerate(regions):
        np.testing.assert_array_equal(in_region(mask.bits, number), np.isin(values, list(of)))
    np.testing.assert_array_equal(mask.bits == IGNORED, np.isin(values, list(ignore)))
    assert mask.voxels == {int(value): int((values == value).sum()) for value in np.unique(values)}
    assert not mask.remarks


@pytest.mark.law("L12")
def test_float_masks_are_whole_within_a_thousandth_or_soft() -> None:
    rules, truth = LabelRules({"lesion": (1,)}, ignore=(2,)), labels(1, 2)
    exact = rules.read(FILE, truth.astype(np.float32))
    np.testing.assert_array_equal(exact.bits, np.where(truth == 2, IGNORED, truth))
    nearly = rules.read(FILE, truth * np.float32(1.0004))
    np.testing.assert_array_equal(nearly.bits, exact.bits)
    assert nearly.remarks == (f"{FILE.name}: values up to 0.0008 off whole numbers are rounded",)
    soft = truth * np.float32(0.3)
    with pytest.raises(DataError, match=r"mask has values 0.3, 0.6, but labels are whole .* data.soft_above=0.5"):
        rules.read(FILE, soft)
    above = LabelRules({"lesion": (1,)}, soft_above=0.5).read(FILE, soft)
    np.testing.assert_array_equal(above.bits, truth == 2)
    assert above.remarks == (f"{FILE.name}: soft mask, lesion where it is above 0.5",)
    with pytest.raises(DataError, match=r"soft mask has values up to 76.5"):
        LabelRules(soft_above=0.5).read(FILE, truth * 38.25)


@pytest.mark.law("L12")
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_values_that_are_no_labels_are_refused(value: float, dtype: Any) -> None:
    values = labels(1).astype(dtype)
    if np.issubdtype(dtype, np.integer) and not np.isfinite(value):
        return
    values[0, 0, 0] = value
    with pytest.raises(DataError, match=r"BraTS2021_00001_seg.nii.gz: mask has values (-1, but|that are not finite)"):
        LabelRules(BRATS).read(FILE, values)


@pytest.mark.law("L12")
def test_labels_that_nothing_names_are_refused_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = LabelRules()
    several = {"A": labelled(labels(1, 2, 4), rules)}
    assert several["A"].remarks == ("labels 1, 2, 4 all count as lesion",), "as prediction takes them"
    remedy = r"nothing says what they are; name regions, as in data.regions='\{lesion: \[1, 2"
    with pytest.raises(DataError, match=rf"patient A: masks have labels 1, 2, 4, and {remedy}"):
        store_of(MadeSource(several, rules), tmp_path, monkeypatch)
    apart = {"A": labelled(labels(1), rules), "B": labelled(labels(2, 2), rules)}
    with pytest.raises(DataError, match=rf"masks have 1 in A and 2 in B; masks have labels 1, 2, and {remedy}"):
        store_of(MadeSource(apart, rules), tmp_path, monkeypatch)
    whites = {"A": labelled(labels(1), rules), "B": labelled(labels(255), rules)}
    with pytest.raises(DataError, match=r"white as 1 in A and 255 in B; save all alike"):
        store_of(MadeSource(whites, rules), tmp_path, monkeypatch)
    alike = {"A": labelled(labels(4), rules), "B": labelled(labels(4, 4), rules)}
    assert len(store_of(MadeSource(alike, rules), tmp_path, monkeypatch).patients) == 2


def test_the_map_of_labels_and_regions_is_kept_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = LabelRules(BRATS, ignore=(6,), remap={4: 3})
    volumes = {
        "A": labelled(labels(1, 2, 4), rules, spacing_mm=(5.0, 1.0, 1.0)),
        "B": labelled(labels(2, 2, 6), rules, spacing_mm=(5.0, 2.0, 1.0)),
    }
    source = MadeSource(volumes, rules)
    for _ in range(2):  # the second time it is read from the index
        store = store_of(source, tmp_path, monkeypatch, ignore=(6,), remap={4: 3}, regions=BRATS)
        assert label_rows(store) == [
            ("0", "background", f"{2 * 6 * 32 * 32 - 6 * 48:,}", "2"),
            ("1", "whole, core", "48", "1"),
            ("2", "whole", "144", "2"),
            ("4", "whole, core, enhancing (read as 3)", "48", "1"),
            ("6", "ignored", "48", "1"),
        ]
        assert region_rows(store) == [
            ("whole", "2 of 2", "0.84 cm3"),  # 144 voxels of 5 mm3, 96 of 10
            ("core", "1 of 2", "0.48 cm3"),
            ("enhancing", "1 of 2", "0.24 cm3"),
        ]


def test_ignored_slices_are_unlabelled_and_no_lesion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nnU-Net's ignore label: on half of the slices nobody knows."""
    rules = LabelRules({"lesion": (1,)}, ignore=(4,))
    truth = labels(1, 1)
    truth[3:] = 4
    store = store_of(
        MadeSource({"A": labelled(truth, rules), "B": labelled(labels(1), rules)}, rules), tmp_path, monkeypatch
    )
    patient = store.patients["A"]
    assert patient.slice_numbers == (2, 3, 4, 5)
    assert patient.unlabelled == (2, 3)
    assert [area > 0 for area in patient.areas] == [False, True, False, False]
    assert (store.volume("A")[1][2:] == IGNORED).all()
    everything = labelled(np.full(SHAPE, 4, np.uint8), rules)
    with pytest.raises(DataError, match="patient A: every voxel of the head is ignored"):
        store_of(MadeSource({"A": everything}, rules), tmp_path / "b", monkeypatch)


def test_rules_that_no_mask_needs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = LabelRules({"lesion": (1,), "cavity": (9,)}, ignore=(7,), remap={8: 1})
    store = store_of(MadeSource({"A": labelled(labels(1), rules)}, rules), tmp_path, monkeypatch)
    assert "region cavity (labels 9) is in no patient; check data.regions" in store.warnings
    assert "data.ignore or data.remap names label 7, 8, which no mask has" in store.warnings


def test_an_empty_truth_is_a_negative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept and told, but for the published LGG data, of which every patient has a tumour."""
    rules = LabelRules({"lesion": (1,)})
    volumes = {"A": labelled(labels(1), rules), "B": labelled(labels(), rules, head(7))}
    store = store_of(MadeSource(volumes, rules), tmp_path, monkeypatch)
    assert store.patients["B"].lesion_voxels == 0
    off = labels()
    off[2, :2, :2] = 1
    with pytest.raises(DataError, match="patient B: all 4 lesion voxels are in what is cut off"):
        store_of(MadeSource({"B": labelled(off, rules)}, rules), tmp_path / "b", monkeypatch)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.regions={a: [1, 2]}", "data.ignore=[2]"], "label 2 is both in region a and in data.ignore"),
        (["data.regions={a: [1, 3]}", "data.remap={3: 1}"], "label 3 is in region a, but data.remap reads it as 1"),
        (
            ["data.regions={a: [1]}", "data.ignore=[3]", "data.remap={3: 1}"],
            "label 3 is in data.ignore, but data.remap",
        ),
        (["data.regions={a: [1]}", "data.ignore=[3]", "data.remap={4: 3}"], "as 3, which is in data.ignore; list 4"),
        (["data.regions={a: [1]}", "data.remap={4: 3}"], "as 3, which is in no region"),
        (["data.remap={4: 3}"], r"needs regions to read labels as; add data.regions='\{lesion: \[3\]\}'"),
        (["data.regions={Core: [1], core: [2]}"], "one name in two spellings"),
        (["data.regions={a/b: [1]}"], "'a/b' stands in tables and file names"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(None, ["data.source=lgg", "data.root=/data", *overrides])
    assert "\n" not in str(caught.value)
