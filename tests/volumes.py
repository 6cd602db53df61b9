"""Tiny NIfTI data sets under the names of public sets, and sources of them."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from segtrain.config import DataConfig
from segtrain.data.sources import Volume, make_source
from segtrain.data.sources.nifti import NiftiSource

SHAPE = (16, 16, 6)
AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])  # x to the left and y to the back, as columns and rows of slices
MASK = np.zeros(SHAPE, np.uint8)
MASK[5:10, 6:11, 2:5] = 1


def image(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    """Noise in a box, on a background of 0."""
    voxels = np.zeros(shape, np.int16)
    inside = tuple(slice(1, size - 1) for size in shape[:2])
    voxels[inside] = np.random.default_rng(seed).integers(200, 3000, voxels[inside].shape)
    return voxels


def save(path: Path, voxels: NDArray[Any], affine: NDArray[Any] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def save_set(root: Path, *names: str) -> Path:
    """Files by name, below `root`: masks where the name says so, else images, all different; without .nii.gz."""
    for seed, name in enumerate(names):
        is_mask = name.lower().endswith(("seg", "segm", "mask", "msk", "gt", "consensus", "segmentation", "wmh"))
        save(root / f"{name}.nii.gz", MASK if is_mask else image(seed))
    return root


def config(root: Path, **data: Any) -> DataConfig:
    return DataConfig(
        source="nifti", root=str(root), store=str(root.parent / "prepared"), image_size=16, workers=1, **data
    )


def source(root: Path, **data: Any) -> NiftiSource:
    """For training."""
    made = make_source(config(root, **data))
    assert isinstance(made, NiftiSource)
    return made


def taken(root: Path, **data: Any) -> dict[str, dict[str, str]]:
    """The files of each patient by role, below `root` and without .nii.gz."""
    there = source(root, **data)
    return {
        patient: {
            role: str(path.relative_to(root)).removesuffix(".gz").removesuffix(".nii")
            for role, (path,) in there.files_of(patient).items()
        }
        for patient in there.patients()
    }


def masked(volume: Volume) -> NDArray[np.uint8]:
    assert volume.mask_shw is not None
    return volume.mask_shw


def as_slices(voxels_xyz: NDArray[Any]) -> NDArray[Any]:
    """Of a file with AFFINE."""
    return voxels_xyz.transpose(2, 1, 0)
