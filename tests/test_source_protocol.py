"""The protocol of a folder of patients, alike for every source: read for training or prediction, and written back."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from predictions import IMAGE, MASK, pages, write_patient
from rewritten import as_nnunet

from segtrain.config import LGG_CONTRASTS, DataConfig, PhantomConfig
from segtrain.data.patient import Written, prepare_patient
from segtrain.data.sources.base import Source, Volume, fill_missing, missing_contrasts, read_with_mask, stand_in_of
from segtrain.data.sources.open import find_source, make_source
from segtrain.errors import DataError

SIZE_PX = 32
TO_XYZ = (2, 1, 0)  # axes of a NIfTI file of slices: x, y, z


def lgg(root: Path) -> Source:
    write_patient(root, "TCGA_DU_P", IMAGE, MASK)
    return make_source(DataConfig(source="lgg", root=str(root)))


def slices(root: Path) -> Source:
    (root / "P").mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(IMAGE, MASK, strict=True), start=1):
        Image.fromarray(image).save(root / "P" / f"scan{number}.png")
        Image.fromarray(mask * np.uint8(255)).save(root / "P" / f"scan{number}_mask.png")
    return find_source(root, "auto")


def nifti(root: Path) -> Source:
    root.mkdir(parents=True)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])  # x to the left and y to the back, as columns and rows of slices
    for name, volume in (("P.nii.gz", IMAGE.transpose(2, 1, 0, 3)), ("P_seg.nii.gz", MASK.transpose(TO_XYZ))):
        nibabel.save(nibabel.Nifti1Image(volume, affine), root / name)
    return find_source(root, "auto")


def nnunet(root: Path) -> Source:
    write_patient(root.parent / "as_lgg", "P", IMAGE, MASK)
    return find_source(as_nnunet(root.parent / "as_lgg", root), "auto")


def phantom(root: Path) -> Source:
    return make_source(DataConfig(phantom=PhantomConfig(patients=3, size_px=64)))


@dataclass(frozen=True)
class Case:
    """A source, its folder, and the patient in it that has IMAGE and MASK."""

    source: Source
    root: Path
    patient: str


MAKERS: dict[str, Callable[[Path], Source]] = {
    "lgg": lgg, "slices": slices, "nifti": nifti, "nnunet": nnunet, "phantom": phantom,
}  # fmt: skip
# IMAGE is this phantom; the others are made of it.
PATIENTS = {"lgg": "TCGA_DU_P", "slices": "P", "nifti": "P", "nnunet": "P", "phantom": "PHANTOM_0002"}


@pytest.fixture(params=list(MAKERS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    name = str(request.param)
    return Case(MAKERS[name](tmp_path / "in"), tmp_path / "in", PATIENTS[name])


def masked(volume: Volume) -> NDArray[np.uint8]:
    assert volume.mask_shw is not None
    return volume.mask_shw


def test_a_patient_is_read_whole(case: Case) -> None:
    assert case.patient in case.source.patients()
    assert case.source.patients() == sorted(case.source.patients())
    volume = case.source.read(case.patient)
    np.testing.assert_array_equal(volume.image_shwc, IMAGE)
    np.testing.assert_array_equal(masked(volume), MASK)
    assert volume.image_shwc.dtype == masked(volume).dtype == np.uint8
    assert volume.slice_numbers == tuple(range(1, len(IMAGE) + 1))
    assert len(set(volume.slice_names)) == len(IMAGE)
    assert case.source.slices(case.patient) == len(IMAGE)
    assert case.source.label
    assert case.source.institution(case.patient) in ("DU", "unknown", "PHANTOM")


def test_another_process_reads_the_same(case: Case) -> None:
    sent: Source = pickle.loads(pickle.dumps(case.source))
    np.testing.assert_array_equal(sent.read(case.patient).image_shwc, IMAGE)


@pytest.mark.law("L11")
def test_the_fingerprint_is_that_of_the_content(case: Case) -> None:
    before, stamp = case.source.fingerprint(), case.source.stamp()
    for file in [path for path in case.root.rglob("*") if path.is_file()][:1]:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
        assert case.source.fingerprint() == before
        assert case.source.stamp() != stamp
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        assert case.source.fingerprint() != before
    assert case.source.fingerprint() == case.source.fingerprint()
    assert case.source.stamp() == case.source.stamp()


def test_masks_and_probabilities_come_back(case: Case, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask_shw, probability_shw = rng.random(MASK.shape) > 0.5, rng.random(MASK.shape, np.float32)
    written = [as_slices(path) for path in case.source.write_mask(case.patient, mask_shw, tmp_path / "out")]
    np.testing.assert_array_equal(np.concatenate(written) > 0, mask_shw)
    file = case.source.write_probability(case.patient, probability_shw, tmp_path / "probabilities")
    np.testing.assert_array_equal(as_slices(file), probability_shw)


def as_slices(path: Path) -> NDArray[np.generic]:
    """[s, h, w] of an image, a TIFF with pages, or a NIfTI file of `nifti`."""
    if path.name.endswith(".nii.gz"):
        image: nibabel.Nifti1Image = nibabel.load(path)  # type: ignore[assignment]
        return np.asanyarray(image.dataobj).transpose(TO_XYZ)
    return pages(path)


def test_any_source_can_be_prepared_for_training(case: Case, tmp_path: Path) -> None:
    """The same patient gives the same files of a store, whatever the source."""
    expected = prepare(phantom(tmp_path), PATIENTS["phantom"], tmp_path / "expected")
    prepared = prepare(case.source, case.patient, tmp_path / "prepared")
    assert prepared.entry.areas == expected.entry.areas
    assert prepared.entry.geometry == expected.entry.geometry
    for kind in ("images", "masks"):
        theirs = tmp_path / "expected" / kind / f"{PATIENTS['phantom']}.npy"
        ours = tmp_path / "prepared" / kind / f"{case.patient}.npy"
        assert ours.read_bytes() == theirs.read_bytes()


def prepare(source: Source, patient: str, folder: Path) -> Written:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    outcome = prepare_patient(source, patient, DataConfig(image_size=SIZE_PX), folder)
    assert isinstance(outcome, Written), outcome
    return outcome


@pytest.mark.law("L12")
def test_training_needs_a_mask_and_prediction_does_not(case: Case) -> None:
    for file in [*case.root.rglob("*_mask.*"), *case.root.rglob("*_seg.*"), *case.root.glob("labelsTr/*")]:
        file.unlink()
    if not case.root.exists():
        pytest.skip("phantoms always have a mask")
    assert case.source.read(case.patient).mask_shw is None
    with pytest.raises(DataError, match=rf"patient {case.patient}: has no mask .* add its masks"):
        read_with_mask(case.source, case.patient)


@pytest.mark.law("L12")
@pytest.mark.parametrize("blank", [(), (2,), (0, 2)])
def test_flair_is_put_in_place_of_a_blank_contrast_for_prediction_alone(blank: tuple[int, ...]) -> None:
    image = IMAGE.copy()
    image[..., list(blank)] = 0
    volume = Volume(image, None, (), (), ("a remark",))
    names = tuple(("pre-contrast", "FLAIR", "post-contrast")[c] for c in blank)
    filled = fill_missing(volume, LGG_CONTRASTS, stand_in_of(DataConfig(), LGG_CONTRASTS), "patient P")
    assert filled.remarks == ("a remark", *(f"{name} is missing, FLAIR stands in for it" for name in names))
    assert missing_contrasts(filled.image_shwc) == names
    assert missing_contrasts(image) == ()
    for c in range(3):
        np.testing.assert_array_equal(filled.image_shwc[..., c], IMAGE[..., 1 if c in blank else c])
    assert not image[..., list(blank)].any(), "the source's volume stays as it is"
