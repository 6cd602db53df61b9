"""Distances between the surfaces of two volumes, in voxels, since the published slices have no spacing.

MONAI's `get_edge_surface_distance` finds the surface voxels (set, with a face to one that is not, or to the end of the
volume) and their distances. The scores computed from these are those of MONAI's hausdorff_distance (95th percentile,
the larger direction), surface_distance (symmetric) and surface_dice; a test compares them.

Legend: s slice, h height, w width.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

SOURCE = "MONAI (monai.metrics.utils.get_edge_surface_distance)"
NAMES = ("hd95_px", "assd_px", "nsd_1px", "nsd_2px")


def surface_scores(predicted_shw: NDArray[np.bool_], true_shw: NDArray[np.bool_]) -> dict[str, float | None]:
    """HD95, average symmetric surface distance, surface Dice at 1 and 2 voxels; all None where a volume is empty."""
    if not predicted_shw.any() or not true_shw.any():
        return dict.fromkeys(NAMES)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about MONAI's optional accelerators
        from monai.metrics.utils import get_edge_surface_distance

        _, distances, _ = get_edge_surface_distance(
            torch.from_numpy(predicted_shw), torch.from_numpy(true_shw), symmetric=True
        )
    there, back = (np.asarray(d, np.float64) for d in distances)
    both = np.concatenate([there, back])
    return {
        "hd95_px": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "assd_px": float(both.mean()),
        "nsd_1px": float((both <= 1).mean()),
        "nsd_2px": float((both <= 2).mean()),
    }
