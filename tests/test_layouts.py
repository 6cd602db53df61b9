"""`segtrain phantoms`: made-up patients as data sets on disk, in the layouts of public ones."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from segtrain.commands.phantoms import command
from segtrain.config import DataConfig, PhantomConfig
from segtrain.data.layouts import GAIN, LAYOUTS
from segtrain.data.people import person_of
from segtrain.data.sources.open import find_source, make_source
from segtrain.data.sources.phantom import draw
from segtrain.errors import ConfigError

FOUR = ("t1", "t1ce", "t2", "flair")
SMALL = ("--patients", "3", "--size", "64")


def write(out: Path, *arguments: str) -> Path:
    assert command(["--out", str(out), *SMALL, *arguments]) == 0
    return out


def voxels(path: Path) -> np.ndarray[Any, Any]:
    """[s, h, w] as the world's axes have them: up, to the back, to the left."""
    image: Any = nibabel.load(path)
    turned = nibabel.as_closest_canonical(image)  # to the right, to the front, up
    return np.transpose(np.asanyarray(turned.dataobj)[::-1, ::-1], (2, 1, 0))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_data_set_says_that_it_is_made_up(layout: str, tmp_path: Path) -> None:
    out = write(tmp_path / "new" / "out", "--layout", layout, "--patients", "2")
    assert "made up" in (out / "README.txt").read_text()
    assert "no real data" in (out / "README.txt").read_text()


def test_the_lgg_layout_holds_the_phantoms(tmp_path: Path) -> None:
    source = find_source(write(tmp_path / "out", "--layout", "lgg"), "lgg")
    assert len(source.patients()) == 3
    for index, patient in enumerate(source.patients()):
        phantom = draw(PhantomConfig(size_px=64), index)
        volume = source.read(patient)
        np.testing.assert_array_equal(volume.image_shwc, phantom.image_shwc)
        np.testing.assert_array_equal(volume.mask_shw, phantom.labels_shw)


def test_brats_is_stripped_and_each_contrast_has_its_unit(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "--layout", "brats", "--spacing", "3", "1", "0.5")
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"]
    assert len(set(map(person_of, folders))) == 2
    phantom = draw(PhantomConfig(size_px=64, regions=3, contrasts=FOUR), 1)
    case = out / folders[1] / folders[1]
    for c, (name, gain) in enumerate((("t1n", 11), ("t1c", 23), ("t2w", 13), ("t2f", 9))):
        path = Path(f"{case}-{name}.nii.gz")
        image: Any = nibabel.load(path)
        np.testing.assert_array_equal(voxels(path), phantom.image_shwc[..., c].astype(int) * phantom.brain_shw * gain)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(image.affine, [[-0.5, 0, 0, 0], [0, -1, 0, 63], [0, 0, 3, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(voxels(Path(f"{case}-seg.nii.gz")), phantom.labels_shw)


def test_bids_lies_the_other_way_round_and_keeps_truth_apart(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "--layout", "bids")
    phantom = draw(PhantomConfig(size_px=64, contrasts=("t1", "flair")), 1)
    folder = Path("sub-01/ses-2/anat")
    image: Any = nibabel.load(out / folder / "sub-01_ses-2_FLAIR.nii.gz")
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(
        voxels(out / folder / "sub-01_ses-2_FLAIR.nii.gz"), phantom.image_shwc[..., 1].astype(int) * 9
    )
    truth = out / "derivatives/lesions" / folder / "sub-01_ses-2_label-lesion_mask.nii.gz"
    np.testing.assert_array_equal(voxels(truth), phantom.labels_shw)
    assert json.loads((out / folder / "sub-01_ses-2_FLAIR.json").read_text())["Modality"] == "MR"
    labelled = write(tmp_path / "labelled", "--layout", "bids", "--regions", "3")
    assert "3\tenhancing" in (labelled / "derivatives/lesions/dseg.tsv").read_text()
    assert list(labelled.rglob("*_dseg.nii.gz"))


def test_nnunet_names_channels_and_labels_and_keeps_a_patient_for_prediction(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "--layout", "nnunet", "--unlabelled", "0.3")
    about = json.loads((out / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "T1", "1": "T1Gd", "2": "T2", "3": "FLAIR"}
    assert about["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": [3], "ignore": 4}
    assert about["numTraining"] == len(list((out / "labelsTr").iterdir())) == 3
    assert [path.name for path in sorted((out / "imagesTs").iterdir())][3] == "PHANTOM_0004_0003.nii.gz"
    assert {4} < set(np.unique(voxels(out / "labelsTr/PHANTOM_0001.nii.gz")))
    plain = write(tmp_path / "plain", "--layout", "nnunet", "--regions", "1", "--bits", "8")
    assert json.loads((plain / "dataset.json").read_text())["labels"] == {"background": 0, "lesion": 1}
    assert voxels(plain / "imagesTr/PHANTOM_0001_0003.nii.gz").dtype == np.uint8


def test_slices_are_colours_or_a_file_a_contrast(tmp_path: Path) -> None:
    colours = write(tmp_path / "colours", "--layout", "slices")
    assert np.asarray(Image.open(colours / "P002/P002_05.png")).shape == (64, 64, 3)
    assert set(np.unique(np.asarray(Image.open(colours / "P002/P002_10_mask.png")))) == {0, 255}
    out = write(tmp_path / "grey", "--layout", "slices", "--contrasts", "t2", "flair", "--bits", "16", "--twin")
    phantom = draw(PhantomConfig(size_px=64, contrasts=("t2", "flair")), 1)
    image = np.asarray(Image.open(out / "images/P002/P002_05_flair.png"))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, phantom.image_shwc[4, ..., 1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "masks/P002/P002_05.png")), phantom.labels_shw[4] * np.uint8(255)
    )


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layout", "lgg", "--bits", "16"], "--layout lgg is pre-contrast, FLAIR, post-contrast of 8 bits"),
        (["--layout", "brats", "--contrasts", "dwi"], "made-up patients have t1, t1ce, t2, flair"),
        (["--layout", "brats", "--patients", "1"], "patients=1"),
        (["--layout", "brats", "--spacing", "0", "1", "1"], "spacing_mm"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        write(tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.law("L12")
def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="has something in it already"):
        write(tmp_path, "--layout", "lgg")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("layout", ["brats", "bids"])
def test_what_was_written_is_found_and_read(layout: str, tmp_path: Path) -> None:
    """Whichever way the axes lie in the files."""
    contrasts = LAYOUTS[layout].contrasts
    out = write(tmp_path / "out", "--layout", layout, "--spacing", "3", "1", "0.5", "--regions", "3")
    cfg = DataConfig(source="nifti", root=str(out), regions=PhantomConfig(regions=3).labels)
    source = make_source(cfg)
    assert source.contrasts == contrasts
    assert len({person_of(patient) for patient in source.patients()}) == 2
    phantom = draw(PhantomConfig(size_px=64, contrasts=contrasts, regions=3), 2)
    volume = source.read(source.patients()[2])
    for c, contrast in enumerate(contrasts):
        expected = phantom.image_shwc[..., c].astype(int) * GAIN[contrast]
        inside = phantom.brain_shw if layout == "brats" else np.ones_like(phantom.brain_shw)
        np.testing.assert_array_equal(volume.image_shwc[..., c], expected * inside)
    assert volume.mask_shw is not None
    np.testing.assert_array_equal(volume.mask_shw >> 2, phantom.labels_shw == 3)
    assert volume.spacing_mm == (3, 1, 0.5)
