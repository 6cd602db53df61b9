"""Hand-made lesions, and their scores worked out by naive loops over whole volumes."""

import math
from typing import Any

import numpy as np
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from scipy import ndimage

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
SHAPE = (6, 24, 24)


def volume(*boxes: Box, shape: tuple[int, int, int] = SHAPE) -> Any:
    """Boxes of voxels, each as (first, end) by slice, row and column."""
    volume_shw = np.zeros(shape, bool)
    for (s0, s1), (h0, h1), (w0, w1) in boxes:
        volume_shw[s0:s1, h0:h1, w0:w1] = True
    return volume_shw


def components(volume_shw: Any) -> list[Any]:
    """Each component, joined by faces, edges and corners, as a volume; by flood fill, not by scipy's labels."""
    left = {tuple(place) for place in np.argwhere(volume_shw).tolist()}
    found = []
    while left:
        stack, component = [left.pop()], np.zeros_like(volume_shw)
        while stack:
            s, h, w = stack.pop()
            component[s, h, w] = True
            near = {(s + a, h + b, w + c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)} & left
            left -= near
            stack += near
        found.append(component)
    return found


def naive_hd95(predicted_shw: Any, true_shw: Any, spacing_mm: Any) -> tuple[float, float]:
    """DeepMind's robust Hausdorff distance, from all pairs of surfels, with MONAI's copy of its table of areas.

    Twice, with a little less and a little more than 95%: sums of areas are rounded.
    """
    table, _ = create_table_neighbour_code_to_surface_area(spacing_mm)  # type: ignore[no-untyped-call]
    surfaces = []
    for volume_shw in (predicted_shw, true_shw):
        around = np.lib.stride_tricks.sliding_window_view(np.pad(volume_shw, 1), (2, 2, 2)).reshape(-1, 8)
        shape = [length + 1 for length in volume_shw.shape]
        surfel = np.flatnonzero(around.any(1) & ~around.all(1))
        codes = (around[surfel] * 2 ** np.arange(7, -1, -1)).sum(1)
        places = np.stack(np.unravel_index(surfel, shape), 1) * spacing_mm
        surfaces.append((places, table.numpy()[codes].astype(float)))
    (p, p_areas), (t, t_areas) = surfaces
    pairs = np.sqrt(((p[:, None] - t[None]) ** 2).sum(-1)).round(9)
    reaches = []
    for wanted in (0.95 - 1e-5, 0.95 + 1e-5):
        sides = ((pairs.min(1), p_areas), (pairs.min(0), t_areas))
        reaches.append(max(min(d for d in ds if areas[ds <= d].sum() >= wanted * areas.sum()) for ds, areas in sides))
    return reaches[0], reaches[1]


def naive_scores(predicted_shw: Any, true_shw: Any, steps: int, small_mm3: float, spacing_mm: Any) -> dict[str, Any]:
    """BraTS 2023's rules as its README has them, one lesion after the other; of HD95 two ends that it lies between."""
    voxel_mm3 = float(np.prod(spacing_mm))
    structure = ndimage.generate_binary_structure(3, 2)

    def grown(shape: Any) -> Any:
        return ndimage.binary_dilation(shape, structure, steps) if steps else shape

    # Step 2: true components within one component of the dilated truth are one lesion; its voxels do not change.
    lesions = [zone & true_shw for zone in components(grown(true_shw))]
    parts = components(predicted_shw)
    dice, hd95, touched, wanted = [], [], set(), set()
    found = 0
    for lesion in lesions:
        near = {number for number, part in enumerate(parts) if (part & grown(lesion)).any()}
        touched |= near
        if lesion.sum() * voxel_mm3 <= small_mm3:
            continue  # step 5
        wanted |= near
        found += bool(near)
        union = np.any([parts[number] for number in near], axis=0) if near else np.zeros_like(true_shw)
        dice.append(2 * (union & lesion).sum() / (union.sum() + lesion.sum()))
        hd95.append(naive_hd95(union, lesion, spacing_mm) if near else (374.0, 374.0))
    false = len(parts) - len(touched)
    predicted, counted = len(wanted) + false, len(dice)
    recall = found / counted if counted else None
    precision = len(wanted) / predicted if predicted else None
    return {
        "lesions": counted,
        "lesions_found": found,
        "lesions_predicted": predicted,
        "lesions_false": false,
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": 2 / (1 / recall + 1 / precision) if recall and precision else float(not counted and not predicted),
        "lesion_dsc": math.fsum(dice) / (counted + false) if counted + false else 1.0,  # step 4
        "hd95": [(math.fsum(end) + 374 * false) / (counted + false) for end in zip(*hd95, strict=True)]
        or ([374.0] * 2 if false else [0.0] * 2),
    }
