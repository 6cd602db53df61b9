"""Hand-made lesions, and their scores worked out by naive loops over whole volumes."""

import math
from typing import Any

import numpy as np
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


def naive_scores(predicted_shw: Any, true_shw: Any, steps: int, small_mm3: float, voxel_mm3: float) -> dict[str, Any]:
    """BraTS 2023's rules as its README has them, one lesion after the other."""
    structure = ndimage.generate_binary_structure(3, 2)

    def grown(shape: Any) -> Any:
        return ndimage.binary_dilation(shape, structure, steps) if steps else shape

    # Step 2: true components within one component of the dilated truth are one lesion; its voxels do not change.
    lesions = [zone & true_shw for zone in components(grown(true_shw))]
    parts = components(predicted_shw)
    dice, touched, wanted = [], set(), set()
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
    }
