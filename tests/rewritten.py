"""A folder of patients in the LGG layout, rewritten in other layouts with the same patients, slices and pixels."""

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import tifffile
from PIL import Image
from predictions import Volume

CONTRASTS = ("pre", "flair", "post")
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # x to the left and y to the back, as columns and rows of slices


def volumes(root: Path) -> Iterator[tuple[str, Volume, Volume]]:
    """Each patient: image uint8 [s, h, w, 3], mask [s, h, w] of 0 and 1."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = [folder / f"{folder.name}_{k}.tif" for k in range(1, len(list(folder.glob("*_mask.tif"))) + 1)]
        image = np.stack([np.asarray(Image.open(path)) for path in files])
        masks = [np.asarray(Image.open(path.with_name(f"{path.stem}_mask.tif"))) for path in files]
        yield folder.name, image, (np.stack(masks) > 0).astype(np.uint8)


def as_nifti(root: Path, out: Path) -> Path:
    """A folder a patient, a file a contrast: `<patient>/<patient>_flair.nii.gz`, the truth in `_seg`."""
    for patient, image, mask in volumes(root):
        for c, contrast in enumerate(CONTRASTS):
            _save(out / patient / f"{patient}_{contrast}.nii.gz", image[..., c])
        _save(out / patient / f"{patient}_seg.nii.gz", mask)
    return out


def as_nnunet(root: Path, out: Path) -> Path:
    """nnU-Net's raw layout, version 2."""
    patients = 0
    for patient, image, mask in volumes(root):
        for c in range(len(CONTRASTS)):
            _save(out / "imagesTr" / f"{patient}_{c:04d}.nii.gz", image[..., c])
        _save(out / "labelsTr" / f"{patient}.nii.gz", mask)
        patients += 1
    about = {
        "channel_names": {str(c): name for c, name in enumerate(CONTRASTS)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": patients,
        "file_ending": ".nii.gz",
    }
    (out / "dataset.json").write_text(json.dumps(about))
    return out


def as_slices_of_16_bits(root: Path, out: Path) -> Path:
    """A folder a patient, colours of 16 bits (257 times the value, so that white stays white), masks beside them."""
    for patient, image, mask in volumes(root):
        (out / patient).mkdir(parents=True)
        for k, (image_hwc, mask_hw) in enumerate(zip(image, mask, strict=True), start=1):
            path = out / patient / f"{patient}_{k}.tif"
            tifffile.imwrite(path, image_hwc.astype(np.uint16) * 257, photometric="rgb")
            tifffile.imwrite(path.with_name(f"{path.stem}_mask.tif"), mask_hw * np.uint8(255))
    return out


def _save(path: Path, volume_shw: Volume) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume_shw.transpose(2, 1, 0), AFFINE), path)
