"""A store of three nested regions with ignored voxels, made of a store of one region; a network that finds them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segtrain.config import IGNORED, MaskLayout
from segtrain.data.store import Store

REGIONS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
LAYOUT = MaskLayout(tuple(REGIONS), ignores=True)


def nested(mask_shw: NDArray[np.uint8], ignored: bool = True) -> NDArray[np.uint8]:
    """The bits of a whole lesion, its inside and a half of that; beside it some voxels that nobody knows."""
    whole = mask_shw > 0
    core = np.stack([ndimage.binary_erosion(plane) for plane in whole])
    enhancing = core & (np.arange(whole.shape[2]) % 2 == 0)
    bits = np.asarray(whole + 2 * core.astype(np.uint8) + 4 * enhancing.astype(np.uint8), np.uint8)
    if ignored:
        bits[:, :4] = np.where(bits[:, :4] > 0, bits[:, :4], IGNORED)
        bits[1] = IGNORED
    return bits


def store_of_regions(store: Store, folder: Path) -> Store:
    """A store of the same images, with three regions and ignored voxels."""
    shutil.copytree(store.path / "images", folder / "images")
    (folder / "masks").mkdir()
    for patient in store.patients:
        bits = nested(np.load(store.path / "masks" / f"{patient}.npy"))
        np.save(folder / "masks" / f"{patient}.npy", bits)
    return replace(store, path=folder, regions=REGIONS, ignore=(9,), sha256={})


def logits(image_bchw: Tensor) -> Tensor:
    """[b, 3, h, w]: what is bright on FLAIR, brighter, and brightest."""
    return torch.cat([image_bchw[:, 1:2] - above for above in (0.8, 1.2, 1.6)], dim=1)
