"""`segtrain predict` of NIfTI volumes: masks on the grid of the input, the same as of the same patient's slices."""

import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel
import numpy as np
import pytest
from predictions import IMAGE, MASK, Volume, lgg_mask, pages, predict, table, write_patient

from segtrain.commands.predict import command
from segtrain.data.sources.levels import one_range
from segtrain.data.sources.open import find_source
from segtrain.errors import ConfigError
from segtrain.run import Run
from segtrain.runtime.process import run_command

# A file's axes in any order and direction, oblique, anisotropic.
DIRECTIONS = np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]], float)  # of s, h, w in millimetres (x, y, z): S, P, L
SPACING_MM = np.array([5.0, 0.9, 0.9])  # of s, h, w
LAYOUTS = [((2, 1, 0), (1, 1, 0)), ((2, 1, 0), (0, 0, 0)), ((0, 1, 2), (1, 0, 1)), ((1, 0, 2), (0, 1, 0))]


def oblique(degrees: float) -> Volume:
    angle = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    about_z = about_x[[2, 1, 0]][:, [2, 1, 0]]
    return np.asarray(about_x @ about_z)


def as_file(volume_shw: Volume, axes: tuple[int, ...], flips: tuple[int, ...], degrees: float) -> tuple[Volume, Volume]:
    """The volume with its axes (0 s, 1 h, 2 w) in this order, some turned round, and the affine of that, by hand."""
    rest = tuple(range(3, volume_shw.ndim))
    turned = np.flip(np.transpose(volume_shw, (*axes, *rest)), tuple(k for k in range(3) if flips[k]))
    steps = np.stack([DIRECTIONS[a] * SPACING_MM[a] * (-1 if flip else 1) for a, flip in zip(axes, flips, strict=True)])
    affine = np.eye(4)
    affine[:3, :3] = oblique(degrees) @ steps.T
    affine[:3, 3] = (-80.5, 31, 7.25)
    return turned, affine


def back(volume_xyz: Volume, axes: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    return np.transpose(np.flip(volume_xyz, tuple(k for k in range(3) if flips[k])), np.argsort(axes))


def save(path: Path, volume_xyz: Volume, affine: Volume) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(volume_xyz, affine)
    image.header["descrip"] = b"scanner of the test"
    image.set_sform(affine, code=4)
    nibabel.save(image, path)


def load(path: Path) -> tuple[Volume, Any]:
    image: Any = nibabel.load(path)
    return np.asanyarray(image.dataobj), image


@pytest.mark.parametrize(("axes", "flips"), LAYOUTS)
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_a_volume_s_mask_lies_on_its_grid(
    trained_run: Run, predicted_patient: Path, tmp_path: Path, axes: Any, flips: Any, degrees: float
) -> None:
    volume, affine = as_file(IMAGE, axes, flips, degrees)
    truth, _ = as_file(MASK, axes, flips, degrees)
    save(tmp_path / "in/P.nii.gz", volume, affine)
    save(tmp_path / "in/P_seg.nii.gz", truth * np.uint8(2), affine)
    out = predict(trained_run, tmp_path / "in", tmp_path / "out", "--probabilities")
    found, mask = load(out / "masks/P_mask.nii.gz")
    assert (found.shape, found.dtype) == (volume.shape[:3], np.dtype(np.uint8))
    assert set(np.unique(found)) == {0, 1}
    np.testing.assert_array_equal(mask.affine, load(tmp_path / "in/P.nii.gz")[1].affine)
    assert (int(mask.header["sform_code"]), mask.header["descrip"].item()) == (4, b"scanner of the test")
    np.testing.assert_array_equal(back(found, axes, flips) > 0, lgg_mask(predicted_patient))
    probability, _ = load(out / "probabilities/P.nii.gz")
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(back(probability, axes, flips), pages(predicted_patient / "probabilities/P.tif"))
    ours, theirs = table(out / "scores.csv"), table(predicted_patient / "scores.csv")
    assert ours == theirs
    with ZipFile(out / "predictions.zip") as archive:
        assert {"masks/P_mask.nii.gz", "probabilities/P.nii.gz", "sheets/P.png", "dsc.png"} <= set(archive.namelist())


NAMES = [("pre", "flair", "post"), ("t1", "flair", "t1ce"), ("t1n", "t2f", "t1c")]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("nested", ["P/P_{}.nii", "P-{}.nii", "P/{}.nii"])
def test_a_file_a_contrast(trained_run: Run, predicted_patient: Path, tmp_path: Path, names: Any, nested: str) -> None:
    axes, flips = LAYOUTS[0]
    for c, name in enumerate(names):
        save(tmp_path / "in" / nested.format(name), *as_file(IMAGE[..., c], axes, flips, 5))
    save(tmp_path / "in" / nested.format("t2w"), *as_file(IMAGE[..., 0], axes, flips, 5))
    out = predict(trained_run, tmp_path / "in", tmp_path / "out")
    found, _ = load(out / "masks/P_mask.nii")
    np.testing.assert_array_equal(back(found, axes, flips) > 0, lgg_mask(predicted_patient))
    assert not (out / "scores.csv").exists()


@pytest.mark.parametrize("kind", ["file", "blank volume", "blank slices", "both"])
def test_flair_stands_in_for_a_missing_contrast_and_it_is_said(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """As if FLAIR had been in its place, which is how the published data has it."""
    channels = [1, 1, 1] if kind == "both" else [0, 1, 1]
    write_patient(tmp_path / "as published", "P", IMAGE[..., channels], None)
    as_published = predict(trained_run, tmp_path / "as published", tmp_path / "expected", "--probabilities")
    assert "P: post-contrast is missing, FLAIR stands in for it" in capsys.readouterr().err
    blank = IMAGE.copy()
    blank[..., 2] = 0
    axes, flips = LAYOUTS[0]
    if kind == "blank slices":
        write_patient(tmp_path / "in", "P", blank, None)
    elif kind == "blank volume":
        save(tmp_path / "in/P.nii", *as_file(blank, axes, flips, 0))
    else:
        for c, name in enumerate(("pre", "flair")[kind == "both" :], start=kind == "both"):
            save(tmp_path / "in" / f"P_{name}.nii", *as_file(IMAGE[..., c], axes, flips, 0))
    out = predict(trained_run, tmp_path / "in", tmp_path / "out", "--probabilities")
    said = capsys.readouterr().err
    assert "P: post-contrast is missing, FLAIR stands in for it" in said
    assert ("pre-contrast is missing" in said) == (kind == "both")
    file = next((out / "probabilities").iterdir())
    found = pages(file) if file.suffix == ".tif" else back(load(file)[0], axes, flips)
    np.testing.assert_array_equal(found, pages(as_published / "probabilities/P.tif"))


def test_other_intensities_are_brought_to_16_bits(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each contrast in its own unit, a few voxels far too bright: as the 8-bit image, up to rounding and one scale."""
    axes, flips = LAYOUTS[1]
    for c, (name, unit) in enumerate((("pre", 3.5), ("flair", 17.0), ("post", 0.01))):
        contrast = IMAGE[..., c].astype(np.float32)
        contrast[0, 0, :4] = 10_000
        save(tmp_path / "in" / f"P_{name}.nii.gz", *as_file(contrast * np.float32(unit) - 5, axes, flips, 0))
    volume = one_range(find_source(tmp_path / "in", "auto").read("P"))
    assert volume.image_shwc.dtype == np.uint16
    for c in range(3):
        values = IMAGE[..., c].astype(float)
        values[0, 0, :4] = 10_000
        top = np.quantile(values[values > values.min()], 0.999)
        expected = np.clip((values - values.min()) / (top - values.min()) * 65535, 0, 65535)
        assert np.abs(volume.image_shwc[..., c] - expected).max() < 0.6
    predict(trained_run, tmp_path / "in", tmp_path / "out")
    assert "intensities scaled to 16 bits" in capsys.readouterr().err


def test_what_a_header_leaves_in_doubt_is_said(tmp_path: Path) -> None:
    labels = np.transpose(MASK, (2, 1, 0)).copy()
    labels[tuple(np.argwhere(labels)[0])] = 2
    for name, voxels in (("P", np.transpose(IMAGE, (2, 1, 0, 3))), ("P_seg", labels)):
        image = nibabel.Nifti1Image(voxels, None)
        image.header.set_zooms((1.0, 2.0, 3.0, 1.0)[: voxels.ndim])
        nibabel.save(image, tmp_path / f"{name}.nii")
    volume = find_source(tmp_path, "auto").read("P")
    remarks = " ".join(volume.remarks)
    for words in ("no orientation", "1.00 x 2.00 mm", "labels 1, 2 all count"):
        assert words in remarks
    assert volume.mask_shw is not None
    assert (volume.image_shwc.shape, volume.mask_shw.sum()) == (IMAGE.shape, MASK.sum())


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("flair", "has no FLAIR"),
        ("unused", "0 patients with pre-contrast, FLAIR, post-contrast"),
        ("grid", "not on the grid of P_flair.nii"),
        ("shape", "not on the grid of P_flair.nii"),
        ("channels", "[x, y, z, 3] of pre-contrast, FLAIR, post-contrast"),
        ("both", "a volume beside files of contrasts"),
        ("twice", "a second pre-contrast of patient P"),
        ("nan", "not finite"),
        ("broken", "not a readable NIfTI"),
        ("short", "not a readable NIfTI"),
        ("kind", "numbers are needed"),
    ],
)
def test_volumes_that_do_not_fit_are_named(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, words: str
) -> None:
    flair, affine = as_file(IMAGE[..., 1], *LAYOUTS[0], 0)
    nan = np.where(flair > 100, np.nan, flair).astype(np.float32)
    volumes: dict[str, list[tuple[str, Volume, Volume]]] = {
        "flair": [("pre", flair, affine)],
        "unused": [("t2w", flair, affine)],
        "grid": [("flair", flair, affine), ("pre", flair, affine + 0.1 * np.eye(4, k=1))],
        "shape": [("flair", flair, affine), ("pre", flair[:-1], affine)],
        "channels": [("volume", np.stack([flair] * 2, -1), affine)],
        "both": [("flair", flair, affine), ("volume", np.stack([flair] * 3, -1), affine)],
        "twice": [("flair", flair, affine), ("pre", flair, affine), ("t1", flair, affine)],
        "nan": [("flair", flair, affine), ("pre", nan, affine)],
        "broken": [("flair", flair, affine), ("pre", flair, affine)],
        "short": [("flair", flair, affine), ("pre", flair, affine)],
        "kind": [("flair", flair.astype(np.complex64), affine)],
    }
    folder = tmp_path / "in"
    for name, voxels, its_affine in volumes[fault]:
        save(folder / ("P.nii" if name == "volume" else f"P_{name}.nii"), voxels, its_affine)
    if fault in ("broken", "short"):
        whole = (folder / "P_pre.nii").read_bytes()
        (folder / "P_pre.nii").write_bytes(whole[:5000] if fault == "short" else b"nothing of the kind")
    arguments = [str(trained_run.root), "--images", str(folder), "--out", str(tmp_path / "out")]
    assert run_command(command, arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("segtrain: error: ")
    assert words in last
    assert not (tmp_path / "out").exists()


def test_without_nibabel_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "P.nii", *as_file(IMAGE, *LAYOUTS[0], 0))
    for name in ("nifti", "volumes"):
        monkeypatch.delitem(sys.modules, f"segtrain.data.sources.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ConfigError, match="pip install nibabel"):
        find_source(tmp_path, "auto")
