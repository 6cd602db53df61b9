"""Grids of NIfTI volumes: turned to axial slices, compared, and brought onto the truth's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from volumes import AFFINE, MASK, as_slices, image, masked, save, save_set, source

from segtrain.config import DataConfig
from segtrain.data.sources import find_source
from segtrain.data.sources.grids import Grid
from segtrain.errors import DataError

DWI_AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])


def isles(root: Path) -> NDArray[np.uint16]:
    """FLAIR on another grid than DWI and truth; returns the truth."""
    truth = np.zeros((10, 10, 8), np.uint16)
    truth[3:6, 4:7, 2:6] = 1
    save(root / "P_FLAIR.nii.gz", image(0, (20, 20, 4)).astype(np.float32), np.diag([-1.0, -1.0, 4.0, 1.0]))
    save(root / "P_dwi.nii.gz", image(1, (10, 10, 8)).astype(np.float64) - 5.7, DWI_AFFINE)
    save(root / "P_msk.nii.gz", truth, DWI_AFFINE)
    return truth


@pytest.mark.law("L12")
def test_another_grid_is_refused_or_brought_onto_the_truth_s(tmp_path: Path) -> None:
    """Case 9: ISLES."""
    truth = isles(tmp_path / "in")
    names: Any = ("FLAIR", "dwi")
    with pytest.raises(DataError) as caught:
        source(tmp_path / "in", contrasts=names).read("P")
    assert str(caught.value) == (
        f"{tmp_path}/in/P_dwi.nii.gz: not on the grid of P_FLAIR.nii.gz (10x10x8 and 20x20x4 voxels); resample the "
        "patient's files to one grid, or set data.resample=truth, which brings images onto the truth's"
    )
    there = source(tmp_path / "in", contrasts=names, resample="truth")
    volume = there.read("P")
    np.testing.assert_array_equal(masked(volume), as_slices(truth))
    assert volume.image_shwc.shape == (8, 10, 10, 2)
    assert volume.spacing_mm == (2.0, 2.0, 2.0)
    flair, dwi = image(0, (20, 20, 4)), image(1, (10, 10, 8)) - 5.7
    np.testing.assert_array_equal(volume.image_shwc[..., 1], as_slices(dwi))
    # Every second voxel in plane, and slices of 4 mm at 0, 4, .. of 2 mm: halfway ones are means.
    expected = flair[::2, ::2].astype(float)
    np.testing.assert_allclose(volume.image_shwc[0, ..., 0], expected[..., 0].T, rtol=1e-6)
    np.testing.assert_allclose(volume.image_shwc[3, ..., 0], expected[..., 1:3].mean(axis=2).T, rtol=1e-6)
    assert any("P_FLAIR.nii.gz: brought onto the grid of P_msk.nii.gz (20x20x4" in remark for remark in volume.remarks)
    (file,) = there.write_mask("P", masked(volume) > 0, tmp_path / "out")
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(file).dataobj), truth)  # type: ignore[attr-defined]


def test_without_truth_images_are_brought_onto_the_first_contrast_s_grid(tmp_path: Path) -> None:
    isles(tmp_path / "in")
    (tmp_path / "in/P_msk.nii.gz").unlink()
    for names, shape in ((("FLAIR", "dwi"), (4, 20, 20, 2)), (("dwi", "FLAIR"), (8, 10, 10, 2))):
        cfg = DataConfig(contrasts=names, resample="truth")
        assert find_source(tmp_path / "in", "nifti", cfg).read("P").image_shwc.shape == shape


@pytest.mark.parametrize("shift_voxels", [(0.5, 0, 0), (0, 0, -0.5), (2, 1, 0)])
def test_images_that_are_shifted_come_to_lie_on_the_truth(tmp_path: Path, shift_voxels: tuple[float, ...]) -> None:
    """A ramp is linear, so that bringing it anywhere is exact inside."""
    ramp = np.add.outer(np.add.outer(3.0 * np.arange(16), 5.0 * np.arange(16)), 7.0 * np.arange(6))
    shifted = AFFINE.copy()
    shifted[:3, 3] = AFFINE[:3, :3] @ shift_voxels
    save(tmp_path / "in/P_flair.nii.gz", ramp - np.dot(shift_voxels, (3, 5, 7)) * -1, shifted)
    save(tmp_path / "in/P_seg.nii.gz", MASK)
    volume = source(tmp_path / "in", resample="truth").read("P")
    inside = volume.image_shwc[2:-2, 3:-3, 3:-3, 0]
    np.testing.assert_allclose(inside, as_slices(ramp)[2:-2, 3:-3, 3:-3], atol=1e-3)


def test_a_spacing_that_is_slightly_off_adds_up_over_the_voxels() -> None:
    one, other = (Grid(Path(f"{mm}.nii"), (240, 240, 155), np.diag([mm, mm, mm, 1.0])) for mm in (1.0, 1.009))
    assert not one.is_same(other)
    assert one.apart(other) == "240x240x155 voxels, but apart by up to 2.1 voxels or 3.3 mm"
    assert one.is_same(replace(other, affine=np.diag([1.001, 1.0, 1.0, 1.0])))


@pytest.mark.law("L12")
def test_half_a_voxel_is_named(tmp_path: Path) -> None:
    """Case 14: OpenMS' masks of the brain."""
    save_set(tmp_path / "in", "P_flair", "P_seg")
    shifted = AFFINE.copy()
    shifted[2, 3] += 1.5
    save(tmp_path / "in/P_seg.nii.gz", MASK, shifted)
    with pytest.raises(
        DataError, match=r"P_seg.* \(16x16x6 voxels, but apart by up to 0.5 voxels or 1.5 mm\); .*=truth"
    ):
        source(tmp_path / "in").read("P")


AXES = [("S", "R", "A"), ("L", "P", "S"), ("R", "A", "S"), ("P", "I", "R")]


@pytest.mark.parametrize("axes", AXES)
def test_slices_are_axial_whatever_the_axes_of_the_file(tmp_path: Path, axes: tuple[str, ...]) -> None:
    """Case 14; the mask of labels goes back into the same voxels."""
    for name, voxels in (("P_flair", image(0)), ("P_seg", MASK)):
        plain = nibabel.Nifti1Image(voxels, AFFINE)
        wanted = nibabel.orientations.axcodes2ornt(axes)
        now = nibabel.orientations.io_orientation(AFFINE)
        turned = plain.as_reoriented(nibabel.orientations.ornt_transform(now, wanted))
        (tmp_path / "in").mkdir(exist_ok=True)
        nibabel.save(turned, tmp_path / f"in/{name}.nii.gz")
    there = source(tmp_path / "in")
    volume = there.read("P")
    np.testing.assert_array_equal(volume.image_shwc[..., 0], as_slices(image(0)))
    np.testing.assert_array_equal(masked(volume), as_slices(MASK))
    assert volume.spacing_mm == (3.0, 1.0, 1.0)
    assert not volume.remarks
    (file,) = there.write_labels("P", masked(volume) * np.uint8(4), tmp_path / "out")
    assert file.name == "P_labels.nii.gz"
    truth = nibabel.load(tmp_path / "in/P_seg.nii.gz")
    written = nibabel.load(file)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.asanyarray(truth.dataobj) * 4)  # type: ignore[attr-defined]
    np.testing.assert_allclose(written.affine, truth.affine)  # type: ignore[attr-defined]


def test_a_qform_alone_is_taken(tmp_path: Path) -> None:
    """Case 14: OpenMS has no sform."""
    save_set(tmp_path / "in", "P_flair", "P_seg")
    expected = source(tmp_path / "in").read("P")
    for name in ("P_flair", "P_seg"):
        file = nibabel.load(tmp_path / f"in/{name}.nii.gz")
        file.set_qform(AFFINE, 1)  # type: ignore[attr-defined]
        file.set_sform(None, 0)  # type: ignore[attr-defined]
        nibabel.save(file, tmp_path / f"in/{name}.nii.gz")
    volume = source(tmp_path / "in").read("P")
    np.testing.assert_array_equal(volume.image_shwc, expected.image_shwc)
    assert not volume.remarks


@pytest.mark.parametrize(("mm", "words"), [((0.8, 0.47, 3.0), "pixels of 0.80 x 0.47 mm"), ((3.0, 3.0, 0.5), None)])
def test_oblong_pixels_are_told_in_mm(tmp_path: Path, mm: tuple[float, ...], words: str | None) -> None:
    for name, voxels in (("P_flair", image(0)), ("P_seg", MASK)):
        save(tmp_path / f"in/{name}.nii.gz", voxels, np.diag([*mm, 1.0]))
    remarks = source(tmp_path / "in").read("P").remarks
    assert [remark.split(",")[0] for remark in remarks] == ([words] if words else [])


def test_the_angle_of_an_oblique_volume_is_told(tmp_path: Path) -> None:
    angle = np.deg2rad(17)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for name, voxels in (("P_flair", image(0)), ("P_seg", MASK)):
        save(tmp_path / f"in/{name}.nii.gz", voxels, turn @ AFFINE)
    assert source(tmp_path / "in").read("P").remarks == (
        "oblique by 17 degrees; slices are cut along the file's own axes",
    )


@pytest.mark.law("L12")
def test_what_differs_between_patients_is_told(tmp_path: Path) -> None:
    """Sets of which one is turned in its headers, and a patient in other units."""
    root = save_set(tmp_path / "in", *(f"P{n}_{name}" for n in range(4) for name in ("flair", "seg")))
    assert source(root).remarks() == ("contrasts: flair",)
    save(root / "P1_flair.nii.gz", image(1), np.diag([1.0, 1.0, 3.0, 1.0]))
    save(root / "P2_flair.nii.gz", image(2), AFFINE * np.array([0.001, 0.001, 0.001, 1])[:, None])
    assert source(root).remarks() == (
        "contrasts: flair",
        "the axes of files differ (LPS: P0, P2, P3; RAS: P1); all are turned by their affines, so look at some of each",
        "patient P2: voxels of 0.003 x 0.001 x 0.001 mm, but 3 x 1 x 1 mm are usual here; check the header",
    )
