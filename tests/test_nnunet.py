"""nnU-Net's raw layout and the decathlon: channels and labels by name, exact ids, what is odd is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from folders import Shared

from segtrain.config import IGNORED, DataConfig, PhantomConfig, load_config
from segtrain.data.layouts import Settings, write_phantoms
from segtrain.data.prepare import ensure_store
from segtrain.data.sources.nnunet import NnunetSource
from segtrain.data.sources.open import find_source, make_source
from segtrain.data.sources.phantom import draw
from segtrain.errors import ConfigError, DataError

CASES = ["PHANTOM_0001", "PHANTOM_0002", "PHANTOM_0003"]
PHANTOM = PhantomConfig(patients=3, size_px=64, regions=3, contrasts=("t1", "t1ce", "t2", "flair"))


@pytest.fixture(scope="module")
def written(shared: Shared) -> Path:
    """A data set of version 2 in 8 bits; tests only read it."""
    settings = Settings(PHANTOM, bits=8)
    return shared("nnunet-phantoms", lambda folder: write_phantoms("nnunet", folder / "in", settings)) / "in"


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "Dataset501_Phantom"))


def about(root: Path, **changes: Any) -> dict[str, Any]:
    """dataset.json, rewritten with changes; None leaves a key out."""
    path = root / "dataset.json"
    tree = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(tree))
    return tree


def source_of(root: Path, **keys: Any) -> NnunetSource:
    return NnunetSource(root, DataConfig(source="nnunet", root=str(root), **keys), for_training=True)


def as_decathlon(root: Path) -> None:
    """A 4-D file a case and a list of them, with what tar leaves of macOS beside them."""
    names = {str(c): name for c, name in enumerate(("T1w", "t1gd", "T2w", "FLAIR"))}
    for folder in (root / "imagesTr", root / "imagesTs"):
        for first in sorted(folder.glob("*_0000.nii.gz")):
            channels: list[Any] = [nibabel.load(str(first).replace("_0000.nii", f"_{c:04d}.nii")) for c in range(4)]
            stacked = np.stack([np.asanyarray(image.dataobj) for image in channels], axis=-1)
            nibabel.save(nibabel.Nifti1Image(stacked, channels[0].affine), str(first).replace("_0000.nii", ".nii"))
        for path in folder.glob("*_000?.nii.gz"):
            if path.name.count("_") > 1:
                path.unlink()
        (folder / "._PHANTOM_0001.nii.gz").write_bytes(b"Mac OS X")
    files = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in CASES]
    labels = {"0": "background", "1": "necrosis", "2": "edema", "3": "enhancing"}
    about(
        root, channel_names=None, file_ending=None, regions_class_order=None, modality=names, labels=labels,
        training=files, test=["./imagesTs/PHANTOM_0004.nii.gz"], tensorImageSize="4D",
    )  # fmt: skip


def test_a_case_is_read_with_its_channels_by_name(written: Path) -> None:
    source = source_of(written)
    assert source.patients() == CASES
    assert source.contrasts == ("t1", "t1ce", "t2", "flair")
    assert source.rules.regions == {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
    volume, phantom = source.read("PHANTOM_0002"), draw(PHANTOM, 1)
    np.testing.assert_array_equal(volume.image_shwc, phantom.image_shwc)
    assert volume.mask_shw is not None
    np.testing.assert_array_equal(volume.mask_shw & 1, phantom.labels_shw > 0)
    np.testing.assert_array_equal(volume.mask_shw >> 2, phantom.labels_shw == 3)


def test_channels_are_chosen_and_ordered_by_any_of_their_names(written: Path) -> None:
    source = source_of(written, contrasts=("FLAIR", "T1c"))
    assert source.contrasts == ("flair", "t1ce")
    np.testing.assert_array_equal(source.read(CASES[0]).image_shwc, draw(PHANTOM, 0).image_shwc[..., [3, 1]])
    with pytest.raises(DataError, match=r"t1, t1ce, t2, flair, but data\.contrasts names dwi"):
        _ = source_of(written, contrasts=("dwi",)).contrasts


def test_labels_are_regions_unless_the_config_has_others(root: Path) -> None:
    about(root, labels={"background": 0, "necrosis": 1, "edema": 2, "ET": 3, "ignore": 4}, regions_class_order=None)
    assert source_of(root).rules.regions == {"necrosis": (1,), "edema": (2,), "ET": (3,)}
    assert source_of(root).rules.ignore == (4,)
    by_number = source_of(root, regions={"core": (1, 3), "rest": (2,)})
    assert (by_number.rules.regions, by_number.rules.ignore) == ({"core": (1, 3), "rest": (2,)}, (4,))
    keys = ["data.source=nnunet", f"data.root={root}"]
    cfg = load_config(None, [*keys, "data.regions={core: [necrosis, ET], whole: [1, edema, 3]}"])
    assert cfg.data.regions == {"core": (1, 3), "whole": (1, 2, 3)}
    with pytest.raises(ConfigError, match="no label is named oedema; did you mean edema"):
        load_config(None, [*keys, "data.regions={core: [oedema]}"])
    with pytest.raises(ConfigError, match=r"dataset.json: labels have no names to look up \(No such file"):
        load_config(None, ["data.source=nnunet", "data.root=/nowhere", "data.regions={core: [edema]}"])


def test_the_core_is_what_dataset_json_says(root: Path) -> None:
    """With edema as label 1, as in nnU-Net's own BraTS, and FLAIR as the last channel."""
    for path in (root / "labelsTr").iterdir():
        image: Any = nibabel.load(path)
        swapped = np.array([0, 2, 1, 3], np.uint8)[np.asanyarray(image.dataobj)]
        nibabel.save(nibabel.Nifti1Image(swapped, image.affine), path)
    labels = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": 3}
    about(root, labels=labels, regions_class_order=[1, 2, 3])
    source = source_of(root, contrasts=("flair",))
    volume, phantom = source.read(CASES[0]), draw(PHANTOM, 0)
    assert list(source.rules.regions or ()) == ["whole_tumor", "tumor_core", "enhancing_tumor"]
    assert volume.mask_shw is not None
    np.testing.assert_array_equal(volume.mask_shw >> 1 & 1, np.isin(phantom.labels_shw, (1, 3)))
    np.testing.assert_array_equal(volume.image_shwc[..., 0], phantom.image_shwc[..., 3])


def test_ignored_voxels_are_in_no_region(tmp_path: Path) -> None:
    """The label `ignore` of half of the slices."""
    phantom = PhantomConfig(patients=2, size_px=64, regions=3, contrasts=("t1", "flair"), unlabelled=0.5)
    write_phantoms("nnunet", tmp_path / "in", Settings(phantom, bits=16))
    source = source_of(tmp_path / "in")
    assert source.rules.ignore == (4,)
    mask = source.read("PHANTOM_0001").mask_shw
    assert mask is not None
    unlabelled = draw(phantom, 0).labels_shw == 4
    assert 0.2 < unlabelled.mean() < 0.8
    np.testing.assert_array_equal(mask == IGNORED, unlabelled)
    cfg = load_config(
        None, ["data.source=nnunet", f"data.root={tmp_path / 'in'}", f"data.store={tmp_path}", "data.image_size=32"]
    )
    store = ensure_store(cfg.data)
    assert (store.ignore, store.contrasts, list(store.regions or ())) == (
        (4,), ("t1", "flair"), ["whole", "core", "enhancing"],
    )  # fmt: skip


def test_the_decathlon_has_its_channels_along_the_fourth_axis(root: Path) -> None:
    as_decathlon(root)
    source = source_of(root)
    assert source.patients() == CASES
    assert source.contrasts == ("t1", "t1ce", "t2", "flair")
    assert source.rules.regions == {"necrosis": (1,), "edema": (2,), "enhancing": (3,)}
    np.testing.assert_array_equal(source.read(CASES[0]).image_shwc, draw(PHANTOM, 0).image_shwc)
    chosen = source_of(root, contrasts=("flair", "t1"))
    np.testing.assert_array_equal(chosen.read(CASES[0]).image_shwc, draw(PHANTOM, 0).image_shwc[..., [3, 0]])
    assert NnunetSource(root / "imagesTs").patients() == ["PHANTOM_0004"]


def test_version_1_lists_images_without_the_channel(root: Path) -> None:
    files = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in CASES]
    names = about(root)["channel_names"]
    labels = {"0": "background", "1": "a", "2": "b", "3": "c"}
    about(root, channel_names=None, file_ending=None, modality=names, labels=labels, training=files)
    source = source_of(root)
    assert (source.patients(), list(source.rules.regions or ())) == (CASES, ["a", "b", "c"])
    np.testing.assert_array_equal(source.read(CASES[2]).image_shwc, draw(PHANTOM, 2).image_shwc)


def test_a_list_of_cases_may_name_files_anywhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "imagesTr").rename(root.parent / "elsewhere")
    monkeypatch.setenv("ELSEWHERE", str(root.parent / "elsewhere"))
    cases = {
        f"case{case[-1]}": {
            "images": [f"$ELSEWHERE/{case}_{c:04d}.nii.gz" for c in range(4)],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in CASES
    }
    about(root, dataset=cases)
    source = source_of(root)
    assert source.patients() == ["case1", "case2", "case3"]
    np.testing.assert_array_equal(source.read("case2").image_shwc, draw(PHANTOM, 1).image_shwc)
    monkeypatch.delenv("ELSEWHERE")
    with pytest.raises(DataError, match=r"has \$ELSEWHERE, which is not set; export it first"):
        source_of(root).patients()


def test_a_folder_like_imagests_is_predicted_with_the_channels_of_the_training(root: Path) -> None:
    run = load_config(None, ["data.source=nnunet", f"data.root={root}"]).data
    source = find_source(root / "imagesTs", "auto", run)
    assert isinstance(source, NnunetSource)
    assert source.patients() == ["PHANTOM_0004"]
    assert source.read("PHANTOM_0004").mask_shw is None
    elsewhere = Path(shutil.copytree(root / "imagesTs", root.parent / "new"))
    np.testing.assert_array_equal(
        find_source(elsewhere, "auto", run).read("PHANTOM_0004").image_shwc, source.read("PHANTOM_0004").image_shwc
    )
    with pytest.raises(DataError, match="nobody knows its channels; copy that of the training data into it"):
        find_source(elsewhere, "nnunet").patients()
    (root / "labelsTs").mkdir()
    shutil.copy(root / "labelsTr/PHANTOM_0001.nii.gz", root / "labelsTs/PHANTOM_0004.nii.gz")
    assert NnunetSource(root / "imagesTs", run).cases["PHANTOM_0004"].truth == root / "labelsTs/PHANTOM_0004.nii.gz"


def test_ids_are_cut_exactly_before_the_channel(root: Path) -> None:
    for path in [*(root / "imagesTr").iterdir(), *(root / "labelsTr").iterdir()]:
        path.rename(path.with_name(path.name.replace("PHANTOM_0001", "a_0000_12345")))
    assert source_of(root).patients() == [*CASES[1:], "a_0000_12345"]


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


def without(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def people(root: Path) -> None:
    for path in [*(root / "imagesTr").iterdir(), *(root / "labelsTr").iterdir()]:
        for old, new in zip(CASES, ("P1_1", "P1_2", "P2_1"), strict=True):
            if path.name.startswith(old):
                path.rename(path.with_name(path.name.replace(old, new)))


def moved(root: Path, factor: float, shift_mm: float) -> None:
    path = root / "labelsTr/PHANTOM_0002.nii.gz"
    image: Any = nibabel.load(path)
    affine = image.affine.copy()
    affine[2, 2] *= factor
    affine[:3, 3] += shift_mm
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine), path)


# What is wrong, and whether only the patient's own reading tells.
BAD: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "no channel": (without("imagesTr/PHANTOM_0002_0002.nii.gz"), r"PHANTOM_0002 has no file of channel 2 \(t2\)", True),
    "too many": (rename("imagesTr/PHANTOM_0002_0003.nii.gz", "imagesTr/PHANTOM_0002_0007.nii.gz"), "channel 7", True),
    "no label": (without("labelsTr/PHANTOM_0002.nii.gz"), "PHANTOM_0002.nii.gz: is not there", True),
    "other name": (rename("imagesTr/PHANTOM_0002_0003.nii.gz", "imagesTr/x.nii.gz"), "as in x_0000", False),
    "number": (lambda root: about(root, numTraining=4), "numTraining is 4, but 3 cases are there", False),
    "pictures": (lambda root: about(root, file_ending=".png"), "set data.source=slices", False),
    "others": (lambda root: about(root, file_ending=".nrrd"), "convert images and labels to .nii.gz", False),
    "no channels": (lambda root: about(root, channel_names=None), "neither channel_names nor modality", False),
    "no labels": (lambda root: about(root, labels=None), "has no labels", False),
    "spacing": (lambda root: moved(root, 2, 0), "not on the grid of PHANTOM_0002_0003.nii.gz", True),
    "not JSON": (lambda root: (root / "dataset.json").write_text("{"), "mend it", False),
    "many labels": (
        lambda root: about(root, labels={"background": 0} | {f"l{label}": label for label in range(1, 9)}),
        "names 8 labels besides background, but from 1 to 7",
        False,
    ),
    "people": (people, r"P1_1, P1_2 may be scans of one person.*data.groups=FILE", False),
}


@pytest.mark.law("L12")
def test_a_region_has_no_label_that_dataset_json_ignores(root: Path) -> None:
    about(root, labels={"background": 0, "edema": 1, "core": 2, "ignore": 3})
    with pytest.raises(DataError, match=r"label 3 is ignore, but data.regions has it in all"):
        source_of(root, regions={"all": (1, 2, 3)}).rules  # noqa: B018


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", list(BAD))
def test_what_does_not_fit_is_named(name: str, root: Path) -> None:
    damage, words, is_patients = BAD[name]
    damage(root)
    source = source_of(root)
    with pytest.raises(DataError, match=words) as caught:
        source.read("PHANTOM_0002") if is_patients else (source.patients(), source.rules)
    assert "\n" not in str(caught.value)


def test_another_origin_is_a_remark_as_in_nnunet(root: Path) -> None:
    moved(root, 1, 3.0)
    volume = source_of(root).read("PHANTOM_0002")
    (remark,) = volume.remarks
    assert "PHANTOM_0002.nii.gz: another origin or direction than PHANTOM_0002_0000.nii.gz" in remark
    assert volume.mask_shw is not None
    np.testing.assert_array_equal(volume.mask_shw & 1, draw(PHANTOM, 1).labels_shw > 0)


@pytest.mark.law("L1")
def test_a_file_of_groups_says_who_is_who(root: Path) -> None:
    people(root)
    (root.parent / "people.csv").write_text("patient,person\nP1_1,P1\nP1_2,P1\n")
    assert source_of(root, groups=str(root.parent / "people.csv")).patients() == ["P1_1", "P1_2", "P2_1"]


def test_a_data_set_is_recognised_and_told(written: Path) -> None:
    source = make_source(DataConfig(source="auto", root=str(written)))
    assert isinstance(source, NnunetSource)
    assert source.label == f"nnU-Net cases in {written}"
    assert not source.takes("PHANTOM_0004_0000.nii.gz"), "imagesTs is not trained on"
    assert source.takes("dataset.json")
