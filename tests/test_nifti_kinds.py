"""NIfTI files as programs leave them: read exactly, or refused by name; what a header leaves in doubt is said once."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segtrain.config import DataConfig
from segtrain.data.sources import Volume, find_source
from segtrain.data.sources.levels import one_range
from segtrain.errors import DataError

RNG = np.random.default_rng(0)
XYZ = np.zeros((24, 24, 6), np.int16)
XYZ[4:20, 4:20, 1:5] = RNG.integers(100, 1000, (16, 16, 4))
MASK = (XYZ > 800).astype(np.uint8)
AFFINE = np.diag([-1.0, -1.0, 5.0, 1.0])
FLAIR = "P_flair.nii"
PIXDIM_1, SLOPE, INTERCEPT, QUATERN_B, SROW_X, SROW_Y = 80, 112, 116, 256, 280, 300  # bytes in the header


def save(folder: Path, name: str, voxels: np.ndarray, **options: Any) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE, **options), folder / name)


def put(name: str, at: int, value: float) -> Callable[[Path], None]:
    """Writes a float32 into the header of a file."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at : at + 4] = struct.pack("<f", value)
        (folder / name).write_bytes(content)

    return change


def read(folder: Path) -> Volume:
    source = find_source(folder, "auto")
    (patient,) = source.patients()
    assert source.slices(patient) == XYZ.shape[2]
    return one_range(source.read(patient))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, FLAIR, XYZ)
    return tmp_path


Change = Callable[[Path], object]
SAME: dict[str, Change] = {
    "slope 0": put(FLAIR, SLOPE, 0.0),
    "slope NaN": put(FLAIR, SLOPE, np.nan),
    "slope infinite": put(FLAIR, SLOPE, np.inf),
    "slope 2": put(FLAIR, SLOPE, 2.0),
    "offset": put(FLAIR, INTERCEPT, -3000.0),
    "big-endian": lambda folder: save(folder, FLAIR, XYZ, header=nibabel.Nifti1Header(endianness=">")),
    "NIfTI-2": lambda folder: nibabel.save(nibabel.Nifti2Image(XYZ, AFFINE), folder / FLAIR),
    "float": lambda folder: save(folder, FLAIR, XYZ.astype(np.float32) * np.float32(0.001)),
    "huge": lambda folder: save(folder, FLAIR, XYZ * 1e300),
    "tiny": lambda folder: save(folder, FLAIR, XYZ * 1e-310),
    "far from 0": lambda folder: save(folder, FLAIR, XYZ.astype(np.int32) + 2**30),
    "64 bits": lambda folder: save(folder, FLAIR, XYZ.astype(np.int64) + 2**40, dtype=np.int64),
    "one frame": lambda folder: save(folder, FLAIR, XYZ[..., None]),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_picture_has_the_same_grey_levels(folder: Path, kind: str) -> None:
    """Whatever type and unit it is saved in."""
    expected = read(folder).image_shwc
    SAME[kind](folder)
    volume = read(folder)
    assert len(np.unique(expected)) > len(np.unique(XYZ)) - 10
    assert np.abs(volume.image_shwc.astype(int) - expected).max() <= 1
    assert len(volume.remarks) == 1, "the scaling alone"


MASKS: dict[str, np.ndarray] = {
    "float": MASK * np.float32(2),
    "64 bits": MASK.astype(np.int64),
    "255": MASK * np.uint8(255),
    "one frame": MASK[..., None],
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_any_type_are_read(folder: Path, kind: str) -> None:
    save(folder, "P_seg.nii", MASKS[kind], dtype=MASKS[kind].dtype)
    mask_shw = read(folder).mask_shw
    assert mask_shw is not None
    assert mask_shw.sum() == MASK.sum()


def test_masks_of_labels_are_read_by_the_labels_that_are_named(folder: Path) -> None:
    save(folder, "P_seg.nii", MASK * np.uint8(4) + (XYZ > 900).astype(np.uint8))
    named = find_source(folder, "auto", DataConfig(regions={"lesion": (4, 5)})).read("P").mask_shw
    assert named is not None
    assert named.sum() == MASK.sum()
    with pytest.raises(DataError, match=r"P_seg.nii: mask has values 0, 4, 5, but data.regions names 1, 2, 4"):
        find_source(folder, "auto", DataConfig(regions={"lesion": (1, 2, 4)})).read("P")


PARALLEL = [[-1, -1, 0, 0], [-1, -1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]  # the first two axes
COLOURS = [(colour, "u1") for colour in "RGB"]
REFUSED: dict[str, tuple[Change, str]] = {
    "soft mask": (lambda folder: save(folder, "P_seg.nii", MASK * np.float32(0.3)), "P_seg.nii: mask has values 0.3"),
    "negative mask": (lambda folder: save(folder, "P_seg.nii", -MASK.astype(np.int16)), "mask has values -1"),
    "mask of two": (lambda folder: save(folder, "P_seg.nii", np.stack([MASK] * 2, -1)), "24x24x6x2 voxels, but one"),
    "time series": (lambda folder: save(folder, FLAIR, np.stack([XYZ] * 9, -1)), "a time series of 9 volumes"),
    "a slice": (lambda folder: save(folder, FLAIR, XYZ[..., 0]), "24x24 voxels"),
    "colours": (lambda folder: save(folder, FLAIR, np.zeros(XYZ.shape, COLOURS)), "numbers are needed"),
    "NaN": (lambda folder: save(folder, FLAIR, np.where(XYZ > 0, XYZ, np.nan)), "not finite"),
    "intercept": (lambda r: [put(FLAIR, SLOPE, 2)(r), put(FLAIR, INTERCEPT, np.nan)(r)], "intercept nan"),
    "flat affine": (put(FLAIR, SROW_Y, 0.0), "an axis without length"),
    "parallel axes": (
        lambda folder: nibabel.save(nibabel.Nifti1Image(XYZ, np.array(PARALLEL, float)), folder / FLAIR),
        "axes of its affine lie in one plane",
    ),
    "affine of NaN": (put(FLAIR, SROW_X, np.nan), "affine has values that are not finite"),
    "cut short": (lambda folder: compress(folder, 900), "not a readable NIfTI file"),
    "not compressed": (lambda folder: (folder / FLAIR).rename(folder / "P_flair.nii.gz"), "not a readable NIfTI file"),
    "compressed without a word": (lambda folder: compress(folder, None).rename(folder / FLAIR), "not a readable NIfTI"),
}  # fmt: skip


def compress(folder: Path, length: int | None) -> Path:
    (folder / FLAIR).unlink()
    file = folder / "P_flair.nii.gz"
    save(folder, file.name, XYZ)
    file.write_bytes(file.read_bytes()[:length])
    return file


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_exactly_is_refused_by_name(folder: Path, kind: str) -> None:
    change, words = REFUSED[kind]
    change(folder)
    with pytest.raises(DataError, match=words) as caught:
        read(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.law("L12")
def test_remarks_of_nibabel_name_the_files_and_are_made_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(folder, "P_t1.nii", XYZ)
    for name in (FLAIR, "P_t1.nii"):
        put(name, PIXDIM_1, 0.0)(folder)
    volume = read(folder)
    remarks = [remark for remark in volume.remarks if "pixdim" in remark]
    assert len(remarks) == 1
    assert remarks[0].startswith("P_t1.nii and 1 more: pixdim[1,2,3] should be non-zero")
    find_source(folder, "auto").write_mask("P", np.zeros((6, 24, 24), bool), folder / "out")
    assert "pixdim" not in "".join(capfd.readouterr())


@pytest.mark.law("L12")
@pytest.mark.parametrize("qform", [np.diag([-1.0, -1.0, 3.0, 1.0]), np.diag([1.0, -1.0, 5.0, 1.0])])
def test_two_orientations_are_said(folder: Path, qform: np.ndarray) -> None:
    image = nibabel.Nifti1Image(XYZ, AFFINE)
    image.set_qform(qform, 1)
    image.set_sform(AFFINE, 1)
    nibabel.save(image, folder / FLAIR)
    (remark,) = [remark for remark in read(folder).remarks if "qform" in remark]
    assert remark.startswith("P_flair.nii: qform and sform differ (by up to ")
    image.set_qform(AFFINE, 1)
    nibabel.save(image, folder / FLAIR)
    assert not [remark for remark in read(folder).remarks if "qform" in remark]


@pytest.mark.law("L12")
def test_a_damaged_qform_is_said_where_there_is_an_sform(folder: Path) -> None:
    image = nibabel.Nifti1Image(XYZ, AFFINE)
    image.header["qform_code"] = 1
    nibabel.save(image, folder / FLAIR)
    expected = read(folder)
    put(FLAIR, QUATERN_B, 5.0)(folder)
    volume = read(folder)
    np.testing.assert_array_equal(volume.image_shwc, expected.image_shwc)
    assert [remark for remark in volume.remarks if remark.startswith("P_flair.nii: its qform is damaged (")]
